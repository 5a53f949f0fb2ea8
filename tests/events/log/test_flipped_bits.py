"""A bit that flips in etcd, in the archive or in a snapshot: found and named, and never folded as if it were whole.

On a real etcd, with the events of every kind of thing, a real segment, and a snapshot that is taken as owners take it.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from actors.supervisor.snapshots import Cut, SnapshotPolicy, SnapshotTaker
from events.log.archive.segment import decode_segment
from events.log.backup.source import EtcdLogSource
from events.log.blobs import DirectoryBlobs
from events.log.errors import CorruptBatch, CorruptSegment
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_store import EtcdStore
from events.log.keys import Keys
from events.log.port import PartitionWriter
from events.log.records import EventRecord, Position, partition_of
from events.log.verify import PartitionReport, verify_partition
from events.model.base import partition_key
from events.model.folding import PartitionFold
from events.replay.current import fold_partition
from events.replay.snapshots import deep_check
from tests.events.log.filled import archive
from tests.projections.recorder import tell_everything

pytestmark = pytest.mark.servers

PARTITIONS = 2
PER_BATCH = 4
COLD_BATCHES = 3


Stream = tuple[str, msgspec.Struct, int, int]


def _streams(fold: PartitionFold) -> list[Stream]:
    return [(name, folded.state, folded.version, folded.last_offset) for name, folded in fold.states.items()]


async def take_snapshot(writer: PartitionWriter, offset: int, streams: list[Stream]) -> None:
    """As an owner does."""
    assert writer.snapshots is not None
    taker = SnapshotTaker(
        writer=writer,
        shelf=writer.snapshots,
        cut=lambda: Cut(offset, writer.ledger_point(), streams, ()),
        policy=SnapshotPolicy(),
        turn=asyncio.Semaphore(1),
    )
    assert await taker.take()


class Kept:
    """The fullest partition of a log: some batches in a segment, a snapshot, some events after it."""

    def __init__(self, settings: EtcdSettings, directory: Path) -> None:
        self._settings = settings
        self.blobs = DirectoryBlobs(directory)
        self.log = EtcdEventLog(settings, partitions=PARTITIONS, blobs=self.blobs)
        self.keys = Keys(settings.namespace)
        records: dict[int, list[EventRecord]] = {}
        for record in tell_everything():
            records.setdefault(partition_of(partition_key(record.stream), PARTITIONS), []).append(record)
        self.partition, self.records = max(records.items(), key=lambda item: len(item[1]))

    async def fill(self) -> None:
        await self.log.open()
        writer = await self.log.claim(self.partition, "a")
        starts = range(0, len(self.records), PER_BATCH)
        for start in starts[:-2]:
            await writer.append(f"c{start}", self.records[start : start + PER_BATCH])
        await archive(EtcdStore(self.log.client, self.keys), self.blobs, self.partition, COLD_BATCHES)
        fold = await fold_partition(self.log, self.partition)
        await take_snapshot(writer, fold.next_offset, _streams(fold))
        for start in starts[-2:]:
            await writer.append(f"c{start}", self.records[start : start + PER_BATCH])
        await writer.release()

    async def verified(self) -> PartitionReport:
        source = await EtcdLogSource.open(self.log.client, self.blobs)
        return await verify_partition(source, self.partition, deep=deep_check(source))

    async def recovered(self) -> tuple[bool, PartitionFold]:
        """As the next owner does: whether it had a snapshot, and what it folded."""
        writer = await self.log.claim(self.partition, "next", force=True)
        try:
            snapshot = writer.take_snapshot()
            return snapshot is not None, await fold_partition(self.log, self.partition, snapshot)
        finally:
            await writer.release()

    async def folded(self) -> PartitionFold:
        """From zero, by a process that has read nothing yet: a segment is checked when it is fetched."""
        log = EtcdEventLog(self._settings, partitions=PARTITIONS, blobs=self.blobs)
        await log.open()
        try:
            return await fold_partition(log, self.partition)
        finally:
            await log.close()

    async def flip(self, name: str, at: int) -> None:
        """A bit of a blob."""
        data = bytearray(await self.blobs.get(name))
        data[at] ^= 0x20
        await self.blobs.put(name, bytes(data))


@pytest.fixture
async def kept(etcd_settings: EtcdSettings, tmp_path: Path) -> AsyncIterator[Kept]:
    place = Kept(etcd_settings, tmp_path)
    await place.fill()
    yield place
    await place.log.close()


async def test_nothing_is_wrong_with_what_nobody_touched(kept: Kept) -> None:
    report = await kept.verified()
    assert (report.broken, report.events, report.segments) == (None, len(kept.records), 1)
    assert report.snapshot is not None and 0 < report.snapshot < len(kept.records)


async def test_in_a_hot_batch(kept: Kept) -> None:
    base = (COLD_BATCHES + 1) * PER_BATCH
    key = kept.keys.batch(kept.partition, base)
    stored = await kept.log.client.get(key)
    assert stored is not None
    await kept.log.client.put(key, stored.value[:-9] + bytes([stored.value[-9] ^ 1]) + stored.value[-8:])
    report = await kept.verified()
    assert report.broken is not None and report.broken.position == Position(kept.partition, base)
    assert key in report.broken.place
    with pytest.raises(CorruptBatch) as refused:
        await kept.folded()
    assert refused.value.position == Position(kept.partition, base)


async def test_in_a_cold_segment(kept: Kept) -> None:
    [manifest] = await EtcdStore(kept.log.client, kept.keys).manifests(kept.partition, 0)
    blob = await kept.blobs.get(manifest.location)
    second = decode_segment(kept.partition, manifest, blob).batches(PER_BATCH, manifest.end, 1)[0]
    await kept.flip(manifest.location, blob.index(second.value) + len(second.value) // 2)
    report = await kept.verified()
    assert report.broken is not None and report.broken.position == Position(kept.partition, PER_BATCH)
    assert report.broken.place == f"segment {manifest.location}"
    with pytest.raises(CorruptSegment) as refused:
        await kept.folded()
    assert refused.value.position == Position(kept.partition, PER_BATCH)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
async def test_in_a_snapshot(kept: Kept, share: float) -> None:
    before = await kept.recovered()
    [name] = await kept.blobs.names("snapshots")
    await kept.flip(name, int(share * len(await kept.blobs.get(name))))
    report = await kept.verified()
    assert report.broken is None
    assert report.snapshot_damaged is not None and report.snapshot_damaged.place == f"snapshot {name}"
    after = await kept.recovered()
    assert (before[0], after[0]) == (True, False), "it is passed over"
    assert after[1].folded == len(kept.records), "and every event folded instead"
    assert _states(after[1]) == _states(before[1])


async def test_a_snapshot_with_a_hash_that_was_made_to_fit_differs_from_the_fold(kept: Kept) -> None:
    """Bytes that are what their record says, and states that are not what the events give: only `deep` can tell."""
    writer = await kept.log.claim(kept.partition, "liar", force=True)
    fold = await fold_partition(kept.log, kept.partition)
    (victim, state, version, last), *others = _streams(fold)
    await take_snapshot(writer, fold.next_offset, [(victim, type(state)(), version, last), *others])
    await writer.release()
    report = await kept.verified()
    assert report.snapshot_damaged is not None and victim in report.snapshot_damaged.found


def _states(fold: PartitionFold) -> dict[str, bytes]:
    return {name: msgspec.msgpack.encode(folded.state) for name, folded in fold.states.items()}
