"""One seed, one world around the task queue: publishers, consumers, what befalls them, and the judge of what etcd then
holds.

Production code over simulated channels. Knows nothing of the event log.
"""

import asyncio
from collections.abc import Callable

import msgspec

from events.log.errors import LogError
from events.queue.etcd_queue import EtcdTaskQueue
from events.queue.keys import Kind, QueueKeys
from events.queue.steps import decode_progress, decode_task
from events.queue.task import ClaimRef, Consumer, NewTask
from tests.simulation.etcd_model import EtcdModel
from tests.simulation.server import SETTINGS, SimulatedServer, Weather
from tests.simulation.world import Process, Stuck, World

TOPIC = "work"
TROUBLE_S = 20.0
HEALED_WITHIN_S = 900.0
KEYS = QueueKeys(SETTINGS.namespace)


class QueueResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one seed came to."""

    seed: int
    violations: tuple[str, ...]
    done: int
    claims: int
    stale: int


class QueueWorld:
    def __init__(self, world: World) -> None:
        chance = world.chance
        self.world = world
        bad = chance.random() > 0.2

        def share(most: float) -> float:
            return chance.random() * most if bad and chance.random() < 0.5 else 0.0

        self.weather = Weather(
            slow_s=chance.choice((0.001, 0.003, 0.02)), lost_request=share(0.1), lost_reply=share(0.3),
            delayed=share(0.1), repeated=share(0.4), missed=share(0.1),
        )  # fmt: skip
        self.server = SimulatedServer(world, EtcdModel(), self.weather)
        self.tasks = [f"t{n:03d}" for n in range(chance.randint(5, 40))]
        self.lanes = chance.choice((1, 3, 100))
        self.alone = chance.random() < 0.5
        self.work_s = chance.choice((0.0, 0.3, 3.0))
        self.visible_s = chance.choice((2.0, 60.0))
        self.published = 0
        self.accepted: list[ClaimRef] = []
        self.stale = 0
        self.queues: dict[str, EtcdTaskQueue] = {}
        self.members: dict[str, Process] = {}
        self._troubled = True
        self._endings: list[tuple[str, str]] = []
        self._told = 0

    def run(self) -> None:
        world, chance = self.world, self.world.chance
        self._start("p", self._publish)
        for n in range(chance.choice((1, 2, 3))):
            self._start(f"c{n}", self._consume)
        self._tick_leases()
        for kind in (
            self._kill,
            self._pause,
            self.server.break_watches,
            self.server.silence_watches,
            self._lose_leader,
        ):
            if chance.random() < 0.4:
                self._again(kind, chance.choice((0.5, 2.0, 6.0)))
        world.at(world.now + TROUBLE_S * chance.random(), self._heal)
        try:
            world.run(self._is_over, TROUBLE_S + HEALED_WITHIN_S)
        finally:
            self._heal()  # whoever is paused must wake to be ended

    # --- who lives here ---------------------------------------------------------------------------------------------

    def _start(self, name: str, life: Callable[[Process, str], object]) -> None:
        if self.world.ending:
            return
        self.members[name] = process = Process(self.world, name)
        process.spawn(life(process, name), name)  # type: ignore[arg-type]

    async def _publish(self, process: Process, name: str) -> None:
        queue = await self._member(process, name)
        while self.published < len(self.tasks):
            some = self.tasks[self.published : self.published + 1 + int(self.world.chance.random() * 5)]
            new = [
                NewTask(
                    id=ident, key=self._lane(ident), payload=b"x", max_attempts=10_000, visible_seconds=self.visible_s,
                    back_off_seconds=0.1,
                )
                for ident in some
            ]  # fmt: skip
            try:
                await queue.publish(TOPIC, new)
            except LogError:
                continue
            self.published += len(some)
            await asyncio.sleep(self.world.chance.random())

    async def _consume(self, process: Process, name: str) -> None:
        queue = await self._member(process, name)
        chance = self.world.chance
        while True:
            try:
                claims = await queue.claim(TOPIC, Consumer(name=name), most=chance.randint(1, 4), wait_seconds=5.0)
                for claim in claims:
                    await asyncio.sleep(self.work_s * chance.random())
                    if chance.random() < 0.1:
                        await queue.nack([claim.ref], reason="not today")
                        continue
                    [accepted] = await queue.ack([claim.ref])
                    if accepted:
                        self.accepted.append(claim.ref)
                    else:
                        self.stale += 1
            except LogError:
                continue

    async def _member(self, process: Process, name: str) -> EtcdTaskQueue:
        while True:
            client = self.server.client(process)
            queue = EtcdTaskQueue(client, name=name, alone=self.alone)
            try:
                await client.open()
                await queue.open()
                self.queues[name] = queue
                return queue
            except LogError:
                await asyncio.sleep(0.2)

    def _lane(self, ident: str) -> str:
        return f"k{int(ident[1:]) % self.lanes}"

    # --- what befalls them ------------------------------------------------------------------------------------------

    def _again(self, kind: Callable[[], None], mean_s: float) -> None:
        def befall() -> None:
            if self._troubled:
                self.world.note(f"trouble: {kind.__name__}")
                kind()
                self._again(kind, mean_s)

        self.world.after(mean_s * 2 * self.world.chance.random(), befall)

    def _kill(self) -> None:
        victim = self.world.chance.choice(list(self.members.values()))
        if not victim.dead:
            victim.kill()
            life = self._publish if victim.name == "p" else self._consume
            self.world.after(self.world.chance.random(), lambda: self._start(victim.name, life))

    def _pause(self) -> None:
        victim = self.world.chance.choice(list(self.members.values()))
        victim.pause()
        # Often longer than a session lives.
        self.world.after(self.world.chance.random() * 25.0, victim.resume)

    def _lose_leader(self) -> None:
        self.server.down = True
        self.server.break_watches()

        def elect() -> None:
            self.server.down = False
            self.server.model.restart_leases(self.world.now)

        self.world.after(1.5 * self.world.chance.random() ** 2, elect)

    def _tick_leases(self) -> None:
        self.server.expire_leases()
        self.world.after(0.5, self._tick_leases)

    def _heal(self) -> None:
        self._troubled = False
        weather = self.server.weather
        weather.lost_request = weather.lost_reply = weather.delayed = weather.repeated = weather.missed = 0.0
        for process in self.members.values():
            process.resume()

    def _is_over(self) -> bool:
        if self.published < len(self.tasks):
            return False
        return len(self._done()) >= len(self.tasks)

    # --- the judge --------------------------------------------------------------------------------------------------

    def _done(self) -> list[tuple[str, str]]:
        """(id, claim) of every ending ever, in the order it happened."""
        mark, changes = KEYS.done(TOPIC, ""), self.server.model.changes
        for change in (change for some in changes[self._told :] for change in some):
            key = change.item.key.decode()
            if not change.deleted and key.startswith(mark):
                self._endings.append((key.removeprefix(mark), change.item.value.decode()))
        self._told = len(changes)
        return self._endings

    def judge(self) -> list[str]:
        """Each task is stored once, ends once, in order within its key, and is never claimed before its turn."""
        found: list[str] = []
        lanes: dict[str, list[str]] = {}
        stored: set[str] = set()
        epochs: dict[str, int] = {}
        for changes in self.server.model.changes:
            for change in changes:
                place = KEYS.parse(change.item.key.decode())
                if place is None or place.kind in (Kind.LANE, Kind.DEAD):
                    continue
                lane = lanes.setdefault(self._lane(place.task), [])
                if place.kind is Kind.TASK and change.deleted:
                    if lane[0] != place.task:
                        found.append(f"{place.task} ended before {lane[0]} of its key")
                    lane.remove(place.task)
                elif place.kind is Kind.TASK:
                    if place.task in stored:
                        found.append(f"{place.task} was stored twice")
                    stored.add(decode_task(change.item.value).id)
                    lane.append(place.task)
                elif place.kind is Kind.PROGRESS and not change.deleted:
                    progress = decode_progress(change.item.value)
                    if progress.claim and lane[0] != place.task:
                        found.append(f"{place.task} was claimed while {lane[0]} of its key was there")
                    if progress.claim and progress.attempts <= epochs.get(place.task, 0):
                        found.append(f"{place.task} was claimed twice as attempt {progress.attempts}")
                    epochs[place.task] = progress.attempts
        done = self._done()
        if len({ident for ident, _ in done}) != len(done):
            found.append(f"tasks ended twice: {done}")
        by = dict(done)
        found += [f"{ref} was accepted, and {by.get(ref.task)} ended it" for ref in self.accepted
                  if by.get(ref.task) != ref.claim]  # fmt: skip
        return found

    def claims(self) -> int:
        """How many were ever made."""
        return sum(
            1
            for changes in self.server.model.changes
            for change in changes
            if not change.deleted
            and (place := KEYS.parse(change.item.key.decode())) is not None
            and place.kind is Kind.PROGRESS
            and decode_progress(change.item.value).claim
        )


def run_queue_seed(seed: int, *, tracing: bool = False) -> QueueResult:
    """The whole life of one world."""
    with World(seed, tracing=tracing) as world:
        scenario = QueueWorld(world)
        violations: list[str] = []
        try:
            scenario.run()
        except Stuck as stuck:
            left = set(scenario.tasks) - {ident for ident, _ in scenario._done()}
            violations.append(f"STUCK: {stuck}: {sorted(left)} left of {scenario.published} published")
        violations += scenario.judge()
        violations += [f"ERROR: {error}" for error in world.errors]
        return QueueResult(
            seed=seed,
            violations=tuple(violations),
            done=len(scenario._done()),
            claims=scenario.claims(),
            stale=scenario.stale,
        )
