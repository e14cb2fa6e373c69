"""Published checkpoints of the EMO family: their configs, the names of their weights, and their pipelines' habits."""
