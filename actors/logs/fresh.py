"""The newest lines of a stream, kept in memory while somebody tails it: what was just stored is not read back for each.

Knows batches as they were stored and the numbers they were given; nothing of disks, sockets or filters.
"""

from collections import deque
from typing import NamedTuple

from actors.logs.line import Batch, LogLine, numbered
from actors.logs.segment import records_of

FRESH_BYTES = 64 * 1024
"""Of one stream, as they are stored but not compressed; a tail that lags by more reads from disk."""
FRESH_BYTES_ALL = 32 * 1024 * 1024
"""Of all streams together; beyond it a stream's lines are read from disk."""


class FreshBudget:
    """What all streams of a store have in memory, bytes."""

    def __init__(self) -> None:
        self.used = 0


class _Stored:
    """A stored batch; its lines are taken apart once, by the first tail that wants them."""

    __slots__ = ("_batch", "_lines", "first", "next_number", "size")

    def __init__(self, batch: Batch, first: int, next_number: int) -> None:
        self._batch = batch
        self._lines: list[LogLine] | None = None
        self.first = first
        self.next_number = next_number
        self.size = len(batch.blob)

    def lines(self) -> list[LogLine]:
        if self._lines is None:
            number, lines = self.first, []
            for record in records_of(self._batch.origin, self._batch.blob):
                lines.append(numbered(record, number))
                number = lines[-1].next_number
            self._lines = lines
        return self._lines


class FreshLines(NamedTuple):
    """Lines in order, and the number that follows them."""

    lines: list[LogLine]
    next_number: int


class Fresh:
    """Of one stream. Batches are added as they become durable, in order; `tails` is how many read along now."""

    def __init__(self, budget: FreshBudget) -> None:
        self.tails = 0
        self._budget = budget
        self._kept: deque[_Stored] = deque()
        self._bytes = 0

    def add(self, batch: Batch, first: int, next_number: int) -> None:
        """Keep a batch that took the numbers `first` … `next_number - 1`, where anybody reads along."""
        if not self.tails or next_number == first:
            return
        if self._kept and self._kept[-1].next_number != first:
            self.clear()
        self._kept.append(_Stored(batch, first, next_number))
        self._count(len(batch.blob))
        while self._kept and (self._bytes > FRESH_BYTES or self._budget.used > FRESH_BYTES_ALL):
            self._count(-self._kept.popleft().size)

    def read(self, start: int, limit: int) -> FreshLines | None:
        """The lines from the number `start` on, whole batches, about `limit` at most; None where they are not here."""
        if not self._kept or not self._kept[0].first <= start < self._kept[-1].next_number:
            return None
        lines: list[LogLine] = []
        cursor = start
        for stored in self._kept:
            if stored.next_number > start:
                if lines and len(lines) + stored.next_number - stored.first > limit:
                    break
                lines += stored.lines()
                cursor = stored.next_number
        return FreshLines([line for line in lines if line.next_number > start], cursor)

    def clear(self) -> None:
        """Keep nothing."""
        self._count(-self._bytes)
        self._kept.clear()

    def _count(self, change: int) -> None:
        self._bytes += change
        self._budget.used += change
