"""Ends what takes too long, with one timer for all: one each costs more than the rest of most requests' way in.

Knows tasks and seconds; nothing of requests.
"""

import asyncio
from types import TracebackType

LOOK_SECONDS = 0.5  # between two looks: so much later than its time something may be ended


class Deadlines:
    """Of one event loop. `with deadlines.within(60.0):` raises TimeoutError out of what takes longer."""

    def __init__(self) -> None:
        self._running: set[Within] = set()
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> "Within":
        """What is done in it, by the present task, has so long."""
        return Within(self, seconds)

    def add(self, within: "Within") -> None:
        """Look after it until it is `left`."""
        self._running.add(within)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def left(self, within: "Within") -> None:
        """It has ended, one way or another."""
        self._running.discard(within)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for within in self._running:
            within.end_if_late(now)
        self._timer = loop.call_later(LOOK_SECONDS, self._look) if self._running else None


class Within:
    """One stretch of a task; cancelled when it is late, as `asyncio.timeout` does it."""

    __slots__ = ("_cancelling", "_deadline", "_deadlines", "_expired", "_seconds", "_task")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- a coroutine runs in one
        self._task = task
        self._cancelling = task.cancelling()
        self._deadline = asyncio.get_running_loop().time() + self._seconds
        self._deadlines.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.left(self)
        # Somebody else may have cancelled it as well: that must go on.
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end_if_late(self, now: float) -> None:
        """Cancel it, once, when `now` (the loop's time) is after its deadline."""
        if now >= self._deadline and not self._expired:
            self._expired = True
            self._task.cancel()
