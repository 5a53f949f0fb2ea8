"""How many builds a node runs at once, over all of its builders: a file for each, and a lock on it while a build runs.

The kernel lets go of a lock with its process, so that a builder that was killed leaves no slot taken.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

POLL_SECONDS = 0.2


class Slots(Protocol):
    """Room for builds."""

    async def acquire(self) -> Callable[[], None]:
        """Wait for room; returns what gives it back."""
        ...


class NodeSlots:
    """`count` slots below `directory`, shared with whoever else uses that directory."""

    def __init__(self, directory: Path, count: int) -> None:
        self._directory = directory
        self._count = count

    async def acquire(self) -> Callable[[], None]:
        """See Slots."""
        while True:
            for index in range(self._count):
                lock = self._try(index)
                if lock is not None:
                    return lambda: os.close(lock)
            await asyncio.sleep(POLL_SECONDS)

    def _try(self, index: int) -> int | None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._directory / str(index), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock
