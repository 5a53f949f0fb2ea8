"""Whatever is changed in a log is found, and the first break is named: where, what was expected, what was found."""

import hashlib
from collections.abc import Callable

import msgspec
import pytest

from events.log.archive import segment
from events.log.archive.segment import decode_segment, encode_segment
from events.log.chain import Head, NotedHead, parse_heads
from events.log.codec import batch_hash, check_command, decode_batch, decode_header, encode_batch
from events.log.errors import CorruptBatch, CorruptSegment, LogHole
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import Position
from events.log.runs import MAGIC as RUNS_MAGIC
from events.log.runs import encode_runs
from events.log.store import StoredBatch
from events.log.verify import Break, PartitionReport, SnapshotRef, unrecognised, verify_log, verify_partition
from tests.events.log.contract import event, read_all
from tests.events.log.filled import BATCHES, PER_BATCH, MemorySource, archive, fill

EVENTS = BATCHES * PER_BATCH
COLD = 7
"""Batches in the first segments: 4 and 3."""


@pytest.fixture
async def source() -> MemorySource:
    """One partition: 12 batches, the first 4 in one segment, the next 3 in another, 5 hot."""
    store = MemoryStore(1)
    log = MemoryEventLog(partitions=1, store=store)
    await fill(log, 0)
    await archive(store, store.blobs, 0, 4)
    await archive(store, store.blobs, 0, 3)
    return MemorySource(store)


async def broken(source: MemorySource, *noted: NotedHead) -> Break:
    report = await verify_partition(source, 0, noted=noted)
    assert report.broken is not None, "expected a break to be found"
    return report.broken


async def whole(source: MemorySource, *noted: NotedHead) -> PartitionReport:
    report = await verify_partition(source, 0, noted=noted)
    assert report.broken is None
    return report


def hot(source: MemorySource, number: int) -> StoredBatch:
    return source.store.partitions[0].batches[number * PER_BATCH]


def replace(source: MemorySource, number: int, value: bytes) -> None:
    base = number * PER_BATCH
    source.store.partitions[0].batches[base] = StoredBatch(base, 1, value)


def flipped(value: bytes, at: int = -3) -> bytes:
    changed = bytearray(value)
    changed[at] ^= 0x10
    return bytes(changed)


def forged(value: bytes, at: Position, note: str) -> bytes:
    """The same batch with another body for its first event: every checksum and count in it is right."""
    header, records = decode_batch(value, at)
    changed = [
        msgspec.structs.replace(records[0], body=msgspec.Raw(msgspec.msgpack.encode({"note": note}))),
        *records[1:],
    ]
    command = check_command(header.commands[0].command_id, changed)
    return encode_batch(
        partition=at.partition,
        base=at.offset,
        epoch=header.epoch,
        txn_id=header.txn_id,
        previous=header.previous,
        commands=[command],
    )[1]


async def test_a_whole_log_is_walked_across_segments_and_hot_batches(source: MemorySource) -> None:
    (report,) = [report async for report in verify_log(source)]
    assert report.broken is None
    assert (report.batches, report.events, report.segments, report.chained_from) == (BATCHES, EVENTS, 2, 0)
    last = batch_hash(hot(source, BATCHES - 1).value).hex()
    assert report.head == Head(partition=0, offset=EVENTS, hash=last)
    assert str(report.head) == f"0:{EVENTS} {last}"


async def test_an_empty_partition_is_whole() -> None:
    report = await whole(MemorySource(MemoryStore(1)))
    assert (report.events, report.chained_from, report.head.hash) == (0, None, "")


async def test_a_flipped_bit_in_a_hot_batch_is_named_and_never_read(source: MemorySource) -> None:
    replace(source, 9, flipped(hot(source, 9).value))
    found = await broken(source)
    assert found.position == Position(0, 9 * PER_BATCH)
    assert found.place == f"memory p/00/b/{9 * PER_BATCH:016x}"
    assert "checksum" in found.found
    with pytest.raises(CorruptBatch, match="0:45"):
        await read_all(MemoryEventLog(partitions=1, store=source.store), 0, 8 * PER_BATCH)


