"""The owner of a partition: commands become events once, effects follow durable events, a successor goes on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from events.log.errors import LogFull
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import partition_of
from events.model.base import Envelope, Reply, partition_key, service_id_of
from events.model.build import Source
from events.model.component_commands import ChangeSpec, CreateComponent, Deploy, ReportBuildBegun
from events.model.component_parts import ComponentState, Spec
from events.model.component_progress import Effect
from events.model.placement import Room
from events.model.registry import encode_command

SERVICE = service_id_of("default", "shop", "web")
STREAM = f"component/{SERVICE}"
PARTITION = partition_of(partition_key(STREAM), 16)


class Recorder:
    """Notes which effects were asked for, and does nothing: what happens then is the engine's own affair."""

    def __init__(self) -> None:
        self.seen: list[Effect] = []
        self.asked = asyncio.Event()

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        assert entity.pending == 0, "an effect began before its intent was durable"
        self.seen.append(effect)
        self.asked.set()


@asynccontextmanager
async def owner(
    store: MemoryStore, name: str = "supervisor-0", *, force: bool = False
) -> AsyncIterator[PartitionEngine]:
    event_log = MemoryEventLog(partitions=16, store=store)
    await event_log.open()
    writer = await event_log.claim(PARTITION, name, force=force)
    engine = PartitionEngine(event_log=event_log, writer=writer, runner=Recorder(), nodes=lambda: [Room(name="node1")])
    await engine.recover()
    try:
        yield engine
    finally:
        await engine.close()
        await event_log.close()


def create(command_id: str = "create") -> Envelope:
    command = CreateComponent(
        service_id=SERVICE, team="default", app="shop", name="web", process="web",
        spec=Spec(http=True, auto_host="shop.localhost"),
    )  # fmt: skip
    return Envelope(stream=STREAM, command=encode_command(command), command_id=command_id, actor="tester")


def deploy(command_id: str) -> Envelope:
    command = Deploy(source=Source(kind="upload", digest="d"))
    return Envelope(stream=STREAM, command=encode_command(command), command_id=command_id)


def change(command_id: str, **config: str) -> Envelope:
    command = ChangeSpec(config_set=config)
    return Envelope(stream=STREAM, command=encode_command(command), command_id=command_id)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


async def types(engine: PartitionEngine) -> list[str]:
    return [e.record.type async for batch in engine._log.read(PARTITION, 0) for e in batch]


async def test_a_command_is_answered_with_where_its_events_are() -> None:
    async with owner(MemoryStore(16)) as engine:
        reply = await engine.handle(create())
        assert (reply.partition, reply.offset, reply.version) == (PARTITION, 0, 1)
        assert reply.operation == "create"


async def test_the_same_command_id_takes_effect_once_and_answers_the_same() -> None:
    async with owner(MemoryStore(16)) as engine:
        await engine.handle(create())
        first, second = await asyncio.gather(engine.handle(change("c1", A="1")), engine.handle(change("c1", A="2")))
        again = await engine.handle(change("c1", A="3"))
        assert first.offset == second.offset == again.offset
        state = engine.entities[STREAM].state
        assert isinstance(state, ComponentState)
        assert state.spec.config == {"A": "1"}


async def test_a_successor_answers_a_known_command_from_the_ledger() -> None:
    store = MemoryStore(16)
    async with owner(store) as engine:
        await engine.handle(create())
        first = await engine.handle(change("c1", A="1"))
        later = await engine.handle(change("c2", A="3"))
        # The stream has moved on, the answer has not.
        assert await engine.handle(change("c1", A="2")) == first
        assert later.version > first.version
    async with owner(store) as successor:
        assert await successor.handle(change("c1", A="2")) == first
        assert (await types(successor)).count("SpecChanged") == 2


async def test_a_full_log_is_said_in_the_reply_and_the_command_may_be_sent_again() -> None:
    async with owner(MemoryStore(16)) as engine:
        refusal: LogFull | None = LogFull(used_bytes=81, budget_bytes=80, advice="let the archive work")
        engine._writer._refuse = lambda: refusal  # type: ignore[attr-defined]
        refused = await engine.handle(create())
        assert (refused.error, refused.offset) == ("full", -1)
        assert "let the archive work" in refused.error_message
        refusal = None
        assert (await engine.handle(create())).version == 1


