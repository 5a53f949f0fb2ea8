"""The batching writer by itself: the chain it writes, what it refuses before anything is queued, and deadlines."""

import asyncio
from itertools import pairwise

import msgspec
import pytest

from events.log.codec import MAX_BATCH_BYTES, batch_hash, decode_header
from events.log.errors import InvalidAppend, LogFull, LogUnavailable
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import Position
from events.log.recovery import recover
from events.log.writer import BatchingWriter, WriterLimits
from tests.events.log.contract import event


class Slots:
    """Slots over a memory store, without a fence."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.answers = asyncio.Event()
        self.answers.set()

    async def commit(self, *, base: int, previous: int | None, txn_id: str, value: bytes) -> int:
        await self.answers.wait()
        return self._store.put(0, base, value)

    async def hint(self, base: int) -> None:
        self._store.partitions[0].tail_hint = base

    async def give_up(self, last_base: int | None) -> None:
        self._store.partitions[0].tail_hint = last_base or 0


async def test_each_batch_carries_the_hash_of_the_one_before_it_across_owners() -> None:
    store = MemoryStore(1)
    log = MemoryEventLog(partitions=1, store=store)
    for version, owner in enumerate(("a", "a", "b", "c"), start=1):
        writer = await log.claim(0, owner, force=True)
        await writer.append(f"c{version}", [event("s/1", version)])
    values = [batch.value for batch in await store.page(0, 0)]
    headers = [decode_header(value, Position(0, base)) for base, value in enumerate(values)]
    assert headers[0].previous == b""
    assert [later.previous for _, later in pairwise(headers)] == [batch_hash(value) for value in values[:-1]]
    await log.close()


async def test_a_full_log_takes_nothing_new_and_answers_what_it_knows() -> None:
    store = MemoryStore(1)
    refusal: LogFull | None = None
    writer = BatchingWriter(
        partition=0, epoch=1, recovered=await recover(store, 0), slots=Slots(store), refuse=lambda: refusal
    )
    first = await writer.append("c1", [event("s/1", 1)])
    refusal = LogFull(used_bytes=81, budget_bytes=80, advice="let the archive work")
    with pytest.raises(LogFull, match="at most 80 bytes in etcd, found 81; let the archive work"):
        writer.submit("c2", [event("s/1", 2)])
    assert (await writer.append("c1", [])).first == first.first
    refusal = None
    # The refused one left no trace: its version is free.
    assert (await writer.append("c2", [event("s/1", 2)])).version == 2
    await writer.release()


async def test_who_waited_too_long_is_told_and_what_was_sent_stays_on_its_way() -> None:
    store = MemoryStore(1)
    slots = Slots(store)
    slots.answers.clear()
    limits = WriterLimits(append_deadline_s=0.05)
    writer = BatchingWriter(partition=0, epoch=1, recovered=await recover(store, 0), slots=slots, limits=limits)
    patient = writer.submit("c1", [event("s/1", 1)])
    in_flight, queued, joined = await asyncio.gather(
        writer.append("c0", [event("s/0", 1)]),
        writer.append("c2", [event("s/1", 2)]),
        writer.append("c1", [event("s/1", 1)]),
        return_exceptions=True,
    )
    for command_id, outcome in (("c0", in_flight), ("c2", queued), ("c1", joined)):
        assert isinstance(outcome, LogUnavailable)
        assert f"'{command_id}' within 0.05 s" in str(outcome)
    assert not patient.done(), "submit has no deadline"
    with pytest.raises(LogUnavailable, match="'c2'"):
        # A later waiter has a deadline of its own.
        await writer.append("c2", [])
    slots.answers.set()
    assert (await patient).first == Position(0, 0)
    assert (await writer.append("c2", [])).first == Position(0, 2)
    await writer.release()


async def test_an_event_that_cannot_be_stored_is_refused_alone_and_those_beside_it_share_their_batch() -> None:
    store = MemoryStore(1)
    writer = BatchingWriter(partition=0, epoch=1, recovered=await recover(store, 0), slots=Slots(store))
    before = writer.submit("c1", [event("s/1", 1)])
    for bad in (
        msgspec.structs.replace(event("s/2", 1), body=msgspec.Raw(b"\x01\x02")),
        msgspec.structs.replace(event("s/2", 1), actor="\ud800"),
        msgspec.structs.replace(event("s/2", 1), body=msgspec.Raw(msgspec.msgpack.encode("x" * MAX_BATCH_BYTES))),
    ):
        with pytest.raises(InvalidAppend, match="'c2'"):
            writer.submit("c2", [bad])
    after = writer.submit("c3", [event("s/1", 2)])
    # The refused ones took neither the version nor the command id.
    again = writer.submit("c2", [event("s/2", 1)])
    assert [(await each).first.offset for each in (before, after, again)] == [0, 1, 2]
    assert len(await store.page(0, 0)) == 1
    await writer.release()
