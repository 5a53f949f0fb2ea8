"""The shim: one small process per instance that outlives the platform, holds the pipes and records the exit.

Imports the standard library only, and of that only what is small; knows nothing of Ray, msgspec or asyncio.
"""