async def test_of_fifty_deploys_at_once_the_newest_stays_until_its_build_begins() -> None:
    async with owner(MemoryStore(16)) as engine:
        await engine.handle(create())
        replies = await asyncio.gather(*(engine.handle(deploy(f"d{i}")) for i in range(50)))
        assert {r.refusal for r in replies} == {None}
        told = Counter(await types(engine))
        assert (told["DeployRequested"], told["OperationCancelled"], told["BuildAbandoned"]) == (50, 49, 49)
        begun = encode_command(ReportBuildBegun(build_id=f"{SERVICE}-d49"))
        await engine.handle(Envelope(stream=STREAM, command=begun, command_id="begun"))
        late = await engine.handle(deploy("late"))
        assert late.refusal is not None and late.refusal.code == "conflict"
        assert "d49" in late.refusal.message


async def test_an_effect_is_asked_for_only_when_its_intent_is_durable_and_again_by_a_successor() -> None:
    store = MemoryStore(16)
    async with owner(store) as engine:
        await engine.handle(create())
        await engine.handle(deploy("d1"))
        recorder = engine.runner
        assert isinstance(recorder, Recorder)
        await eventually(lambda: any(e.kind == "await-build" for e in recorder.seen))
    async with owner(store) as successor:
        recorder = successor.runner
        assert isinstance(recorder, Recorder)
        await eventually(lambda: any(e.kind == "await-build" for e in recorder.seen))


async def test_a_successor_serves_before_it_looks_at_what_follows_from_the_states() -> None:
    store = MemoryStore(16)
    async with owner(store) as engine:
        await engine.handle(create())
        first = await engine.handle(deploy("d1"))
    async with owner(store) as successor:
        recorder = successor.runner
        assert isinstance(recorder, Recorder)
        assert not successor.nodes_met, "nothing was asked yet what follows from it"
        assert await successor.handle(deploy("d1")) == first
        await eventually(lambda: any(e.kind == "await-build" for e in recorder.seen))
        assert list(successor.nodes_met) == ["node1"]


async def test_a_fenced_owner_decides_nothing_more() -> None:
    store = MemoryStore(16)
    async with owner(store) as old:
        await old.handle(create())
        async with owner(store, "supervisor-1", force=True) as new:
            late = await old.handle(change("late", A="stale"))
            assert late.error == "not_owner"
            assert old.closed
            assert (await new.handle(change("fresh", A="1"))).error == ""
            state = new.entities[STREAM].state
            assert isinstance(state, ComponentState)
            assert state.spec.config == {"A": "1"}


async def test_an_idle_owner_learns_that_it_was_fenced() -> None:
    store = MemoryStore(16)
    async with owner(store) as old:
        await old.handle(create())
        async with owner(store, "supervisor-1", force=True) as new:
            await new.handle(change("fresh", A="1"))
            async with asyncio.timeout(10):
                while not old.closed:
                    await asyncio.sleep(0.02)


async def test_an_expected_version_that_has_moved_is_refused() -> None:
    async with owner(MemoryStore(16)) as engine:
        await engine.handle(create())
        stale = msgspec.structs.replace(change("c1", A="1"), expected_version=7)
        reply = await engine.handle(stale)
        assert reply.refusal is not None
        assert reply.refusal.code == "version_mismatch"


@pytest.mark.parametrize(
    ("stream", "body"),
    [(STREAM, b"\xc1"), (STREAM, msgspec.msgpack.encode({"type": "NoSuch"})), ("nonsense/x", b"\x80")],
)
async def test_what_is_no_command_is_refused_and_changes_nothing(stream: str, body: bytes) -> None:
    async with owner(MemoryStore(16)) as engine:
        reply: Reply = await engine.handle(Envelope(stream=stream, command=msgspec.Raw(body), command_id="x"))
        assert reply.refusal is not None
        assert reply.refusal.code == "invalid"
        assert await types(engine) == []
