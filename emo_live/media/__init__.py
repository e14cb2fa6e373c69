"""Pictures and sound on their way to a sink. Knows nothing of models."""