@pytest.mark.parametrize(("number", "share"), [(4, 0.1), (4, 0.9), (5, 0.0), (5, 0.5), (6, 0.99)])
async def test_a_flipped_bit_in_a_segment_is_named_by_its_batch_and_never_read(
    source: MemorySource, number: int, share: float
) -> None:
    second = (await source.manifests(0, 0))[1]
    blob = await source.blobs.get(second.location)
    batch = decode_segment(0, second, blob).batches(number * PER_BATCH, second.end, 1)[0]
    at = blob.index(batch.value) + int(share * len(batch.value))
    await source.blobs.put(second.location, flipped(blob, at=at))
    found = await broken(source)
    assert (found.position, found.place) == (Position(0, number * PER_BATCH), f"segment {second.location}")
    assert second.sha256 in found.found and f"the batch at 0:{number * PER_BATCH}" in found.found
    with pytest.raises(CorruptSegment, match=second.sha256) as refused:
        await read_all(MemoryEventLog(partitions=1, store=source.store), 0)
    assert refused.value.position == found.position


@pytest.mark.parametrize("from_its_end", [1, 9, 20])
async def test_a_flipped_bit_behind_the_batches_of_a_segment_is_named_too(
    source: MemorySource, from_its_end: int
) -> None:
    second = (await source.manifests(0, 0))[1]
    await source.blobs.put(second.location, flipped(await source.blobs.get(second.location), at=-from_its_end))
    found = await broken(source)
    assert (found.position, found.place) == (Position(0, 4 * PER_BATCH), f"segment {second.location}")
    assert "index" in found.found
    with pytest.raises(CorruptSegment, match="index"):
        await read_all(MemoryEventLog(partitions=1, store=source.store), 0)


async def test_a_flipped_bit_in_the_runs_of_a_segment_is_named_and_never_folded(source: MemorySource) -> None:
    second = (await source.manifests(0, 0))[1]
    blob = await source.blobs.get(second.location)
    await source.blobs.put(second.location, flipped(blob, at=blob.index(RUNS_MAGIC) + 40))
    found = await broken(source)
    assert (found.position, found.place) == (Position(0, 4 * PER_BATCH), f"segment {second.location}")
    assert "every batch of it is whole; the bytes after them are not" in found.found
    with pytest.raises(CorruptSegment, match="the bytes after them are not"):
        async for _ in MemoryEventLog(partitions=1, store=source.store).read_to_fold(0, 0):
            pass


