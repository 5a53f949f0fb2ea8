"""Logs: every line numbered, kept, found and followed. Knows nothing of Ray; a thin actor wraps it elsewhere."""
