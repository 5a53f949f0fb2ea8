"""A stream as the store has it in memory: its writer, what waits to be written, and who waits for what.

State only; what is done to it is the store's.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from actors.logs.errors import LogError
from actors.logs.fresh import Fresh
from actors.logs.line import Batch
from actors.logs.segment import Closed
from actors.logs.stream import StreamLog
from actors.logs.view import Appended, StreamView


class Pending(NamedTuple):
    """A batch, or a stream's end, that is not durable yet; `size` in bytes."""

    item: Batch | Closed
    size: int
    future: "asyncio.Future[Appended]"


class Entry:
    """A stream in memory. `log` is used only under `lock`; `users` wait for it and keep it in memory."""

    def __init__(self, log: StreamLog, fresh: Fresh) -> None:
        self.log = log
        self.view: StreamView | None = None
        self.fresh = fresh
        self.pending: deque[Pending] = deque()
        self.lock = asyncio.Lock()
        self.queued = False
        self.changed = asyncio.Event()
        self.users = 0
        self.moved = False

    def keep_fresh(self, items: Sequence[Batch | Closed], answers: Sequence[Appended | LogError]) -> None:
        """What of `items`, by their answers, is durable now may be read from memory."""
        for item, answer in zip(items, answers, strict=True):
            if isinstance(item, Batch) and isinstance(answer, Appended) and not answer.duplicate:
                self.fresh.add(item, answer.first, answer.next_number)
