"""Who lives in a simulated world: owners that compete and serve clients, followers, readers, archivers, a compactor.

Each runs production code over a simulated client and writes down what it saw. Knows nothing of faults.
"""

import asyncio
from collections import deque
from typing import NamedTuple

import msgspec

from events.log.archive.archiver import ArchivePolicy, Archiver, Reach
from events.log.archive.compactor import Compactor
from events.log.archive.keeper import LogKeeper
from events.log.archive.space import Budget
from events.log.errors import ArchiveUnavailable, EtcdRefused, LogError, LogUnavailable
from events.log.etcd_claim import EpochRecord
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_store import EtcdStore
from events.log.keys import Keys
from events.log.records import StoredEvent
from events.log.writer import WriterLimits
from tests.checker.history import Recorder
from tests.simulation.owner import Owner
from tests.simulation.server import SETTINGS, SimulatedServer
from tests.simulation.simulated_blobs import EveryBlob, SimulatedBlobs
from tests.simulation.truth import Truth
from tests.simulation.world import Process, World

KEYS = Keys(SETTINGS.namespace)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One seed's world; `draw` in scenario.py makes it. Times in seconds of that world."""

    partitions: int
    owners: int
    followers: int
    commands: int
    """Per partition."""
    streams: int
    clients: int
    """Per owner: commands in flight at once."""
    think_s: float
    """What a client waits on average before its next command."""
    force: float
    """Share of claims that take the partition whoever has it."""
    tenure_s: float
    """How long an owner serves, on average, before it releases the partition by itself."""
    repeat: float
    """Share of commands that are sent again after they were answered."""
    recheck_s: float
    compact_every_s: float
    archivers: int
    archive_every_s: float
    retain_s: float
    segment_bytes: int
    snapshot_events: int
    """Events after which an owner takes a snapshot; 0: nobody takes any."""
    snapshot_s: float
    folds: int
    """How many versions of the fold are running, as amid an upgrade; 1: all the same."""
    quota_bytes: int
    """Of etcd, and of the budget of gates and keepers; 0: as good as none, and archivers without a budget."""
    padding: int
    """Bytes by which each event is larger than it need be."""


class Command(NamedTuple):
    command_id: str
    partition: int
    stream: str
    events: int


class Work:
    """The commands that someone wants done. What a dead client had in hand goes back for another to repeat."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self.todo: dict[int, deque[Command]] = {}
        self._hands: dict[int, list[Command]] = {}
        """By the client's pid."""
        self.left = plan.partitions * plan.commands
        self.attempts = 0
        for partition in range(plan.partitions):
            self.todo[partition] = deque(
                Command(
                    f"c{partition}.{n}",
                    partition,
                    f"team/{partition}.{int(world.chance.random() * plan.streams)}",
                    1 if plan.padding else 1 + int(world.chance.random() ** 3 * 4),
                )
                for n in range(plan.commands)
            )

    def take(self, client: int, partition: int) -> Command | None:
        if not self.todo[partition]:
            return None
        command = self.todo[partition].popleft()
        self._hands.setdefault(client, []).append(command)
        return command

    def done(self, client: int, command: Command) -> None:
        self._hands[client].remove(command)
        if self._world.chance.random() < self._plan.repeat:
            self.todo[command.partition].append(command)
        else:
            self.left -= 1

    def give_back(self, client: int, command: Command) -> None:
        self._hands[client].remove(command)
        self._put_back(command)

    def give_back_all(self, client: int) -> None:
        """The client is dead."""
        for command in self._hands.pop(client, []):
            self._put_back(command)

    def _put_back(self, command: Command) -> None:
        todo = self.todo[command.partition]
        todo.insert(int(self._world.chance.random() * (len(todo) + 1)), command)


