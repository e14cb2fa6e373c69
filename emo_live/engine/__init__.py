"""Speech in, pictures out: the rolling window, the tensor backends under it, and a test pattern for timing tests."""
