"""Logs with a past for the tests of verification and backup: many batches, some of them archived.

Works on any `HotStore`, so on memory and on etcd alike.
"""

from collections.abc import Sequence

import msgspec

from events.log.archive.manifest import SegmentManifest
from events.log.archive.segment import encode_segment
from events.log.blobs import BlobStore
from events.log.memory import MemoryStore
from events.log.port import EventLog
from events.log.store import HotStore, SeenLow, StoredBatch
from events.log.verify import SnapshotRef
from tests.events.log.contract import event

BATCHES = 12
PER_BATCH = 5


async def fill(log: EventLog, partition: int, *, batches: int = BATCHES, after: int = 0) -> None:
    """Append `batches` batches of 5 events of two streams; `after`: how many such batches there are already."""
    writer = await log.claim(partition, "filler")
    for number in range(after, after + batches):
        first = number * 3 + 1
        a = [event(f"a/{partition}", version, "x" * 40) for version in range(first, first + 3)]
        b = [event(f"b/{partition}", version) for version in (number * 2 + 1, number * 2 + 2)]
        await writer.append(f"c{number}", [*a, *b])
    await writer.release()


async def archive(store: HotStore, blobs: BlobStore, partition: int, batches: int) -> SegmentManifest:
    """Move the first hot batches into a segment, as the archiver does."""
    seen = await store.low(partition)
    moved = (await store.page(partition, seen.first_hot))[:batches]
    manifest, data = encode_segment(partition, moved)
    await blobs.put(manifest.location, data)
    assert await store.record(partition, seen, manifest)
    assert await store.delete(partition, await store.low(partition), [batch.base for batch in moved])
    return manifest


class MemorySource:
    """A `VerifiableLog` over a memory store and its blobs. `snapshots`: what a test recorded."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.blobs = store.blobs
        self.snapshots: dict[int, SnapshotRef] = {}

    @property
    def partitions(self) -> int:
        return len(self.store.partitions)

    async def manifests(self, partition: int, base: int) -> Sequence[SegmentManifest]:
        return await self.store.manifests(partition, base)

    async def blob(self, location: str) -> bytes:
        return await self.blobs.get(location)

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        return await self.store.page(partition, base)

    async def bases(self, partition: int, start: int, end: int) -> Sequence[int]:
        return await self.store.bases(partition, start, end)

    async def low(self, partition: int) -> SeenLow:
        return await self.store.low(partition)

    async def tail_hint(self, partition: int) -> int:
        return await self.store.tail_hint(partition)

    async def snapshot(self, partition: int) -> SnapshotRef | None:
        record = self.store.partitions[partition].snapshot.record
        found = None if record is None else msgspec.json.decode(record, type=SnapshotRef)
        return self.snapshots.get(partition, found)

    def hot_place(self, partition: int) -> str:
        return f"memory p/{partition:02d}/b/"