class Household:
    """What the world's processes share: the server, the work, and what is written down of it all."""

    def __init__(self, world: World, server: SimulatedServer, plan: Plan) -> None:
        self.world = world
        self.server = server
        self.plan = plan
        self.work = Work(world, plan)
        self.recorder = Recorder(clock=world.clock_ns)
        self.kept = EveryBlob()
        self.truth = Truth(server.model)
        self.budget = Budget(quota_bytes=plan.quota_bytes) if plan.quota_bytes else None
        self.refused = 0
        """Appends that a gate did not take."""
        self.checkpoints: dict[tuple[str, int], int] = {}
        """What each follower has durably handled: (name, partition) to the next offset."""
        self.closing = False

    def log(self, process: Process) -> EtcdEventLog:
        chance = self.world.chance
        limits = WriterLimits(append_deadline_s=0.5 + 4.0 * chance.random(), drain_deadline_s=3.0 * chance.random())
        return EtcdEventLog(
            SETTINGS,
            partitions=self.plan.partitions,
            limits=limits,
            recheck_s=self.plan.recheck_s,
            client=self.server.client(process),
            members=self.server.members(process),
            budget=self.budget,
            blobs=self._blobs(process),
        )

    def padding(self) -> str:
        """Of an event's body, so that it cannot be compressed much."""
        size = self.plan.padding
        return f"{self.world.chance.getrandbits(4 * size):0{size}x}" if size else ""

    async def opened(self, process: Process) -> EtcdEventLog:
        while True:
            log = self.log(process)
            try:
                await log.open()
            except LogUnavailable:
                await asyncio.sleep(0.1)
                continue
            return log

    def newest_epoch(self, partition: int) -> int:
        """What etcd holds now, which no process can know."""
        return msgspec.json.decode(self.server.model.value(KEYS.epoch(partition)), type=EpochRecord).epoch

    # -- an owner

    async def own(self, process: Process) -> None:
        """Claim a partition, serve it for a while, again and again. Each claim is served beside the others."""
        log = await self.opened(process)
        chance = self.world.chance
        async with asyncio.TaskGroup() as group:
            while not self.closing:
                partition = int(chance.random() * self.plan.partitions)
                try:
                    writer = await self.recorder.claim(
                        process.name, log, partition, force=chance.random() < self.plan.force
                    )
                except (LogUnavailable, EtcdRefused):
                    await asyncio.sleep(0.2 * chance.random())
                    continue
                except LogError as error:
                    self.world.note(f"{process.name} claims {partition} in vain: {type(error).__name__}")
                    await asyncio.sleep(1.0 * chance.random())
                    continue
                self.world.note(f"{process.name} owns {partition} under epoch {writer.epoch}")
                group.create_task(Owner(self, process, log, writer).serve())
                await asyncio.sleep(self.plan.tenure_s * chance.random())

    # -- consumers

    async def follow(self, process: Process, name: str) -> None:
        """From its checkpoint, keeping it, until it is killed or the world ends."""
        log = await self.opened(process)
        start = {partition: self.checkpoints.get((name, partition), 0) for partition in range(self.plan.partitions)}

        def keep(events: list[StoredEvent]) -> None:
            last = events[-1].position
            self.checkpoints[name, last.partition] = last.offset + 1

        await self.recorder.follow(name, log, start, keep)

    async def read(self, process: Process) -> None:
        """Now and then, from anywhere, to the tail."""
        log = await self.opened(process)
        chance = self.world.chance
        while True:
            await asyncio.sleep(1.5 * chance.random())
            partition = int(chance.random() * self.plan.partitions)
            try:
                start = int(chance.random() * (await log.tail(partition) + 1))
                await self.recorder.read(process.name, log, partition, start)
            except (LogUnavailable, ArchiveUnavailable):
                continue

    async def read_all(self, process: Process, partition: int) -> None:
        """Everything, once, from wherever it is kept."""
        log = await self.opened(process)
        while True:
            try:
                await self.recorder.read(process.name, log, partition, 0)
                return
            except (LogUnavailable, ArchiveUnavailable):
                await asyncio.sleep(0.5)

    async def compact(self, process: Process) -> None:
        compactor = Compactor(self.server.client(process), KEYS, interval_s=self.plan.compact_every_s)
        while True:
            await asyncio.sleep(self.plan.compact_every_s * self.world.chance.random())
            at = int(self.world.now * 1e6)
            try:
                await (compactor.now(at) if self.world.chance.random() < 0.3 else compactor.tick(at))
            except (LogUnavailable, EtcdRefused):
                continue

    async def archive(self, process: Process) -> None:
        """Small segments, soon: what is a day and a MiB elsewhere is a second and a batch here.

        Within a quota they are of several batches, for each has a manifest in etcd, as large as half of one.
        """
        chance, plan = self.world.chance, self.plan
        least = plan.segment_bytes // 2 if plan.quota_bytes else 1
        policy = ArchivePolicy(retain_s=plan.retain_s, segment_bytes=plan.segment_bytes, least_bytes=least)
        if self.budget is not None:
            await self._keep_within(process, self.budget, policy)
        archiver = Archiver(hot=EtcdStore(self.server.client(process), KEYS), blobs=self._blobs(process), policy=policy)
        while True:
            await asyncio.sleep(plan.archive_every_s * 2 * chance.random())
            try:
                reach = Reach(young=chance.random() < 0.3, small=chance.random() < 0.3)
                await archiver.step(int(chance.random() * plan.partitions), reach)
            except (LogUnavailable, ArchiveUnavailable, EtcdRefused):
                continue

    async def _keep_within(self, process: Process, budget: Budget, policy: ArchivePolicy) -> None:
        """The platform's archiver: rounds for ever."""
        keeper = LogKeeper(
            client=self.server.client(process),
            members=self.server.members(process),
            blobs=self._blobs(process),
            partitions=self.plan.partitions,
            budget=budget,
            policy=policy,
            compact_every_s=self.plan.compact_every_s,
            on_warning=lambda words: self.world.note(f"{process.name} {words}"),
        )
        while True:
            try:
                await keeper.round()
            except (LogUnavailable, EtcdRefused) as error:
                self.world.note(f"{process.name} {error}")
            await asyncio.sleep(self.plan.archive_every_s)

    def _blobs(self, process: Process) -> SimulatedBlobs:
        return SimulatedBlobs(process, self.kept, self.server.weather)
