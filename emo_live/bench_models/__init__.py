"""Benchmarks of the networks, with random weights: against diffusers on a CPU, and stage by stage on a GPU."""
