"""Few-step students, by one recipe for every size: what it is, its sources and its settings are in docs/training.md.

recipe.py says what is done for how long; student.py what a size has to know for it; segments.py, matching.py, loss.py
are the losses, train.py the phases in their order.
"""
