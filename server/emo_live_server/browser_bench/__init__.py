"""Measures in a real Chromium what a viewer gets: how far sound and picture are apart, and how evenly pictures come.

Chromium is driven through playwright; both are only needed for this. Nothing else of the server imports this package.
"""
