"""One seed, one world: draws who lives in it and what befalls them, runs it to its end, and judges what they saw.

Knows faults and the judge; what owners and followers do is the household's.
"""

import gc
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import msgspec
import structlog

from actors.supervisor import snapshots as taking
from events.log.codec import decode_header
from events.log.keys import Keys
from events.log.records import Position
from events.replay import current
from tests.checker.rules import check
from tests.checker.stored import Batch, batch_of
from tests.simulation.etcd_model import EtcdModel
from tests.simulation.household import Household, Plan
from tests.simulation.server import SETTINGS, SimulatedServer, Weather
from tests.simulation.truth import judge_snapshots
from tests.simulation.world import Process, Stuck, World

TROUBLE_S = 20.0
"""How long the world is bad at most; then it heals, and what is left to do must come to an end."""
AFTERMATH_S = 6.0
HEALED_WITHIN_S = 600.0
NO_QUOTA = 1 << 40
SMALL_QUOTA_BYTES = 40_000
"""One world in eight: what it writes is about as much, and a batch of it is small beside what a gate leaves free."""
SMALL_PADDING = 1_500
SMALL_SEGMENT_BYTES = 8_000
KEYS = Keys(SETTINGS.namespace)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one seed came to. `digest` is of the trace, or of the log if it was not traced."""

    seed: int
    violations: tuple[str, ...]
    events: int
    claims: int
    segments: int
    snapshots: int
    """How many were pointed at."""
    refused: int
    """Appends that a full log did not take."""
    calls: int
    virtual_s: float
    digest: str
    trace: tuple[str, ...] = ()


def run_seed(seed: int, *, tracing: bool = False) -> Result:
    """The whole life of one world."""
    with World(seed, tracing=tracing) as world, _surroundings(world):
        scenario = _Scenario(world)
        violations: list[str] = []
        try:
            scenario.run()
        except Stuck as stuck:
            violations.append(f"STUCK: {stuck}: {scenario.unfinished()}")
        batches = scenario.batches()
        history = scenario.house.recorder.history()
        violations += [str(violation) for violation in check(history, batches)]
        violations += judge_snapshots(scenario.server.model, scenario.house.kept.ever, scenario.plan.partitions)
        violations += scenario.overfull()
        violations += [f"ERROR: {error}" for error in world.errors]
        trace = tuple(world.trace or ())
        told = "\n".join(trace).encode() if tracing else b"".join(scenario.values())
        return Result(
            seed=seed,
            violations=tuple(violations),
            events=sum(len(batch.events) for batch in batches),
            claims=len(history.claims),
            segments=scenario.segments(),
            snapshots=scenario.count(b"/snap"),
            refused=scenario.house.refused,
            calls=scenario.server.calls,
            virtual_s=round(world.now - 1000.0, 3),
            digest=hashlib.sha256(told).hexdigest(),
            trace=trace,
        )


def settle() -> None:
    """What is loaded by now stays: no need to look through it for garbage after each seed."""
    gc.freeze()


def timed_seed(seed: int) -> tuple[Result, float]:
    """One seed, and the seconds of CPU that it took."""
    began = time.process_time()
    return run_seed(seed), time.process_time() - began


@contextmanager
def _surroundings(world: World) -> Iterator[None]:
    """Whose fold is asked for is the running process's; what production logs is a line of the trace."""

    def tell(logger: object, method: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
        world.note(f"{method}: {line.pop('event')} {line}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[tell], cache_logger_on_first_use=False)
    try:
        with (
            patch.object(current, "fold_fingerprint", world.fold),
            patch.object(taking, "fold_fingerprint", world.fold),
        ):
            yield
    finally:
        structlog.configure(**before)


def draw_plan(chance: random.Random) -> Plan:
    small = chance.random() < 0.12
    return Plan(
        partitions=chance.choice((1, 1, 2)),
        owners=chance.choice((1, 2, 2, 3)),
        followers=chance.choice((1, 1, 2)),
        commands=chance.randint(30, 45) if small else chance.randint(8, 30),
        streams=chance.randint(1, 5),
        clients=chance.randint(1, 2 if small else 5),
        think_s=chance.choice((0.0, 0.2, 0.6)),
        force=chance.choice((0.0, 0.3, 0.6)),
        tenure_s=chance.choice((0.5, 3.0, 30.0)),
        repeat=chance.choice((0.0, 0.2)),
        # Some followers have nothing but their watch to hear by.
        recheck_s=chance.choice((2.0, 10.0, 100_000.0)),
        compact_every_s=chance.choice((0.8, 2.0, 10.0)),
        archivers=chance.choice((1, 2)) if small else chance.choice((0, 1, 2, 2)),
        archive_every_s=chance.choice((0.3, 1.0)) if small else chance.choice((0.1, 0.3, 2.0)),
        retain_s=chance.choice((0.0, 0.0, 1.0)),
        segment_bytes=SMALL_SEGMENT_BYTES if small else chance.choice((1, 1000, 4000)),
        snapshot_events=chance.choice((0, 2, 5, 12)),
        snapshot_s=chance.choice((0.3, 3.0)),
        folds=chance.choice((1, 1, 2)),
        quota_bytes=SMALL_QUOTA_BYTES if small else 0,
        padding=SMALL_PADDING if small else 0,
    )


def draw_weather(chance: random.Random, plan: Plan) -> Weather:
    """One world in five has fair weather; in each other some kinds of trouble."""
    bad = chance.random() > 0.2

    def share(most: float) -> float:
        return chance.random() * most if bad and chance.random() < 0.5 else 0.0

    return Weather(
        slow_s=chance.choice((0.001, 0.003, 0.02)),
        lost_request=share(0.1),
        lost_reply=share(0.3),
        delayed=share(0.1),
        repeated=share(0.4),
        # Of a change that no watch tells a follower learns by the next one, or when it looks again.
        missed=share(0.1) if plan.recheck_s < 100 else 0.0,
    )


class _Scenario:
    def __init__(self, world: World) -> None:
        chance = world.chance
        self.world = world
        self.plan = draw_plan(chance)
        self.weather = draw_weather(chance, self.plan)
        model = EtcdModel(quota_bytes=self.plan.quota_bytes or NO_QUOTA)
        self.server = SimulatedServer(world, model, msgspec.structs.replace(self.weather))
        self.house = Household(world, self.server, self.plan)
        self.owners: dict[str, Process] = {}
        self.followers: dict[str, Process] = {}
        self.archivers: dict[str, Process] = {}
        self._troubled = True
        self._filled_up = False
        self._truth: list[tuple[int, int, int, bytes]] = []
        self._tails = dict.fromkeys(range(self.plan.partitions), 0)
        self._told = 0

    def run(self) -> None:
        world, plan = self.world, self.plan
        for n in range(plan.owners):
            self._start_owner(f"o{n}")
        for n in range(plan.followers):
            self._start_follower(f"f{n}")
        for n in range(plan.archivers):
            self._start_archiver(f"a{n}")
        for name, life in (("r", self.house.read), ("k", self.house.compact)):
            process = Process(world, name)
            process.spawn(life(process), name)
        self._tick_leases()
        trouble = [self._kill_owner, self._pause_owner, self._kill_follower, self._cut_watches, self._lose_leader]
        trouble += [self._silence, self._fill_up, self._pause_follower]
        if plan.archivers:
            trouble += [self._kill_archiver, self._pause_archiver]
        for kind in trouble:
            if world.chance.random() < 0.4:
                self._again(kind, world.chance.choice((0.5, 2.0, 6.0)))
        world.at(world.now + TROUBLE_S * world.chance.random(), self._heal)
        world.run(lambda: self.house.work.left == 0, TROUBLE_S + HEALED_WITHIN_S)
        # What was late may still come; then nothing more befalls anybody.
        calm_at = world.now + AFTERMATH_S * world.chance.random()
        world.at(calm_at, self._heal)
        world.run(lambda: world.now >= calm_at, 2 * AFTERMATH_S)
        self.house.closing = True
        world.run(self._followers_are_there, HEALED_WITHIN_S)
        for name in self.followers:
            self.house.recorder.caught_up(name)
        process = Process(world, "last")
        reading = [process.spawn(self.house.read_all(process, number), "read") for number in range(plan.partitions)]
        world.run(lambda: all(task.done() for task in reading), HEALED_WITHIN_S)

    def unfinished(self) -> str:
        return f"{self.house.work.left} commands left, followers at {self.house.checkpoints}"

    # -- the truth

    def values(self) -> list[bytes]:
        return [value for _, _, _, value in self._stored()]

    def batches(self) -> list[Batch]:
        """Every batch ever put, from the model's history, in the order it happened."""
        return [batch_of(*stored) for stored in self._stored()]

    def segments(self) -> int:
        """How many were recorded."""
        return self.count(b"/seg/")

    def count(self, part: bytes) -> int:
        """Puts of keys that have `part` in them."""
        every = (change for changes in self.server.model.changes for change in changes)
        return sum(part in change.item.key for change in every if not change.deleted)

    def overfull(self) -> list[str]:
        """A gate refuses an append before etcd has to, unless somebody else filled it.

        Claims and marks go past the gate: so small an etcd they can fill, a real one they cannot.
        """
        appends = sum(_puts_a_batch(request) for request in self.server.model.exceeded_by)
        if self.plan.quota_bytes and appends and not self._filled_up:
            return [f"FULL: etcd itself had to refuse an append, {appends} times"]
        return []

    def _stored(self) -> list[tuple[int, int, int, bytes]]:
        """(partition, base, revision, value) of every batch ever put."""
        changes = self.server.model.changes
        for change in (change for changes in changes[self._told :] for change in changes):
            if not change.deleted and (place := KEYS.parse_batch(change.item.key.decode())) is not None:
                self._truth.append((*place, change.item.mod_revision, change.item.value))
                self._tails[place[0]] = decode_header(change.item.value, Position(*place)).end
        self._told = len(changes)
        return self._truth

    def _followers_are_there(self) -> bool:
        self._stored()
        return all(
            self.house.checkpoints.get((name, partition), 0) == tail
            for name in self.followers
            for partition, tail in self._tails.items()
        )

    # -- processes

    def _start_owner(self, name: str) -> None:
        self.owners[name] = process = Process(self.world, name)
        process.fold = f"fold-{1 + int(self.world.chance.random() * self.plan.folds)}"
        process.spawn(self.house.own(process), "own")

    def _start_follower(self, name: str) -> None:
        self.followers[name] = process = Process(self.world, name)
        process.spawn(self.house.follow(process, name), "follow")

    def _start_archiver(self, name: str) -> None:
        self.archivers[name] = process = Process(self.world, name)
        process.spawn(self.house.archive(process), "archive")

    # -- trouble

    def _again(self, kind: Callable[[], None], mean_s: float) -> None:
        """`kind` befalls the world again and again until it heals."""

        def befall() -> None:
            if self._troubled:
                self.world.note(f"trouble: {kind.__name__}")
                kind()
                self._again(kind, mean_s)

        self.world.after(mean_s * 2 * self.world.chance.random(), befall)

    def _tick_leases(self) -> None:
        self.server.expire_leases()
        self.world.after(0.5, self._tick_leases)

    def _one(self, processes: dict[str, Process]) -> Process:
        return self.world.chance.choice(list(processes.values()))

    def _kill_owner(self) -> None:
        victim = self._one(self.owners)
        if victim.dead:
            return
        victim.kill()
        self.house.work.give_back_all(victim.pid)
        self.world.after(self.world.chance.random(), lambda: self._start_owner(victim.name))

    def _kill_follower(self) -> None:
        victim = self._one(self.followers)
        victim.kill()
        self._start_follower(victim.name)

    def _pause_owner(self) -> None:
        self._pause(self._one(self.owners))

    def _pause_follower(self) -> None:
        self._pause(self._one(self.followers))

    def _kill_archiver(self) -> None:
        victim = self._one(self.archivers)
        victim.kill()
        self._start_archiver(victim.name)

    def _pause_archiver(self) -> None:
        self._pause(self._one(self.archivers))

    def _pause(self, victim: Process) -> None:
        victim.pause()
        # Often longer than a lease lives.
        self.world.after(self.world.chance.random() * 25.0, victim.resume)

    def _cut_watches(self) -> None:
        self.server.break_watches()

    def _silence(self) -> None:
        self.server.silence_watches()

    def _lose_leader(self) -> None:
        """Nobody answers; then a new leader does, and leases begin anew."""
        self.server.down = True
        self.server.break_watches()

        def elect() -> None:
            self.server.down = False
            self.server.model.restart_leases(self.world.now)

        self.world.after(1.5 * self.world.chance.random() ** 2, elect)

    def _fill_up(self) -> None:
        """The quota is full from the next write on, until somebody makes room."""
        model = self.server.model
        model.quota_bytes = model.file_bytes
        self._filled_up = True

        def make_room() -> None:
            model.quota_bytes = self.plan.quota_bytes or NO_QUOTA
            if not self.plan.quota_bytes:
                model.disarm()  # else it is the archiver's work

        self.world.after(1.5 * self.world.chance.random() ** 2, make_room)

    def _heal(self) -> None:
        """From now on nothing befalls anybody; what is under way already may still arrive late."""
        if not self._troubled:
            return
        self.world.note("the world heals")
        self._troubled = False
        self.server.weather.lost_request = self.server.weather.lost_reply = 0.0
        self.server.weather.delayed = self.server.weather.repeated = self.server.weather.missed = 0.0
        for process in (*self.owners.values(), *self.followers.values(), *self.archivers.values()):
            process.resume()


def _puts_a_batch(request: Any) -> bool:
    """An append does; a claim, a mark, or an archiver's transaction that compares and deletes batches does not."""
    puts = (operation.request_put.key.decode() for operation in getattr(request, "success", ()))
    return any(KEYS.parse_batch(key) is not None for key in puts)
