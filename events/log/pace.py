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

    async def turn(self) -> None:
        """Wait until the next may begin."""
        loop = asyncio.get_running_loop()
        while (early := self._paid_until - self._ahead - loop.time()) > 0:  # noqa: ASYNC110 - time is what it waits for
            await asyncio.sleep(early)

    def began(self) -> None:
        """One has."""
        self._paid_until = max(self._paid_until, asyncio.get_running_loop().time()) + self._seconds