async def test_runs_that_were_written_wrong_are_named(source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program with a bug: the hash and the manifest fit, only the batches tell."""
    kept = source.store.partitions[0]
    second = kept.segments[1]
    blob = await source.blobs.get(second.location)
    batches = [decode_at(blob, base) for base in (20, 25, 30)]
    monkeypatch.setattr(segment, "encode_runs", lambda facts: encode_runs([*facts][:-1]))
    manifest, data = encode_segment(0, batches)
    kept.segments[1] = manifest
    await source.blobs.put(manifest.location, data)
    found = await broken(source)
    assert (found.position, found.place) == (Position(0, 4 * PER_BATCH), f"segment {manifest.location}")
    assert found.found.startswith("other events of a/0")


async def test_a_segment_that_is_missing_or_swapped_is_named(source: MemorySource) -> None:
    first, second = await source.manifests(0, 0)
    one = await source.blobs.get(first.location)
    await source.blobs.put(first.location, await source.blobs.get(second.location))
    found = await broken(source)
    assert (found.position, found.place) == (Position(0, 0), f"segment {first.location}")
    await source.blobs.put(first.location, one)
    await source.blobs.delete(second.location)
    found = await broken(source)
    assert (found.position, found.found) == (Position(0, 4 * PER_BATCH), "none")


async def test_a_segment_with_a_manifest_that_was_made_to_fit_breaks_the_chain(source: MemorySource) -> None:
    """Whoever may write both the blob and the manifest still cannot make the next batch follow it."""
    kept = source.store.partitions[0]
    second = kept.segments[1]
    blob = await source.blobs.get(second.location)
    original = [decode_at(blob, base) for base in (20, 25, 30)]
    changed = [*original[:2], StoredBatch(30, 1, forged(original[2].value, Position(0, 30), "paid"))]
    manifest, data = encode_segment(0, changed)
    kept.segments[1] = manifest
    await source.blobs.put(manifest.location, data)
    found = await broken(source)
    assert found.position == Position(0, 30)
    assert "replaced" in found.found
    assert "0:35" in found.expected


def decode_at(blob: bytes, base: int) -> StoredBatch:
    """A batch of a segment, found by the bytes it begins with."""
    starts = [at for at in range(len(blob)) if blob.startswith(b"RFB1", at)]
    ends = [*starts[1:], len(blob)]
    for start, end in zip(starts, ends, strict=True):
        value = blob[start:end]
        try:
            decode_header(value, Position(0, base))
        except CorruptBatch:
            continue
        if end != len(blob):
            return StoredBatch(base, 1, value)
        index = next(n for n in range(len(value)) if _is_whole(value[:n], base))
        return StoredBatch(base, 1, value[:index])
    raise AssertionError(f"no batch at {base}")


def _is_whole(value: bytes, base: int) -> bool:
    try:
        decode_batch(value, Position(0, base))
    except CorruptBatch:
        return False
    return True


@pytest.mark.parametrize("number", [COLD, 9, BATCHES - 2])
async def test_a_batch_replaced_by_a_valid_looking_one_breaks_the_chain(source: MemorySource, number: int) -> None:
    at = Position(0, number * PER_BATCH)
    replace(source, number, forged(hot(source, number).value, at, "paid"))
    found = await broken(source)
    assert found.position == at
    assert f"its successor at 0:{at.offset + PER_BATCH}" in found.expected
    assert "replaced" in found.found


async def test_the_last_batch_replaced_is_found_by_a_noted_head(source: MemorySource) -> None:
    noted = parse_heads(str((await whole(source)).head))
    at = Position(0, EVENTS - PER_BATCH)
    replace(source, BATCHES - 1, forged(hot(source, BATCHES - 1).value, at, "paid"))
    await whole(source)
    found = await broken(source, *noted)
    assert found.position == at
    assert "history was rewritten" in found.found


@pytest.mark.parametrize("number", [COLD + 1, 9])
async def test_a_batch_taken_away_is_a_hole_with_a_name(source: MemorySource, number: int) -> None:
    kept = source.store.partitions[0]
    kept.bases.remove(number * PER_BATCH)
    del kept.batches[number * PER_BATCH]
    found = await broken(source)
    assert found.position == Position(0, number * PER_BATCH)
    assert f"begins at offset {(number + 1) * PER_BATCH}" in found.found
    with pytest.raises(LogHole):
        await read_all(MemoryEventLog(partitions=1, store=source.store), 0, COLD * PER_BATCH)


async def test_the_newest_batches_taken_away_are_missed_by_hint_and_noted_head(source: MemorySource) -> None:
    noted = parse_heads(str((await whole(source)).head))
    kept = source.store.partitions[0]
    for base in kept.bases[-2:]:
        del kept.batches[base]
    del kept.bases[-2:]
    found = await broken(source)
    assert found.position == Position(0, EVENTS - 2 * PER_BATCH)
    assert "newest batches were taken away" in found.found
    kept.tail_hint = 0
    await whole(source)
    found = await broken(source, *noted)
    assert "what came after was taken away" in found.found


async def test_a_hot_copy_that_differs_from_its_segment_is_named(source: MemorySource) -> None:
    """Readers may take either: between the segment's record and the deletes both are there."""
    kept = source.store.partitions[0]
    blob = await source.blobs.get(kept.segments[1].location)
    copy = decode_at(blob, 25)
    kept.bases.insert(0, 25)
    kept.batches[25] = copy
    await whole(source)
    kept.batches[25] = StoredBatch(25, 1, forged(copy.value, Position(0, 25), "paid"))
    found = await broken(source)
    assert (found.position, found.place) == (Position(0, 25), f"memory p/00/b/{25:016x}")


async def test_a_header_that_lies_about_its_body_is_found(source: MemorySource) -> None:
    value = hot(source, 9).value
    header, _ = decode_batch(value, Position(0, 45))
    wrong = check_command(
        "c9", [event("a/0", 28), event("a/0", 29), event("a/0", 30), event("b/0", 18), event("b/0", 19)]
    )
    replace(
        source,
        9,
        encode_batch(partition=0, base=45, epoch=header.epoch, txn_id="t", previous=header.previous, commands=[wrong])[
            1
        ],
    )
    found = await broken(source)
    assert found.position == Position(0, 45)
    assert (found.expected, found.found) == ("version 19 of stream b/0", "version 18")


async def test_an_owner_that_was_fenced_shows(source: MemorySource) -> None:
    header, records = decode_batch(hot(source, 11).value, Position(0, 55))
    late = encode_batch(
        partition=0,
        base=55,
        epoch=header.epoch - 1,
        txn_id="t",
        previous=header.previous,
        commands=[check_command("c11", records)],
    )[1]
    replace(source, 11, late)
    assert "epoch" in (await broken(source)).expected


async def test_a_noted_head_in_the_middle_of_history_is_met_and_one_of_another_history_is_not(
    source: MemorySource,
) -> None:
    middle = batch_hash(hot(source, 8).value).hex()
    await whole(source, NotedHead(hash=middle, at=Position(0, 45)))
    assert (await broken(source, NotedHead(hash=middle, at=Position(0, 50)))).position == Position(0, 45)
    assert "noted head" in (await broken(source, NotedHead(hash=middle, at=Position(0, 47)))).expected
    alone, foreign = NotedHead(hash=middle), NotedHead(hash=hashlib.sha256(b"another").hexdigest())
    report = await whole(source, alone, foreign)
    assert report.recognised == (middle,)
    assert unrecognised([alone, foreign], [report]) == [foreign.hash]


@pytest.mark.parametrize("text", ["", "0:12", "0:12 abc", "x:1 " + "a" * 64, "0:12 " + "a" * 64 + " more"])
def test_what_is_no_noted_head_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_heads(text)


async def test_a_snapshot_is_checked_against_its_hash_and_when_asked_against_a_fold(source: MemorySource) -> None:
    blob = b"states"
    await source.blobs.put("snapshots/00/x", blob)
    source.snapshots[0] = SnapshotRef(30, "snapshots/00/x", hashlib.sha256(blob).hexdigest())
    assert (await whole(source)).snapshot == 30

    def says(difference: str) -> Callable[[int, SnapshotRef, bytes], object]:
        async def deep(partition: int, snapshot: SnapshotRef, found: bytes) -> str:
            assert (partition, snapshot.offset, found) == (0, 30, blob)
            return difference

        return deep

    assert (await verify_partition(source, 0, deep=says(""))).broken is None  # type: ignore[arg-type]
    differs = (await verify_partition(source, 0, deep=says("a/0 differs"))).snapshot_damaged  # type: ignore[arg-type]
    assert differs is not None and differs.found == "a/0 differs"
    await source.blobs.put("snapshots/00/x", flipped(blob))
    found = (await whole(source)).snapshot_damaged
    assert found is not None, "it is damaged, and the log is whole all the same"
    assert (found.position, found.place) == (Position(0, 30), "snapshot snapshots/00/x")
    await source.blobs.delete("snapshots/00/x")
    report = await whole(source)
    assert (report.snapshot_damaged, report.snapshot_missing) == (None, "snapshots/00/x"), "it may be deleted"
    source.snapshots[0] = SnapshotRef(EVENTS + 1, "snapshots/00/x", "")
    assert "taken away" in (await broken(source)).found
