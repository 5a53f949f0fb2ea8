"""The event log in this process's memory: the same writer, reader and codec over a dictionary, for tests and tools.

Two `MemoryEventLog` over one `MemoryStore` behave as two processes over one etcd. Nothing here survives the process.
"""

import asyncio
import os
import socket
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

import msgspec

from events.clock import now_micros
from events.log.archive.cold import ColdSegments
from events.log.archive.manifest import SegmentManifest
from events.log.archive.tiers import TieredStore
from events.log.blobs import MemoryBlobs
from events.log.errors import Fenced, LayoutMismatch, LogBroken, LogError, PartitionOwned
from events.log.ledger import WINDOW
from events.log.port import Followed, OnDamage, OwnerRecord
from events.log.reader import LogReader
from events.log.records import StoredEvent
from events.log.recovery import recover
from events.log.runs import Runs
from events.log.snapshots.shelf import PointedAt, SnapshotRecord, SnapshotShelf
from events.log.store import (
    DELETES_AT_ONCE,
    MANIFESTS_AT_ONCE,
    PAGE_BATCHES,
    PAGE_OFFSETS,
    SeenLow,
    StoredBatch,
    Subscription,
)
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
        self.low = SeenLow(0, 0)
        self.segments: list[SegmentManifest] = []
        self.snapshot = PointedAt(None, 0)


class MemoryStore:
    """What etcd and the archive would hold: a `HotStore` and `blobs`.

    Shared by every log opened over it; touched from one event loop only.
    """

    def __init__(self, partitions: int = 16) -> None:
        self.blobs = MemoryBlobs()
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

    async def low(self, partition: int) -> SeenLow:
        return self.partitions[partition].low

    async def batch(self, partition: int, base: int) -> StoredBatch | None:
        return self.partitions[partition].batches.get(base)

    async def manifests(self, partition: int, base: int) -> list[SegmentManifest]:
        found = [manifest for manifest in self.partitions[partition].segments if manifest.base >= base]
        return found[:MANIFESTS_AT_ONCE]

    async def record(self, partition: int, seen: SeenLow, manifest: SegmentManifest) -> bool:
        await asyncio.sleep(0)
        kept = self.partitions[partition]
        if kept.low != seen or manifest.base != seen.first_hot or manifest.end not in kept.batches:
            return False
        self.revision += 1
        kept.segments.append(manifest)
        kept.low = SeenLow(manifest.end, self.revision)
        return True

    async def bases(self, partition: int, start: int, end: int) -> list[int]:
        bases = self.partitions[partition].bases
        return bases[bisect_left(bases, start) : bisect_left(bases, end)][:DELETES_AT_ONCE]

    async def delete(self, partition: int, seen: SeenLow, bases: Sequence[int]) -> bool:
        await asyncio.sleep(0)
        kept = self.partitions[partition]
        if kept.low != seen:
            return False
        for base in bases:
            if kept.batches.pop(base, None) is not None:
                kept.bases.remove(base)
        return True

    async def snapshot_offset(self, partition: int) -> int | None:
        record = self.partitions[partition].snapshot.record
        return None if record is None else msgspec.json.decode(record, type=SnapshotRecord).offset

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
        continues = self._kept.low.revision == 0 if previous is None else previous in self._kept.batches
        if base in self._kept.batches or not continues:
            raise LogBroken(f"partition {self._partition}: the slot at offset {base} does not continue the log")
        return self._store.put(self._partition, base, value)

    async def hint(self, base: int) -> None:
        self._kept.tail_hint = base

    async def snapshot_record(self) -> PointedAt:
        return self._kept.snapshot

    async def point_at_snapshot(self, seen: PointedAt, record: bytes) -> bool:
        await asyncio.sleep(0)
        if self._kept.epoch != self._epoch or self._kept.snapshot != seen:
            return False
        self._store.revision += 1
        self._kept.snapshot = PointedAt(record, self._store.revision)
        return True

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
        self._tiers = TieredStore(self._store, ColdSegments(self._store.manifests, self._store.blobs))
        self._reader = LogReader(self._tiers)
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
            claimed_at=now_micros(),
        )
        epoch = kept.epoch
        slots = _MemorySlots(self._store, partition, epoch)
        shelf = SnapshotShelf(partition=partition, epoch=epoch, blobs=self._store.blobs, pointer=slots)
        try:
            recovered = await recover(self._tiers, partition, self._ledger_window, await shelf.load())
        except LogError:
            await slots.give_up(None)
            raise
        writer = BatchingWriter(
            partition=partition, epoch=epoch, recovered=recovered, slots=slots, limits=self._limits, snapshots=shelf
        )
        if kept.writer is not None:
            kept.writer.notice_fence(Fenced(f"partition {partition}: {owner} claimed it with epoch {epoch}; stop"))
        kept.writer = writer
        self._writers.append(writer)
        return writer

    def read(self, partition: int, from_offset: int, *, stream: str | None = None) -> AsyncIterator[list[StoredEvent]]:
        self._check(partition)
        return self._reader.read(partition, from_offset, stream=stream)

    def read_to_fold(self, partition: int, from_offset: int) -> AsyncIterator[Sequence[StoredBatch] | Runs]:
        self._check(partition)
        return self._tiers.read_to_fold(self._reader, partition, from_offset)

    def follow(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredEvent]]:
        return self.follow_all({partition: from_offset})

    def follow_all(
        self, from_offsets: Mapping[int, int], on_damage: OnDamage | None = None
    ) -> AsyncIterator[list[StoredEvent]]:
        for partition in from_offsets:
            self._check(partition)
        return self._reader.follow_all(from_offsets, on_damage)

    def follow_types(
        self, from_offsets: Mapping[int, int], types: Collection[str], on_damage: OnDamage | None = None
    ) -> AsyncIterator[Followed]:
        for partition in from_offsets:
            self._check(partition)
        return self._reader.follow_types(from_offsets, types, on_damage)

    async def tail(self, partition: int) -> int:
        self._check(partition)
        return (await recover(self._tiers, partition, window=0)).next_offset

    async def owner_of(self, partition: int) -> OwnerRecord | None:
        self._check(partition)
        return self._store.partitions[partition].owner

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"expected a partition from 0 to {self._partitions - 1}, found {partition}")
