"""How often something may begin: a burst at once, then one each so many seconds.

The generic cell rate algorithm (ITU-T I.371): one number is all it keeps. Knows the loop's clock only.
"""

import asyncio


class Pace:
    """For one event loop. Those who wait for the same turn have it together."""

    def __init__(self, *, seconds: float, burst: int) -> None:
        """`burst` may begin at once after a rest of `burst * seconds`."""
        self._seconds = seconds
        self._ahead = (burst - 1) * seconds
        self._paid_until = 0.0  # on the loop's clock: what has begun is paid for up to here
        self._next: asyncio.Event | None = None

    async def turn(self) -> None:
        """Wait until the next may begin."""
        if self._next is None:
            if self._early() <= 0:
                return
            self._next = asyncio.Event()
            self._wait(self._next)
        await self._next.wait()

    def began(self) -> None:
        """One has."""
        self._paid_until = max(self._paid_until, asyncio.get_running_loop().time()) + self._seconds

    def _early(self) -> float:
        return self._paid_until - self._ahead - asyncio.get_running_loop().time()

    def _wait(self, turn: asyncio.Event) -> None:
        """One timer for everyone. Whoever comes before it has fired waits for it too: where the loop is late he would
        begin at once, and those who waited longer would find that the turn had been his."""
        asyncio.get_running_loop().call_at(self._paid_until - self._ahead, self._open, turn)

    def _open(self, turn: asyncio.Event) -> None:
        if self._early() > 0:
            self._wait(turn)
        else:
            self._next = None
            turn.set()
