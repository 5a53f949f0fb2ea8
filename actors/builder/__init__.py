"""Builds: source in, content-addressed artifact out. Plain asyncio; knows nothing of Ray, of the log, or of HTTP."""
