"""Sound on its way in: opening files, and cutting speech into 40 ms steps."""
