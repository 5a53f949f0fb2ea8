"""The in-memory log keeps the contract of a log with an archive; and what only its store can be made to show."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from events.log.archive.archiver import Archiver
from events.log.archive.cold import ColdSegments
from events.log.blobs import MemoryBlobs
from events.log.errors import CorruptBatch, LogBroken, LogHole
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.snapshots.shelf import PointedAt, SnapshotRecord
from tests.events.log.cold_contract import ALL, ColdLogContract, archive_all, small, write
from tests.events.log.contract import event, read_all


@pytest.fixture
def hot() -> MemoryStore:
    return MemoryStore(16)


@pytest.fixture
def blobs(hot: MemoryStore) -> MemoryBlobs:
    return hot.blobs


@pytest.fixture
async def log(hot: MemoryStore) -> AsyncIterator[MemoryEventLog]:
    opened = MemoryEventLog(store=hot)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def other_log(hot: MemoryStore) -> AsyncIterator[MemoryEventLog]:
    opened = MemoryEventLog(store=hot)
    await opened.open()
    yield opened
    await opened.close()


def pointing_at(offset: int) -> PointedAt:
    record = SnapshotRecord(offset=offset, location="l", sha256="", bytes=0, format=1, fingerprint="")
    return PointedAt(msgspec.json.encode(record), 1)


class TestMemoryArchive(ColdLogContract):
    async def test_a_snapshot_bounds_what_leaves(self, log: MemoryEventLog, hot: MemoryStore) -> None:
        writer = await log.claim(0, "a")
        await write(writer, 700)
        archiver = Archiver(hot=hot, blobs=hot.blobs, policy=small(retain_s=60.0, segment_bytes=1 << 20))
        hot.partitions[0].snapshot = pointing_at(0)
        assert await archiver.step(0) is None
        hot.partitions[0].snapshot = pointing_at(352)
        manifest = await archiver.step(0)
        assert manifest is not None and manifest.end == 350, "whole batches below the snapshot"


async def test_a_segment_that_is_missing_is_a_hole_not_an_empty_log(log: MemoryEventLog, hot: MemoryStore) -> None:
    await write(await log.claim(0, "a"), 700)
    await archive_all(Archiver(hot=hot, blobs=hot.blobs, policy=small()))
    del hot.partitions[0].segments[1]
    with pytest.raises(LogHole):
        await read_all(log, 0)


async def test_a_damaged_batch_is_not_archived(log: MemoryEventLog, hot: MemoryStore) -> None:
    writer = await log.claim(0, "a")
    for n in range(1, 11):
        await writer.append(f"c{n}", [event("s/1", n, "x" * 200)])
    kept = hot.partitions[0].batches
    value = bytearray(kept[4].value)
    value[-3] ^= 1
    kept[4] = kept[4]._replace(value=bytes(value))
    with pytest.raises(CorruptBatch, match="hash"):
        await Archiver(hot=hot, blobs=hot.blobs, policy=small(segment_bytes=1 << 20)).step(0, ALL)
    assert hot.partitions[0].low.first_hot == 0


async def test_without_an_archive_a_process_says_what_it_lacks(log: MemoryEventLog, hot: MemoryStore) -> None:
    await write(await log.claim(0, "a"), 700)
    await archive_all(Archiver(hot=hot, blobs=hot.blobs, policy=small()))
    blind = ColdSegments(hot.manifests, None)
    manifest = await blind.find(0, 0)
    assert manifest is not None
    with pytest.raises(LogBroken, match="archive"):
        await blind.open(0, manifest)


async def test_memory_of_opened_segments_is_bounded(log: MemoryEventLog, hot: MemoryStore) -> None:
    await write(await log.claim(0, "a"), 2000)
    await archive_all(Archiver(hot=hot, blobs=hot.blobs, policy=small()))
    manifests = await hot.manifests(0, 0)
    cold = ColdSegments(hot.manifests, hot.blobs, kept_bytes=3 * manifests[0].bytes)
    for manifest in manifests:
        await cold.open(0, manifest)
    assert sum(segment.manifest.bytes for segment in cold._kept.values()) <= 3 * manifests[0].bytes
    assert await cold.open(0, manifests[-1]) is await cold.open(0, manifests[-1]), "fetched and checked once"
