"""Every effect repeated, cut off, failing on every line and run by an owner that is none any more: one life of an app
comes out the same each time, with one process for each slot and one ending for each operation."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.node import agent
from actors.node.agent import AlreadyOver, Prepared
from actors.supervisor import owed
from actors.supervisor.effects import EffectFailed
from actors.supervisor.engine import EffectRunner, PartitionEngine
from actors.supervisor.entity import Entity
from actors.supervisor.orders import StartOrder
from events import failpoints
from events.log.codec import decode_batch
from events.log.records import EventRecord, Position
from events.model.app import CreateApp, DestroyApp, RegisterComponent
from events.model.base import service_id_of
from events.model.build import Source
from events.model.component_commands import CancelOperation, ChangeSpec, CreateComponent, Deploy
from events.model.component_parts import ComponentStatus, RouteSpec, Spec
from events.model.component_progress import Effect
from events.model.registry import decode_event
from tests.faults.household import PARTITION, World, until

pytestmark = pytest.mark.servers  # half a minute of real processes: too long for test-fast

WEB = f"component/{service_id_of('default', 'shop', 'web')}"
ROUTE = RouteSpec("shop.example.com")
KINDS = ("await-build", "run-build", "claim", "start", "wait-applied", "sibling", "tell-parent", "wait-drained", "stop",
         "free", "cancel-build", "cancel-running-build", "destroy-component", "deregister")  # fmt: skip
ENDINGS = ("OperationSucceeded", "OperationFailed", "OperationCancelled", "OperationTimedOut")
CUTS = 60  # more await points than any effect has
LINES = (
    *("effects.before-start", "effects.after-start", "effects.before-stop", "effects.after-stop"),
    *("effects.build-requested", "effects.build-ended", "effects.build-queued"),
    *("effects.build-cancelled", "effects.claimed", "effects.freed", "effects.applied", "effects.drained"),
    *("effects.sibling-RegisterComponent", "effects.sibling-CreateComponent", "effects.sibling-DeployArtifact"),
    *("effects.parent-told", "effects.destroy-sent", "effects.deregistered"),
    *("node.order-written", "node.started", "node.marked-over", "node.stopped", "node.ready-seen", "node.exit-seen"),
    *("runtime.directories", "runtime.port", "runtime.spec", "runtime.spawn"),
)
OWNERS_LINES = ("supervisor.before-append", "supervisor.after-commit", "log.append.before", "log.append.committed")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    # Not pytest's own directory: other users must be able to pass through, and socket paths are short.
    base = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    base.chmod(0o711)
    world = World(base)
    await world.open()
    try:
        yield world
    finally:
        for name in failpoints.armed():
            failpoints.disarm(name)
        await world.close()
        shutil.rmtree(base)


class Repeated:
    """Runs each effect, and once it has come to its end once more."""

    def __init__(self, effects: EffectRunner) -> None:
        self._effects = effects

    async def run(self, owner: PartitionEngine, entity: Entity, effect: Effect) -> None:
        await self._effects.run(owner, entity, effect)
        await self._effects.run(owner, entity, effect)


class CutOff:
    """Cuts each effect off at its first await, its second and so on, before it lets it come to its end."""

    def __init__(self, effects: EffectRunner) -> None:
        self._effects = effects
        self.cut: Counter[str] = Counter()

    async def run(self, owner: PartitionEngine, entity: Entity, effect: Effect) -> None:
        for at in range(CUTS):
            task = asyncio.create_task(_run(_At(self._effects.run(owner, entity, effect), at, _cancel_this)))
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()
            if not task.cancelled():
                return task.result()
            self.cut[effect.kind] += 1
        raise EffectFailed(f"{effect.kind} never came to its end")


class _At:
    """Runs a coroutine, and something else before its `at`-th wait."""

    def __init__(self, work: Any, at: int, then: Callable[[], Awaitable[None]]) -> None:
        self._work = work.__await__()
        self._at = at
        self._then = then

    def __await__(self) -> Generator[Any, Any, None]:
        waits = 0
        try:
            awaited = self._work.send(None)
            while True:
                if waits == self._at:
                    yield from self._then().__await__()
                waits += 1
                try:
                    found = yield awaited
                except BaseException as error:
                    awaited = self._work.throw(error)
                else:
                    awaited = self._work.send(found)
        except StopIteration:
            return


async def _run(work: _At) -> None:
    await work


async def _cancel_this() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


class Stale:
    """Holds the first effect of a kind that nobody has held yet, at its `at`-th await (-1: before it), until `over`.

    Meanwhile the partition goes to another owner; only then does this one go on with its other effects.
    """

    def __init__(self, effects: EffectRunner, held: set[str], at: int, over: asyncio.Event) -> None:
        self._effects = effects
        self._held = held
        self._at = at
        self._over = over
        self.holds = asyncio.Event()
        self.taken = asyncio.Event()
        self.late: list[asyncio.Task[None]] = []

    async def run(self, owner: PartitionEngine, entity: Entity, effect: Effect) -> None:
        if self.holds.is_set() or effect.kind in self._held:
            if self.holds.is_set():
                await self.taken.wait()
            await self._effects.run(owner, entity, effect)
            return
        self._held.add(effect.kind)
        # Of its own: an owner that hangs is not cancelled by anybody either.
        late = asyncio.create_task(self._late(owner, entity, effect))
        self.late.append(late)
        await asyncio.shield(late)

    async def _late(self, owner: PartitionEngine, entity: Entity, effect: Effect) -> None:
        try:
            if self._at < 0:
                await self._hold()
            await _At(self._effects.run(owner, entity, effect), self._at, self._hold)
        finally:
            self.holds.set()

    async def _hold(self) -> None:
        self.holds.set()
        await self._over.wait()


class Life:
    """One app from its first deploy to its end, with every kind of effect in it."""

    def __init__(self, world: World, *, before_each_step: Callable[[], None] = lambda: None) -> None:
        self.world = world
        self.operations: list[str] = []
        self._before_each_step = before_each_step

    async def live(self) -> None:
        for step in (self.deploy, self.change_all, self.free_the_address, self.cancel_a_build, self.destroy):
            self._before_each_step()
            await step()
        await self.check()

    async def deploy(self) -> None:
        world = self.world
        await world.ask("app/default.shop", CreateApp(team="default", name="shop"), "app")
        service = service_id_of("default", "shop", "web")
        await world.ask("app/default.shop", RegisterComponent(name="web", service_id=service), "registered")
        spec = Spec(http=True, auto_host="shop.localhost", routes=(ROUTE,), grace_seconds=1)
        create = CreateComponent(service_id=service, team="default", app="shop", name="web", process="web", spec=spec)
        await world.ask(WEB, create, "created")
        await self._do("deploy", Deploy(source=Source(kind="upload", digest="one")))
        await self._runs(1, 1)

    async def change_all(self) -> None:
        await self._do("change", ChangeSpec(config_set={"A": "1"}))
        await self._runs(2, 1)

    async def free_the_address(self) -> None:
        await self._do("unroute", ChangeSpec(routes_remove=(ROUTE,)))
        await until("the address to be free", lambda: not self.world.component("web").claims)

    async def cancel_a_build(self) -> None:
        self.world.slow = True
        await self._ask("cancelled", Deploy(source=Source(kind="upload", digest="two")))
        await until("a builder to build", self.world.building.is_set)
        await self.world.ask(WEB, CancelOperation(operation="cancelled"), "cancel")
        await until("the cancelled deploy to end", lambda: self._has("OperationCancelled", 1))

    async def destroy(self) -> None:
        await self.world.ask("app/default.shop", DestroyApp(), "destroy")
        self.operations.append("destroy")
        for process in ("web", "worker"):
            await until(f"{process} to be gone", partial(self._gone, process))
        await until("the app to be gone", lambda: self._has("AppDestroyed", 1))

    async def check(self) -> None:
        """Once for each, whatever was repeated: processes, operations, and one owner's events after the other's."""
        world = self.world
        await until("nothing to run", lambda: not world.processes())
        assert await world.running() == []
        told = [stored.record for stored in await world.events()]
        intents = [_told(record, "instance") for record in told if record.type == "InstanceStarting"]
        assert world.started() == sorted(intents), "expected one process for each intent, and none without"
        assert len(intents) == 3, "web.1, web.1 of the next release, worker.1"
        endings = Counter(_told(record, "operation") for record in told if record.type in ENDINGS)
        assert set(endings.values()) == {1}, endings
        assert {*self.operations, "deploy-worker"} <= endings.keys()
        assert world.epochs() == sorted(world.epochs()), "an owner wrote after its successor"

    def _gone(self, process: str) -> bool:
        return self.world.component(process).status is ComponentStatus.DESTROYED

    def _has(self, kind: str, count: int) -> bool:
        kept = self.world.owner.engines.get(PARTITION)
        return kept is not None and self.counted[kind] >= count

    @property
    def counted(self) -> Counter[str]:

        kept = self.world.store.partitions[PARTITION]
        found: Counter[str] = Counter()
        for base in kept.bases:
            _, records = decode_batch(kept.batches[base].value, Position(PARTITION, base))
            found.update(record.type for record in records)
        return found

    async def _ask(self, name: str, command: Deploy | ChangeSpec) -> None:
        await self.world.ask(WEB, command, name)
        self.operations.append(name)

    async def _do(self, name: str, command: Deploy | ChangeSpec) -> None:
        before = self.counted["OperationSucceeded"]
        await self._ask(name, command)
        await until(f"{name} to succeed", lambda: self.counted["OperationSucceeded"] > before)
        await until(f"{name} to be over", lambda: bool(self.world.ready("web")))

    async def _runs(self, release: int, scale: int) -> None:
        """Exactly what the log knows runs, and the machine shows the same."""
        world = self.world
        await until("every instance to be ready", lambda: bool(world.ready("web") and world.ready("worker")))
        wanted = sorted(world.ready("web") + world.ready("worker"))
        assert len(wanted) == scale + 1
        assert world.component("web").current == release
        await until(f"exactly {wanted} to run", lambda: world.processes() == wanted, 5)


def _told(record: EventRecord, name: str) -> str:
    return str(getattr(decode_event(record), name))


async def test_a_life_without_faults(world: World) -> None:
    await world.own("s1")
    await Life(world).live()


async def test_every_effect_run_twice_and_every_message_delivered_twice(world: World) -> None:
    world.delivered = 2
    await world.own("s1", Repeated)
    await Life(world).live()


async def test_every_effect_cut_off_at_each_of_its_await_points(world: World) -> None:
    runner: list[CutOff] = []

    def around(effects: EffectRunner) -> EffectRunner:
        runner.append(CutOff(effects))
        return runner[0]

    await world.own("s1", around)
    await Life(world).live()
    assert set(KINDS) <= runner[0].cut.keys()


async def test_every_line_of_an_effect_fails_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owed, "RETRY_MAX_SECONDS", owed.RETRY_FIRST_SECONDS)
    monkeypatch.setattr(agent, "REPORT_RETRY_MAX_SECONDS", agent.REPORT_RETRY_FIRST_SECONDS)
    for line in LINES:
        failpoints.arm(line, "once-error")
    world.answers_first = True  # else the line behind a stop's answer is not always reached
    await world.own("s1")
    await Life(world).live()
    assert failpoints.armed() == [], "expected every line to be reached"


@pytest.mark.parametrize("line", OWNERS_LINES)
async def test_an_owner_whose_line_fails_in_every_step_goes_on_from_the_log(world: World, line: str) -> None:
    await world.own("s1")
    world.tend()
    await Life(world, before_each_step=lambda: failpoints.arm(line, "once-error")).live()
    assert failpoints.armed() == []


@pytest.mark.parametrize("at", [-1, 0, 1, 2], ids=["before", "first-await", "second-await", "third-await"])
async def test_an_owner_that_is_none_any_more_changes_nothing(world: World, at: int) -> None:
    """Fourteen owners one after the other, each stale amid an effect of another kind."""
    over = asyncio.Event()
    held: set[str] = set()
    stale: list[Stale] = []

    def holding(effects: EffectRunner) -> Stale:
        stale.append(Stale(effects, held, at, over))
        return stale[-1]

    async def take_over() -> None:
        while True:
            await world.own(f"s{len(stale)}", holding)
            if len(stale) > 1:
                stale[-2].taken.set()
            await stale[-1].holds.wait()

    owners = asyncio.create_task(take_over())
    await until("an owner", lambda: bool(stale))
    life = Life(world)
    await life.live()
    owners.cancel()
    before = [stored.record.event_id for stored in await world.events()]
    over.set()
    late = [task for one in stale for task in one.late]
    assert held == set(KINDS)
    _, waiting = await asyncio.wait(late, timeout=1)
    for one in waiting:
        one.cancel()  # it waits for an event that only its successor was told of
    await life.check()
    assert [stored.record.event_id for stored in await world.events()] == before


async def test_an_operation_cancelled_amid_its_claims_keeps_none(world: World) -> None:
    """An address is claimed, and before its component is told of it the operation is over."""
    over, held = asyncio.Event(), set(KINDS)

    def holding(effects: EffectRunner) -> Stale:
        stale = Stale(effects, held, 0, over)
        stale.taken.set()  # nobody will take the partition: it goes on with all but the claim
        return stale

    await world.own("s1", holding)
    life = Life(world)
    await life.deploy()
    held.remove("claim")
    other = ChangeSpec(routes_add=(RouteSpec("other.example.com"),))
    await world.ask(WEB, other, "change")
    await until("the address to be claimed", lambda: life.counted["RouteClaimed"] == 2)
    await world.ask(WEB, CancelOperation(operation="change"), "cancel")
    await until("the address to be free", lambda: life.counted["RouteReleased"] == 1)
    await until("the component to know", lambda: life.counted["RoutesFreed"] == 1)
    await until("no doubt to be left", lambda: world.component("web").claims == (ROUTE,))
    assert not world.component("web").doubtful
    over.set()


async def test_a_start_that_comes_after_the_stop_starts_nothing(world: World) -> None:
    order = StartOrder(
        instance="i-1", service_id="0123456789abcdef", team="default", app="shop", component="web", release=1, slot=1,
        kind="service", command="sh worker.sh", artifact="sha256:one", config={}, http=False, probe_path="",
        start_timeout_seconds=5, grace_seconds=1, memory_bytes=1 << 28, open_files=256, processes=16,
    )  # fmt: skip
    layout = asyncio.Event()
    prepare = world.place.prepare

    async def slowly(digest: str, team: str, app: str) -> Prepared:
        await layout.wait()
        return await prepare(digest, team, app)

    world.place.prepare = slowly  # type: ignore[method-assign]
    starting = asyncio.create_task(world.agent.start(order))
    await until("the order to be there", (world.base / "orders" / "i-1.order").exists)
    await world.agent.stop("i-1", 1)
    layout.set()
    for late in (starting, world.agent.start(order)):
        with pytest.raises(AlreadyOver):
            await late
    assert await world.running() == []
    assert world.started() == []
