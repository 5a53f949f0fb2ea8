"""A successor goes on from a snapshot exactly as from the whole log, whenever its predecessor died while taking one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.supervisor import snapshots as taking
from actors.supervisor.engine import PartitionEngine
from actors.supervisor.snapshots import SnapshotPolicy
from benchmarks.histories import component_life
from events.failpoints import FailpointError, arm, disarm
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import EventRecord
from events.model.component_parts import ComponentState
from events.model.placement import Room
from events.model.registry import fold
from events.replay import current
from tests.actors.supervisor.test_partition_engine import PARTITION, STREAM, Recorder, change, create, eventually

NEVER = SnapshotPolicy(events=1 << 40, seconds=1e6, apart_seconds=0.0)
ALWAYS = SnapshotPolicy(events=1, seconds=1e6, apart_seconds=0.0)


@asynccontextmanager
async def engine_on(
    store: MemoryStore, name: str = "a", *, policy: SnapshotPolicy = NEVER, die: bool = False
) -> AsyncIterator[tuple[PartitionEngine, int]]:
    """An engine, and how many events it folded when it began. `die`: as by kill -9, nothing is given back."""
    event_log = MemoryEventLog(partitions=16, store=store)
    await event_log.open()
    writer = await event_log.claim(PARTITION, name, force=True)
    engine = PartitionEngine(
        event_log=event_log, writer=writer, runner=Recorder(), nodes=lambda: [Room(name="node1")], snapshots=policy
    )
    count = await engine.recover()
    try:
        yield engine, count
    finally:
        if die:
            await event_log.close()
            for task in engine._upkeep:
                task.cancel()
        else:
            await engine.close()
            await event_log.close()


async def fill(store: MemoryStore, records: list[EventRecord]) -> None:
    event_log = MemoryEventLog(partitions=16, store=store)
    writer = await event_log.claim(PARTITION, "filler")
    for record in records:
        await writer.append(record.event_id, [record])
    await writer.release()
    await event_log.close()


def states(engine: PartitionEngine) -> dict[str, tuple[object, int, int]]:
    return {s: (e.state, e.version, e.last_offset) for s, e in engine.entities.items() if e.version}


async def logged(engine: PartitionEngine) -> dict[str, list[EventRecord]]:
    streams: dict[str, list[EventRecord]] = {}
    async for part in engine._log.read(PARTITION, 0):
        for stored in part:
            streams.setdefault(stored.record.stream, []).append(stored.record)
    return streams


async def assert_as_the_log_says(engine: PartitionEngine) -> None:
    for stream, records in (await logged(engine)).items():
        assert engine.entities[stream].state == fold(stream, records)
        assert engine.entities[stream].version == len(records)


async def test_a_release_leaves_a_snapshot_and_the_next_owner_folds_nothing() -> None:
    store = MemoryStore(16)
    await fill(store, component_life(2))
    async with engine_on(store) as (first, count):
        assert count == len(component_life(2))
        reply = await first.handle(create())
        before = states(first)
    async with engine_on(store, "b") as (second, count):
        assert count == 0
        assert states(second) == before
        await assert_as_the_log_says(second)
        assert await second.handle(create()) == reply, "the ledger came with it"


async def test_after_a_death_only_the_tail_is_folded() -> None:
    store = MemoryStore(16)
    await fill(store, component_life(3))
    async with engine_on(store):
        pass
    async with engine_on(store, "b", die=True) as (second, _):
        await second.handle(create())
        await second.handle(change("c1", A="1"))
    async with engine_on(store, "c") as (third, count):
        assert count == len((await logged(third))[STREAM])
        await assert_as_the_log_says(third)


async def test_a_snapshot_while_commands_stream_in_is_a_cut_of_durable_events() -> None:
    store = MemoryStore(16)
    async with engine_on(store, policy=ALWAYS, die=True) as (engine, _):
        await engine.handle(create())
        for at in range(30):
            await asyncio.gather(*(engine.handle(change(f"c{at}.{n}", **{f"K{n}": str(at)})) for n in range(10)))
        await eventually(lambda: store.partitions[PARTITION].snapshot.record is not None)
    async with engine_on(store, "b") as (successor, _):
        await assert_as_the_log_says(successor)
        state = successor.entities[STREAM].state
        assert isinstance(state, ComponentState)
        assert state.spec.config == {f"K{n}": "29" for n in range(10)}


async def test_a_cut_holds_what_is_still_in_flight_and_waits_for_it() -> None:
    store = MemoryStore(16)
    async with engine_on(store, die=True) as (engine, _):
        await engine.handle(create())
        taker = engine.snapshots
        assert taker is not None
        asking = asyncio.create_task(engine.handle(change("c1", A="1")))
        await asyncio.sleep(0)  # decided and submitted, not yet durable
        assert engine.entities[STREAM].pending > 0
        assert await taker.take()
        await asking
    async with engine_on(store, "b") as (successor, count):
        assert count == 0
        await assert_as_the_log_says(successor)


@pytest.mark.parametrize(
    "step", ["supervisor.snapshot.durable", "log.snapshot.before-blob", "log.snapshot.blob-written",
             "log.snapshot.pointed", "log.snapshot.pruned"],
)  # fmt: skip
async def test_a_death_amid_a_snapshot_harms_nothing(step: str) -> None:
    store = MemoryStore(16)
    async with engine_on(store, die=True) as (engine, _):
        await engine.handle(create())
        taker = engine.snapshots
        assert taker is not None and await taker.take()
        await engine.handle(change("c1", A="1"))
        arm(step, "once-error")
        try:
            with pytest.raises(FailpointError):
                await taker.take()
        finally:
            disarm(step)
    async with engine_on(store, "b") as (successor, _):
        await assert_as_the_log_says(successor)
        assert (await successor.handle(change("c1", A="2"))).version == successor.entities[STREAM].version


async def test_states_of_another_fold_are_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(16)
    monkeypatch.setattr(taking, "fold_fingerprint", lambda: "an older version")
    async with engine_on(store) as (first, _):
        await first.handle(create())
    monkeypatch.undo()
    async with engine_on(store, "b") as (second, count):
        assert count == len((await logged(second))[STREAM]), "folded from the first event"
        await assert_as_the_log_says(second)


async def test_an_owner_that_was_fenced_leaves_no_snapshot() -> None:
    store = MemoryStore(16)
    async with engine_on(store, "stale") as (stale, _):
        await stale.handle(create())
        async with engine_on(store, "b", die=True) as (owner, _):
            await owner.handle(change("c1", A="1"))
            assert (await stale.handle(change("late", A="2"))).error == "not_owner"
            taker = stale.snapshots
            assert taker is not None and not await taker.take()
    assert store.partitions[PARTITION].snapshot.record is None
    assert await store.blobs.names("snapshots") == []


async def test_the_loop_serves_others_while_a_partition_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(16)
    await fill(store, component_life(4))
    turns = 0
    folding = asyncio.Event()
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()
    add = current.add_batches

    def slow(*arguments: object) -> None:
        loop.call_soon_threadsafe(folding.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(current, "add_batches", slow)

    async def other() -> None:
        nonlocal turns
        await folding.wait()
        turns += 1  # another partition's command, served while this one's fold is under way
        go_on.set()

    serving = asyncio.create_task(other())
    async with asyncio.timeout(10), engine_on(store) as (engine, _):
        await serving
        await assert_as_the_log_says(engine)
    assert turns == 1
