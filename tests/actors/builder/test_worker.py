"""The builder's worker: what it claims it carries to its end once, never more at a time than there is room for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from actors.builder.orders import BUILDS, build_task
from actors.builder.slots import NodeSlots
from actors.builder.worker import BuildWorker
from actors.supervisor.orders import BuildOrder
from events.failpoints import arm, disarm
from events.model import build
from events.model.base import Envelope, Meta, Refusal, Reply
from events.model.build import Artifact, BuildState, BuildStatus, FinishBuild, Source
from events.model.registry import decode_command
from events.queue.memory import MemoryTaskQueue, MemoryTopics
from events.queue.task import NewTask

LONG = 30.0
ARTIFACT = Artifact(digest="d", size_bytes=1, processes={"web": "run"})


class Streams:
    """The builds' own streams: decides what the worker says as their owner does, each command once."""

    def __init__(self) -> None:
        self.states: dict[str, BuildState] = {}
        self.told: list[tuple[str, str]] = []
        self._replies: dict[str, Reply] = {}

    def request(self, order: BuildOrder) -> None:
        asked = build.RequestBuild(
            build_id=order.build_id, service_id=order.service_id, team=order.team, app=order.app,
            component=order.component, operation="o", source=order.source,
        )  # fmt: skip
        self.decide(f"build/{order.build_id}", asked)

    def decide(self, stream: str, command: object) -> Refusal | None:
        state = self.states.get(stream, BuildState())
        decision = build.decide(state, command, Meta(command_id="c", at=1, actor="", reason=""))  # type: ignore[arg-type]
        if isinstance(decision, Refusal):
            return decision
        for event in decision:
            self.told.append((stream, type(event).__name__))
            state = build.apply(state, event, 1)  # type: ignore[arg-type]
        self.states[stream] = state
        return None

    async def submit(self, envelopes: Sequence[Envelope]) -> list[Reply]:
        return [self._submit(envelope) for envelope in envelopes]

    def _submit(self, envelope: Envelope) -> Reply:
        if envelope.command_id not in self._replies:
            refusal = self.decide(envelope.stream, decode_command(envelope.stream, envelope.command))
            self._replies[envelope.command_id] = Reply(command_id=envelope.command_id, refusal=refusal)
        return self._replies[envelope.command_id]

    def ended(self, *builds: str) -> bool:
        return all(self.states[f"build/{ident}"].ended for ident in builds)

    def count(self, event: str) -> int:
        return sum(name == event for _, name in self.told)


def order(ident: str, component: str = "") -> BuildOrder:
    return BuildOrder(
        build_id=ident, attempts=0, service_id=component or f"s-{ident}", team="t", app="a", component="web",
        source=Source(kind="upload", digest="x"), timeout_seconds=60,
    )  # fmt: skip


class Yard:
    """A queue, the builds' streams, and workers that come and go."""

    def __init__(self, directory: Path) -> None:
        self.topics = MemoryTopics()
        self.streams = Streams()
        self.running: set[str] = set()
        self.most = 0
        self.begun: list[str] = []
        self.gate = asyncio.Event()
        self._slots = directory / "slots"
        self._lives: list[tuple[MemoryTaskQueue, asyncio.Task[None]]] = []

    async def worker(
        self, name: str, *, slots: int = 2, work: Callable[[BuildOrder, int], Awaitable[FinishBuild]] | None = None
    ) -> BuildWorker:
        queue = MemoryTaskQueue(self.topics)
        await queue.open()
        worker = BuildWorker(
            name=name, queue=queue, commands=self.streams, build=work or self.build, slots=NodeSlots(self._slots, slots)
        )
        self._lives.append((queue, asyncio.create_task(worker.run())))
        return worker

    async def kill(self) -> None:
        """Every worker dies where it is, and says nothing."""
        for queue, life in self._lives:
            life.cancel()
            await queue.close()
            await asyncio.gather(life, return_exceptions=True)
        self._lives.clear()

    async def build(self, order: BuildOrder, attempt: int) -> FinishBuild:
        self.running.add(order.build_id)
        self.begun.append(order.build_id)
        self.most = max(self.most, len(self.running))
        try:
            await asyncio.wait_for(self.gate.wait(), LONG)
            await asyncio.sleep(0)
        finally:
            self.running.discard(order.build_id)
        return FinishBuild(attempt=attempt, status=BuildStatus.SUCCEEDED, artifact=ARTIFACT)

    async def ask(self, *orders: BuildOrder) -> None:
        queue = MemoryTaskQueue(self.topics)
        for one in orders:
            if f"build/{one.build_id}" not in self.streams.states:
                self.streams.request(one)
        await queue.publish(BUILDS, [build_task(one) for one in orders])

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG):
            while not holds():
                await asyncio.sleep(0.005)


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    yield made
    await made.kill()


