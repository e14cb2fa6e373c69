"""Where pairs go: live sinks and files."""
