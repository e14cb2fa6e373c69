"""The HTTP surface, one file a resource. See docs/server.md for the whole of it."""