async def test_fifty_builds_at_once_end_and_no_more_run_than_there_is_room_for(yard: Yard) -> None:
    orders = [order(f"b{n:02d}", f"s{n % 10}") for n in range(50)]
    yard.gate.set()
    await yard.ask(*orders)
    await yard.worker("builder-0")
    await yard.worker("builder-1")
    await yard.until(lambda: yard.streams.ended(*(one.build_id for one in orders)))
    assert yard.most <= 2
    assert yard.streams.count("BuildStarted") == yard.streams.count("BuildSucceeded") == 50
    for component in range(10):
        assert [b for b in yard.begun if int(b[1:]) % 10 == component] == [
            f"b{n:02d}" for n in range(component, 50, 10)
        ]


@pytest.mark.parametrize("line", ["builder.claimed", "builder.begun", "builder.finished", "builder.told"])
async def test_a_builder_that_dies_on_a_line_is_followed_by_another(yard: Yard, line: str) -> None:
    died = asyncio.Event()

    def die() -> None:
        disarm(line)
        died.set()
        raise asyncio.CancelledError

    yard.gate.set()
    arm(line, die)
    try:
        await yard.ask(order("a"))
        await yard.worker("builder-0")
        await asyncio.wait_for(died.wait(), LONG)
        await yard.kill()
        await yard.worker("builder-1")
        queue = MemoryTaskQueue(yard.topics)
        await yard.until(lambda: yard.streams.ended("a"))
        async with asyncio.timeout(LONG):
            while await queue.peek(BUILDS):
                await asyncio.sleep(0.005)
    finally:
        disarm(line)
    assert yard.streams.count("BuildSucceeded") == 1
    assert yard.streams.states["build/a"].status is BuildStatus.SUCCEEDED


async def test_a_build_that_was_cancelled_while_it_waited_is_not_begun(yard: Yard) -> None:
    await yard.ask(order("a"), order("b"))
    yard.streams.decide("build/a", build.CancelBuild())
    yard.gate.set()
    await yard.worker("builder-0")
    await yard.until(lambda: yard.streams.ended("a", "b"))
    assert yard.begun == ["b"]
    assert yard.streams.states["build/a"].status is BuildStatus.CANCELLED


async def test_a_cancellation_whose_builder_died_is_carried_out_by_the_next(yard: Yard) -> None:
    await yard.ask(order("a"))
    await yard.worker("builder-0")
    await yard.until(lambda: yard.begun == ["a"])
    yard.streams.decide("build/a", build.CancelBuild())
    await yard.kill()
    await yard.worker("builder-1")
    await yard.until(lambda: yard.streams.ended("a"))
    assert yard.streams.states["build/a"].status is BuildStatus.CANCELLED
    assert yard.begun == ["a"]


async def test_builders_that_die_again_and_again_end_it(yard: Yard) -> None:
    await yard.ask(order("a"))
    for n in range(build.MAX_ATTEMPTS):
        await yard.worker(f"builder-{n}")
        await yard.until(lambda n=n: len(yard.begun) == n + 1)  # type: ignore[misc]
        await yard.kill()
    await yard.worker("builder-9")
    await yard.until(lambda: yard.streams.ended("a"))
    assert yard.streams.states["build/a"].code == "builder_died"
    assert len(yard.begun) == build.MAX_ATTEMPTS


async def test_a_builder_that_leaves_hands_back_what_it_does_not_finish(yard: Yard) -> None:
    await yard.ask(order("a"))
    leaving = await yard.worker("builder-0")
    await yard.until(lambda: yard.begun == ["a"])
    await leaving.leave(hand_back=False)
    assert list(leaving.running) == ["a"]
    await leaving.leave(hand_back=True)
    assert not leaving.running
    yard.gate.set()
    await yard.worker("builder-1")
    await yard.until(lambda: yard.streams.ended("a"))
    assert yard.streams.count("BuildSucceeded") == 1


async def test_an_order_that_is_none_is_a_dead_letter(yard: Yard) -> None:
    queue = MemoryTaskQueue(yard.topics)
    await queue.publish(BUILDS, [NewTask(id="broken", payload=b"\xc1")])
    await yard.worker("builder-0")
    async with asyncio.timeout(LONG):
        while not (letters := await queue.dead(BUILDS)):
            await asyncio.sleep(0.005)
    assert "not a build order" in letters[0].reason
