"""Streams that have something to commit, one team after the other, and of each team one stream after the other.

Knows names only.
"""

import asyncio
from collections import OrderedDict, deque


class Ready:
    """A queue of streams that is fair to teams: one with a thousand streams waits as long as one with a single one."""

    def __init__(self) -> None:
        self._teams: OrderedDict[str, deque[str]] = OrderedDict()
        self._count = asyncio.Semaphore(0)

    def put(self, stream: str, team: str) -> None:
        """`stream` waits from now on; it is in the queue once at most, which is the caller's care."""
        self._teams.setdefault(team, deque()).append(stream)
        self._count.release()

    async def get(self) -> str:
        """Wait for the stream whose turn it is."""
        await self._count.acquire()
        team, streams = next(iter(self._teams.items()))
        stream = streams.popleft()
        if streams:
            self._teams.move_to_end(team)
        else:
            del self._teams[team]
        return stream
