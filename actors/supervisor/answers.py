"""Those who wait for replies, each for the same time, with one timer for all: a time-out each costs more than deciding.

Knows futures of replies; nothing of what they wait for.
"""

import asyncio
from collections import deque
from typing import NamedTuple

from events.model.base import Reply


class _Waiting(NamedTuple):
    deadline: float
    command_id: str
    waiter: "asyncio.Future[Reply]"


class Answers:
    """Gives replies as they become known, or after `seconds` that they are not known yet."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def in_time(self, command_id: str, known: "asyncio.Future[Reply]") -> "asyncio.Future[Reply]":
        """What `known` becomes, or that it has not. To cancel it leaves `known` alone."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Reply] = loop.create_future()

        def pass_on(done: "asyncio.Future[Reply]") -> None:
            if not waiter.done():
                waiter.set_result(done.result())

        known.add_done_callback(pass_on)
        while self._waiting and self._waiting[0].waiter.done():
            self._waiting.popleft()
        self._waiting.append(_Waiting(loop.time() + self._seconds, command_id, waiter))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire)
        return waiter

    def close(self) -> None:
        """Have no timer any more; whoever still waits is answered by what it waits for."""
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and (self._waiting[0].waiter.done() or self._waiting[0].deadline <= loop.time()):
            late = self._waiting.popleft()
            if not late.waiter.done():
                message = "the log did not confirm in time; repeat with the same id to learn the outcome"
                late.waiter.set_result(Reply(command_id=late.command_id, error="unavailable", error_message=message))
        self._timer = loop.call_at(self._waiting[0].deadline, self._expire) if self._waiting else None
