"""A snapshot is taken back whole or not at all: what is damaged, foreign, stale or half written is passed over."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.failpoints import FailpointError, arm, disarm
from events.log.errors import Fenced
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.port import PartitionWriter
from events.log.snapshots.contents import (
    CommandEntry,
    CorruptSnapshot,
    SnapshotHead,
    StreamEntry,
    encode_snapshot,
    open_snapshot,
)
from events.log.snapshots.shelf import SnapshotRecord
from tests.events.log.contract import event, read_all

STATE = msgspec.Raw(msgspec.msgpack.encode({"any": "state"}))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(16)


@pytest.fixture
async def log(store: MemoryStore) -> AsyncIterator[MemoryEventLog]:
    opened = MemoryEventLog(store=store)
    await opened.open()
    yield opened
    await opened.close()


async def append(writer: PartitionWriter, count: int, *, first: int = 1) -> None:
    for version in range(first, first + count):
        await writer.append(f"c{version}", [event("a", version)])


def head_of(writer: PartitionWriter, *, fingerprint: str = "f") -> SnapshotHead:
    point = writer.ledger_point()
    return SnapshotHead(
        partition=writer.partition,
        offset=point.base,
        base=point.base,
        last_base=point.last_base,
        last_hash=point.last_hash,
        fingerprint=fingerprint,
        taken_at=1,
    )


def bytes_of(writer: PartitionWriter, head: SnapshotHead) -> bytes:
    commands = [CommandEntry(name, *span) for name, span in writer.ledger_point().commands]
    return encode_snapshot(head, [StreamEntry("a", head.offset, head.offset - 1, STATE)], commands)


async def save(writer: PartitionWriter) -> bool:
    assert writer.snapshots is not None
    head = head_of(writer)
    return await writer.snapshots.save(head, bytes_of(writer, head))


async def blobs(store: MemoryStore) -> Sequence[str]:
    return await store.blobs.names("snapshots")


@settings(max_examples=25)
@given(
    streams=st.lists(st.tuples(st.text(min_size=1, max_size=20), st.integers(1, 9), st.integers(0, 99)), max_size=400),
    commands=st.lists(st.text(min_size=1, max_size=30), max_size=30),
)
def test_what_is_encoded_is_what_is_read(streams: list[tuple[str, int, int]], commands: list[str]) -> None:
    head = SnapshotHead(
        partition=3, offset=7, base=5, last_base=2, last_hash=b"h", fingerprint="f", taken_at=9
    )  # fmt: skip
    entries = [StreamEntry(*one, STATE) for one in streams]
    spans = [CommandEntry(name, n, n, n) for n, name in enumerate(commands)]
    opened = open_snapshot(encode_snapshot(head, entries, spans))
    assert opened.head == head
    read = [(e.stream, e.version, e.last_offset, bytes(e.state)) for block in opened.streams() for e in block]
    assert read == [(*one, bytes(STATE)) for one in streams]
    assert [entry for block in opened.commands() for entry in block] == spans


@settings(max_examples=60)
@given(data=st.data())
def test_a_shortened_or_foreign_snapshot_is_refused(data: st.DataObject) -> None:
    head = SnapshotHead(
        partition=3, offset=7, base=0, last_base=None, last_hash=b"", fingerprint="f", taken_at=9
    )  # fmt: skip
    whole = encode_snapshot(head, [StreamEntry("a", 1, 0, STATE)] * 300, [])
    with pytest.raises(CorruptSnapshot):
        open_snapshot(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CorruptSnapshot):
        open_snapshot(b"XXXX" + whole[4:])


async def test_a_successor_continues_the_snapshot_and_knows_every_command(log: MemoryEventLog) -> None:
    first = await log.claim(0, "a")
    await append(first, 20)
    assert await save(first)
    await append(first, 5, first=21)
    await first.release()
    second = await log.claim(0, "b")
    found = second.take_snapshot()
    assert found is not None and found.head.offset == 20
    assert second.take_snapshot() is None, "nobody keeps it in memory"
    assert second.next_offset == 25
    for version in range(1, 26):
        known = second.committed(f"c{version}")
        assert known is not None and known.last.offset == version - 1 and known.version == version
    await append(second, 1, first=26)
    assert len(await read_all(log, 0)) == 26


async def test_the_chain_goes_on_from_a_snapshot_at_the_very_tail(log: MemoryEventLog) -> None:
    first = await log.claim(0, "a")
    await append(first, 3)
    before = first.ledger_point()
    assert await save(first)
    await first.release()
    after = (await log.claim(0, "b")).ledger_point()
    assert after == before


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "record", "format", "partition"])
async def test_a_damaged_snapshot_is_passed_over_and_the_log_serves(
    log: MemoryEventLog, store: MemoryStore, damage: str
) -> None:
    writer = await log.claim(0, "a")
    await append(writer, 10)
    assert await save(writer)
    [name] = await blobs(store)
    data, kept = await store.blobs.get(name), store.partitions[0]
    record = msgspec.json.decode(kept.snapshot.record or b"", type=SnapshotRecord)
    match damage:
        case "flip":
            await store.blobs.put(name, data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        case "shorten":
            await store.blobs.put(name, data[:-1])
        case "remove":
            await store.blobs.delete(name)
        case "record":
            kept.snapshot = kept.snapshot._replace(record=b"{}")
        case "format":
            newer = msgspec.structs.replace(record, format=2)
            kept.snapshot = kept.snapshot._replace(record=msgspec.json.encode(newer))
        case "partition":
            store.partitions[1].snapshot = kept.snapshot
    await writer.release()
    successor = await log.claim(1 if damage == "partition" else 0, "b")
    assert successor.take_snapshot() is None
    if damage != "partition":
        assert successor.next_offset == 10
        assert successor.committed("c1") is not None
        await append(successor, 1, first=11)


async def test_a_snapshot_of_another_history_is_passed_over(log: MemoryEventLog, store: MemoryStore) -> None:
    writer = await log.claim(0, "a")
    await append(writer, 10)
    assert await save(writer)
    await writer.release()
    # As after a restore: the same offsets, written by somebody else.
    other = MemoryStore(16)
    other.blobs = store.blobs
    foreign = MemoryEventLog(store=other)
    rewritten = await foreign.claim(0, "x")
    for version in range(1, 12):
        await rewritten.append(f"d{version}", [event("b", version)])
    await rewritten.release()
    other.partitions[0].snapshot = store.partitions[0].snapshot
    successor = await foreign.claim(0, "y")
    assert successor.take_snapshot() is None
    assert successor.committed("c1") is None and successor.committed("d1") is not None
    await foreign.close()


async def test_a_snapshot_from_beyond_the_tail_is_passed_over(log: MemoryEventLog, store: MemoryStore) -> None:
    writer = await log.claim(0, "a")
    await append(writer, 10)
    assert await save(writer)
    await writer.release()
    shorter = MemoryStore(16)
    shorter.blobs, kept = store.blobs, shorter.partitions[0]
    kept.bases = store.partitions[0].bases[:4]
    kept.batches = {base: store.partitions[0].batches[base] for base in kept.bases}
    kept.snapshot = store.partitions[0].snapshot
    restored = MemoryEventLog(store=shorter)
    successor = await restored.claim(0, "b")
    assert successor.take_snapshot() is None and successor.next_offset == 4
    await restored.close()


async def test_a_stale_owner_cannot_point_at_its_snapshot(log: MemoryEventLog, store: MemoryStore) -> None:
    stale = await log.claim(0, "a")
    await append(stale, 5)
    head = head_of(stale)
    data = bytes_of(stale, head)
    owner = await log.claim(0, "b", force=True)
    await append(owner, 3, first=6)
    assert await save(owner)
    pointed = store.partitions[0].snapshot
    assert stale.snapshots is not None
    assert not await stale.snapshots.save(head, data)
    assert store.partitions[0].snapshot == pointed
    assert len(await blobs(store)) == 1, "it takes its own blob back, and no other"
    with pytest.raises(Fenced):
        await append(stale, 1, first=6)


async def test_only_the_newest_two_are_kept(log: MemoryEventLog, store: MemoryStore) -> None:
    writer = await log.claim(0, "a")
    for first in (1, 6, 11, 16):
        await append(writer, 5, first=first)
        assert await save(writer)
    names = await blobs(store)
    assert [int(name.split("/")[2].split("-")[0], 16) for name in names] == [15, 20]


@pytest.mark.parametrize(
    ("step", "left"),
    [("before-blob", 10), ("blob-written", 10), ("pointed", 15), ("pruned", 15)],
)
async def test_a_death_at_any_step_leaves_a_good_snapshot(
    log: MemoryEventLog, store: MemoryStore, step: str, left: int
) -> None:
    writer = await log.claim(0, "a")
    await append(writer, 10)
    assert await save(writer)
    await append(writer, 5, first=11)
    arm(f"log.snapshot.{step}", "once-error")
    try:
        with pytest.raises(FailpointError):
            await save(writer)
    finally:
        disarm(f"log.snapshot.{step}")
    successor = await log.claim(0, "b", force=True)
    found = successor.take_snapshot()
    assert found is not None and found.head.offset == left
    assert successor.next_offset == 15
    # What the death left lying goes with the next save.
    await append(successor, 5, first=16)
    assert await save(successor)
    assert len(await blobs(store)) == 2


async def test_saves_while_commands_go_on_lose_none(log: MemoryEventLog) -> None:
    writer = await log.claim(0, "a")
    saving = asyncio.create_task(append(writer, 200))
    while not saving.done():
        await save(writer)
        await asyncio.sleep(0)
    await saving
    await writer.release()
    successor = await log.claim(0, "b")
    assert all(successor.committed(f"c{version}") for version in range(1, 201))
    await append(successor, 1, first=201)
