"""A stream that cannot be handled is tried three times, each try on record before it is made, then parked with what
follows; its partition's others go on, and a person has it tried again or left out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from events.hand import Hand
from events.log.memory import MemoryEventLog, MemoryStore
from events.model import registry
from events.model.base import Command, Envelope, Event, Meta, Reply
from events.model.component_progress import Effect
from events.model.parked import RetryParked, SkipParked, parked_stream
from events.model.registry import Aggregate, encode_command
from events.model.team import CreateTeam, IssueTeamToken, TeamState, TeamTokenIssued
from events.model.team import apply as apply_team

SICK, WELL = "team/sick", "team/well"


class Idle:
    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        """Nothing owes anything here."""


@asynccontextmanager
async def owner(store: MemoryStore, hand: Hand | None = None) -> AsyncIterator[PartitionEngine]:
    log = MemoryEventLog(partitions=1, store=store)
    await log.open()
    writer = await log.claim(0, "a", force=True)
    engine = PartitionEngine(event_log=log, writer=writer, runner=Idle(), nodes=lambda: [], hand=hand)
    engine.parking._again_seconds = 0.01
    await engine.recover()
    try:
        yield engine
    finally:
        await engine.close()
        await log.close()


async def send(engine: PartitionEngine, stream: str, command: Command, ident: str) -> Reply:
    envelope = Envelope(stream=stream, command=encode_command(command), command_id=ident, reason="looked at it")
    return await engine.handle(envelope)


async def told(engine: PartitionEngine, stream: str) -> list[str]:
    found = [e async for batch in engine._log.read(0, 0) for e in batch]
    return [e.record.type for e in found if e.record.stream == stream]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


def change(monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    """The team aggregate with another part, for as long as the test lasts."""
    known = registry.AGGREGATES["team"]
    fields = {name: getattr(known, name) for name in Aggregate.__struct_fields__}
    monkeypatch.setitem(registry.AGGREGATES, "team", Aggregate(**{**fields, **parts}))


class Death(BaseException):
    """Stands for the end of the process: nothing of what would follow is done."""


class Fault:
    """`progress` that fails for one team for as long as it is told to."""

    def __init__(self) -> None:
        self.broken = True
        self.tried = 0
        self.error: BaseException = KeyError("no such thing")

    def progress(self, state: TeamState, now: int, nodes: object) -> list[Event]:
        if state.name == "sick" and self.broken:
            self.tried += 1
            raise self.error
        return []


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    made = Fault()
    change(monkeypatch, progress=made.progress)
    return made


async def test_after_three_tries_it_is_parked_and_the_others_go_on(fault: Fault) -> None:
    async with owner(MemoryStore(1)) as engine:
        await send(engine, SICK, CreateTeam(name="sick"), "c1")
        await until(lambda: engine.parking.parked(SICK) is not None)
        assert fault.tried == 3
        assert await told(engine, parked_stream(SICK)) == ["HandlingTried", "HandlingTried", "StreamParked"]
        assert (await send(engine, WELL, CreateTeam(name="well"), "c2")).version == 1
        refused = await send(engine, SICK, IssueTeamToken(name="ci", sha256="0" * 64), "c3")
        assert refused.refusal is not None and "parked" in refused.refusal.message
        [state] = engine.parking.states
        assert (state.stream, state.tries, state.handler) == (SICK, 3, "progress")
        assert "no such thing" in state.error


async def test_it_stays_parked_for_the_next_owner(fault: Fault) -> None:
    store = MemoryStore(1)
    async with owner(store) as engine:
        await send(engine, SICK, CreateTeam(name="sick"), "c1")
        await until(lambda: engine.parking.parked(SICK) is not None)
    async with owner(store) as successor:
        assert successor.parking.parked(SICK) is not None
        assert fault.tried == 3


async def test_tried_again_once_the_fault_is_mended_it_goes_on(fault: Fault) -> None:
    async with owner(MemoryStore(1)) as engine:
        await send(engine, SICK, CreateTeam(name="sick"), "c1")
        await until(lambda: engine.parking.parked(SICK) is not None)
        fault.broken = False
        await send(engine, parked_stream(SICK), RetryParked(), "retry")
        await until(lambda: engine.parking.parked(SICK) is None)
        assert (await send(engine, SICK, IssueTeamToken(name="ci", sha256="0" * 64), "c2")).version == 2


async def test_a_try_that_succeeds_is_on_record_too(fault: Fault) -> None:
    async with owner(MemoryStore(1)) as engine:
        await send(engine, SICK, CreateTeam(name="sick"), "c1")
        await until(lambda: fault.tried == 1)
        fault.broken = False
        await until(lambda: not engine.parking._states and not engine.parking._trying)
        assert await told(engine, parked_stream(SICK)) == ["HandlingTried", "HandlingSucceeded"]


async def test_skipped_it_takes_commands_again_and_what_failed_is_left_undone_at_that_version(fault: Fault) -> None:
    async with owner(MemoryStore(1)) as engine:
        await send(engine, SICK, CreateTeam(name="sick"), "c1")
        await until(lambda: engine.parking.parked(SICK) is not None)
        await send(engine, parked_stream(SICK), SkipParked(), "skip")
        await until(lambda: engine.parking.parked(SICK) is None)
        assert fault.tried == 3
        fault.broken = False
        assert (await send(engine, SICK, IssueTeamToken(name="ci", sha256="0" * 64), "c2")).version == 2


async def test_who_took_the_process_along_is_tried_on_record_only_and_parked_after_three(
    fault: Fault, tmp_path: Path
) -> None:
    """The process dies in the handler: what it had in hand is in the file that its successor reads."""
    fault.broken = False
    store, file = MemoryStore(1), tmp_path / "hand"
    async with owner(store) as engine:
        await send(engine, SICK, CreateTeam(name="sick"), "c1")
    fault.broken, fault.error = True, Death()
    for number in (2, 3):
        Hand(file).take(SICK.encode())  # and there it died
        async with owner(store, Hand(file)) as engine:
            await until(lambda number=number: fault.tried == number - 1)  # type: ignore[misc]
            assert await told(engine, parked_stream(SICK)) == ["HandlingTried"] * (number - 1)
    Hand(file).take(SICK.encode())
    async with owner(store, Hand(file)) as engine:
        await until(lambda: engine.parking.parked(SICK) is not None)
        assert fault.tried == 2
        assert (await send(engine, WELL, CreateTeam(name="well"), "c2")).version == 1


async def test_an_event_that_cannot_be_folded_sets_its_stream_aside_with_those_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore(1)
    async with owner(store) as engine:
        await send(engine, SICK, CreateTeam(name="sick"), "c1")
        await send(engine, WELL, CreateTeam(name="well"), "c2")
        await send(engine, SICK, IssueTeamToken(name="bad", sha256="0" * 64), "c3")
        await send(engine, SICK, IssueTeamToken(name="good", sha256="0" * 64), "c4")
        engine.snapshots = None  # of the fold as it was, which the next owner would not look into

    def apply(state: TeamState, event: Event, at: int) -> TeamState:
        if isinstance(event, TeamTokenIssued) and event.name == "bad":
            raise ZeroDivisionError("cannot be")
        return apply_team(state, event, at)  # type: ignore[arg-type]

    change(monkeypatch, apply=apply)
    async with owner(store) as engine:
        await until(lambda: engine.parking.parked(SICK) is not None)
        parked = engine.parking.parked(SICK)
        assert parked is not None and parked.handler == "fold" and "1 events behind" in parked.error
        assert (await send(engine, WELL, IssueTeamToken(name="ci", sha256="1" * 64), "c5")).version == 2
        await send(engine, parked_stream(SICK), SkipParked(), "skip")
        await until(lambda: engine.closed)
    async with owner(store) as engine:
        assert engine.parking.parked(SICK) is None
        state = engine.entities[SICK].state
        assert isinstance(state, TeamState) and list(state.tokens) == ["good"]
        assert (await send(engine, SICK, IssueTeamToken(name="more", sha256="0" * 64), "c6")).version == 4


async def test_a_command_that_cannot_be_decided_is_answered_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decide(state: TeamState, command: Command, meta: Meta) -> list[Event]:
        raise ZeroDivisionError("cannot be")

    async with owner(MemoryStore(1)) as engine:
        change(monkeypatch, decide=decide)
        reply = await send(engine, SICK, CreateTeam(name="sick"), "c1")
        assert reply.error == "failed"
        assert await told(engine, SICK) == []
