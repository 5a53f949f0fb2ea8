"""What the log's own machinery needs of a place that keeps batches: pages of them, their arrival, one slot at a time.

The seam between the shared writer and reader and an adapter (memory, etcd); other packages use port.py instead.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from events.log.archive.manifest import SegmentManifest
from events.log.errors import LogError

PAGE_OFFSETS = 4096
"""A page covers base keys in [base, base + 4096): the tight bound keeps etcd from walking its whole index."""
PAGE_BATCHES = 256
"""At most this many batches in a page: 64 MiB if each were at its cap."""

MANIFESTS_AT_ONCE = 500
DELETES_AT_ONCE = 100
"""etcd takes at most 128 operations in a transaction."""


class StoredBatch(NamedTuple):
    """An encoded batch as kept under its base offset."""

    base: int
    revision: int
    value: bytes


class SeenLow(NamedTuple):
    """A partition's low mark as read: every batch from `first_hot` on is hot, everything before it is in segments.

    `revision` names this very version of it, 0 while nothing was ever archived. `first_hot` only grows, and a batch
    always begins there: the last one is never archived.
    """

    first_hot: int
    revision: int


class BatchSlots(Protocol):
    """One claimed partition's right to write batches."""

    async def commit(self, *, base: int, previous: int | None, txn_id: str, value: bytes) -> int:
        """Put `value` at `base` if the claim still holds, `previous` exists and the slot is free; returns the revision.

        Goes on until the outcome is *known*, however long that takes, and is idempotent by `txn_id`. Raises Fenced or
        LogBroken, both meaning that nothing was written.
        """
        ...

    async def hint(self, base: int) -> None:
        """Leave `base` as a recent base for the next claim. Best effort."""
        ...

    async def give_up(self, last_base: int | None) -> None:
        """Hint the tail and delete the own record, if it is still ours. Best effort."""
        ...


class Subscription:
    """A bounded buffer between live batches and one follower. When it overflows the follower pages instead."""

    def __init__(self, partitions: Iterable[int], *, capacity: int = 1024, capacity_bytes: int = 16 << 20) -> None:
        self.partitions = frozenset(partitions)
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._items: deque[tuple[int, StoredBatch]] = deque()
        self._bytes = 0
        self._lagged = False
        self._failure: LogError | None = None
        self._wake = asyncio.Event()

    def offer(self, partition: int, batch: StoredBatch) -> None:
        """A batch arrived. Never blocks the one who delivers: a slow follower must not hold up the others."""
        if self._lagged or partition not in self.partitions:
            return
        if len(self._items) >= self._capacity or self._bytes + len(batch.value) > self._capacity_bytes:
            self.lag()
            return
        self._items.append((partition, batch))
        self._bytes += len(batch.value)
        self._wake.set()

    def lag(self) -> None:
        """Something may have been missed: drop what is buffered, the follower will page it."""
        self._items.clear()
        self._bytes = 0
        self._lagged = True
        self._wake.set()

    def fail(self, error: LogError) -> None:
        """Nothing will arrive any more: the follower learns why."""
        self._failure = error
        self._wake.set()

    async def next(self, timeout_s: float) -> tuple[int, StoredBatch] | None:
        """The next live batch; None when the follower should page all its partitions (lagging, or nothing came)."""
        if self._failure is not None:
            raise self._failure
        if not self._items and not self._lagged:
            self._wake.clear()
            try:
                async with asyncio.timeout(max(0.0, timeout_s)):
                    await self._wake.wait()
            except TimeoutError:
                return None
        if self._failure is not None:
            raise self._failure
        if self._lagged:
            self._lagged = False
            return None
        partition, batch = self._items.popleft()
        self._bytes -= len(batch.value)
        return partition, batch


class BatchStore(Protocol):
    """Reading side of an adapter. All reads are linearizable."""

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        """Batches with a base in [base, base + PAGE_OFFSETS), ascending, at most PAGE_BATCHES of them."""
        ...

    async def tail_hint(self, partition: int) -> int:
        """A base that probably exists; 0 if none is known."""
        ...

    async def subscribe(self, partitions: Iterable[int]) -> Subscription:
        """Every batch committed after this returns is offered to the subscription, or it is told that it lags."""
        ...

    def unsubscribe(self, subscription: Subscription) -> None: ...

    async def low(self, partition: int) -> SeenLow:
        """Below which offset events are in segments."""
        ...


class HotStore(BatchStore, Protocol):
    """What the archiver needs besides of the place that keeps the hot batches. `page` is of hot batches alone."""

    async def batch(self, partition: int, base: int) -> StoredBatch | None:
        """The hot batch that begins at `base`."""
        ...

    async def manifests(self, partition: int, base: int) -> list[SegmentManifest]:
        """Segments with a base of `base` or more, ascending, at most MANIFESTS_AT_ONCE of them."""
        ...

    async def record(self, partition: int, seen: SeenLow, manifest: SegmentManifest) -> bool:
        """Make the segment part of the log and the low mark its end, at once.

        False, and nothing changed, if the mark moved since it was seen or no batch is hot at the segment's end.
        """
        ...

    async def bases(self, partition: int, start: int, end: int) -> list[int]:
        """Bases of hot batches in [start, end), ascending, at most DELETES_AT_ONCE of them."""
        ...

    async def delete(self, partition: int, seen: SeenLow, bases: Sequence[int]) -> bool:
        """Delete these hot batches, all below the mark, together; False, and none deleted, if the mark moved."""
        ...

    async def snapshot_offset(self, partition: int) -> int | None:
        """Up to where the partition's newest snapshot covers its events; None if there is none."""
        ...
