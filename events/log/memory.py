"""The event log in this process's memory: the same writer, reader and codec over a dictionary, for tests and tools.

Two `MemoryEventLog` over one `MemoryStore` behave as two processes over one etcd. Nothing here survives the process.
"""

import asyncio
import os
import socket
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable, Mapping

from events.log.errors import Fenced, LayoutMismatch, LogBroken, PartitionOwned
from events.log.ledger import WINDOW
from events.log.port import OwnerRecord
from events.log.reader import LogReader
from events.log.records import StoredEvent
from events.log.recovery import recover
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS, StoredBatch, Subscription
from events.log.writer import BatchingWriter, WriterLimits


class _Partition:
    """One partition's keys."""

    def __init__(self) -> None:
        self.bases: list[int] = []
        self.batches: dict[int, StoredBatch] = {}
        self.epoch = 0
        self.owner: OwnerRecord | None = None
        self.tail_hint = 0
        self.writer: BatchingWriter | None = None


class MemoryStore:
    """What etcd would hold. Shared by every log opened over it; touched from one event loop only."""

    def __init__(self, partitions: int = 16) -> None:
        self.partitions = [_Partition() for _ in range(partitions)]
        self.revision = 0
        self._subscriptions: list[Subscription] = []

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        await asyncio.sleep(0)
        kept = self.partitions[partition]
        first = bisect_left(kept.bases, base)
        last = min(bisect_left(kept.bases, base + PAGE_OFFSETS), first + PAGE_BATCHES)
        return [kept.batches[at] for at in kept.bases[first:last]]

    async def tail_hint(self, partition: int) -> int:
        return self.partitions[partition].tail_hint

    async def subscribe(self, partitions: Iterable[int]) -> Subscription:
        subscription = Subscription(partitions)
        self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)

    def put(self, partition: int, base: int, value: bytes) -> int:
        """Keep a batch and tell the followers; returns the new revision."""
        self.revision += 1
        batch = StoredBatch(base, self.revision, value)
        kept = self.partitions[partition]
        kept.bases.append(base)
        kept.batches[base] = batch
        for subscription in self._subscriptions:
            subscription.offer(partition, batch)
        return self.revision


class _MemorySlots:
    """A claim's right to write, checked against the epoch in every commit as etcd's transaction does."""

    def __init__(self, store: MemoryStore, partition: int, epoch: int) -> None:
        self._store = store
        self._partition = partition
        self._kept = store.partitions[partition]
        self._epoch = epoch

    async def commit(self, *, base: int, previous: int | None, txn_id: str, value: bytes) -> int:
        # A turn of the loop, as a round trip would take: what is submitted meanwhile gathers into the next batch.
        await asyncio.sleep(0)
        if self._kept.epoch != self._epoch:
            raise Fenced(f"partition {self._partition}: expected epoch {self._epoch}, found {self._kept.epoch}; stop")
        if base in self._kept.batches or not (previous is None or previous in self._kept.batches):
            raise LogBroken(f"partition {self._partition}: the slot at offset {base} does not continue the log")
        return self._store.put(self._partition, base, value)

    async def hint(self, base: int) -> None:
        self._kept.tail_hint = base

    async def give_up(self, last_base: int | None) -> None:
        if self._kept.epoch == self._epoch:
            self._kept.tail_hint = last_base or 0
            self._kept.owner = None


class MemoryEventLog:
    """An `EventLog` over a `MemoryStore`, its own unless one is given."""

    def __init__(
        self,
        *,
        partitions: int = 16,
        store: MemoryStore | None = None,
        limits: WriterLimits | None = None,
        ledger_window: int = WINDOW,
    ) -> None:
        self._partitions = partitions
        self._store = store or MemoryStore(partitions)
        self._limits = limits
        self._ledger_window = ledger_window
        self._reader = LogReader(self._store)
        self._writers: list[BatchingWriter] = []

    @property
    def partitions(self) -> int:
        return self._partitions

    async def open(self) -> None:
        if (found := len(self._store.partitions)) != self._partitions:
            raise LayoutMismatch(f"expected a log of {self._partitions} partitions, found {found}; use the log's own P")

    async def close(self) -> None:
        for writer in self._writers:
            await writer.abort()
        self._writers.clear()

    async def claim(self, partition: int, owner: str, *, force: bool = False) -> BatchingWriter:
        self._check(partition)
        kept = self._store.partitions[partition]
        if kept.owner is not None and kept.owner.owner != owner and not force:
            raise PartitionOwned(f"partition {partition}: expected no owner, found {kept.owner.owner}")
        kept.epoch += 1
        kept.owner = OwnerRecord(
            owner=owner,
            node=socket.gethostname(),
            pid=os.getpid(),
            epoch=kept.epoch,
            claimed_at=time.time_ns() // 1000,
        )
        epoch = kept.epoch
        recovered = await recover(self._store, partition, self._ledger_window)
        slots = _MemorySlots(self._store, partition, epoch)
        writer = BatchingWriter(partition=partition, epoch=epoch, recovered=recovered, slots=slots, limits=self._limits)
        if kept.writer is not None:
            kept.writer.notice_fence(Fenced(f"partition {partition}: {owner} claimed it with epoch {epoch}; stop"))
        kept.writer = writer
        self._writers.append(writer)
        return writer

    def read(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredEvent]]:
        self._check(partition)
        return self._reader.read(partition, from_offset)

    def follow(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredEvent]]:
        return self.follow_all({partition: from_offset})

    def follow_all(self, from_offsets: Mapping[int, int]) -> AsyncIterator[list[StoredEvent]]:
        for partition in from_offsets:
            self._check(partition)
        return self._reader.follow_all(from_offsets)

    async def tail(self, partition: int) -> int:
        self._check(partition)
        return (await recover(self._store, partition, window=0)).next_offset

    async def owner_of(self, partition: int) -> OwnerRecord | None:
        self._check(partition)
        return self._store.partitions[partition].owner

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"expected a partition from 0 to {self._partitions - 1}, found {partition}")
