"""Who lives in a simulated world: owners that compete and serve clients, followers, readers, archivers, a compactor.

Each runs production code over a simulated client and writes down what it saw. Knows nothing of faults.
"""

import asyncio
from collections import deque
from typing import NamedTuple

import msgspec

from events.log.archive.archiver import ArchivePolicy, Archiver, Reach
from events.log.archive.compactor import Compactor
from events.log.blobs import MemoryBlobs
from events.log.errors import ArchiveUnavailable, EtcdRefused, LogError, LogUnavailable, VersionConflict
from events.log.etcd_claim import EpochRecord
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_store import EtcdStore
from events.log.keys import Keys
from events.log.port import PartitionWriter
from events.log.records import EventRecord, StoredEvent
from events.log.writer import WriterLimits
from tests.checker.history import Recorder
from tests.simulation.server import SETTINGS, SimulatedServer
from tests.simulation.simulated_blobs import SimulatedBlobs
from tests.simulation.world import Process, World

KEYS = Keys(SETTINGS.namespace)
BODY = msgspec.Raw(msgspec.msgpack.encode({"note": "simulated"}))


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
                    f"s/{partition}.{int(world.chance.random() * plan.streams)}",
                    1 + int(world.chance.random() ** 3 * 4),
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
        self.kept = MemoryBlobs()
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
            blobs=self._blobs(process),
        )

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
                group.create_task(_Owner(self, process, log, writer).serve())
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
        """Small segments, soon: what is a day and a MiB elsewhere is a second and a batch here."""
        chance, plan = self.world.chance, self.plan
        policy = ArchivePolicy(retain_s=plan.retain_s, segment_bytes=plan.segment_bytes, least_bytes=1)
        archiver = Archiver(hot=EtcdStore(self.server.client(process), KEYS), blobs=self._blobs(process), policy=policy)
        while True:
            await asyncio.sleep(plan.archive_every_s * 2 * chance.random())
            try:
                reach = Reach(young=chance.random() < 0.3, small=chance.random() < 0.3)
                await archiver.step(int(chance.random() * plan.partitions), reach)
            except (LogUnavailable, ArchiveUnavailable, EtcdRefused):
                continue

    def _blobs(self, process: Process) -> SimulatedBlobs:
        return SimulatedBlobs(process, self.kept, self.server.weather)


class _Owner:
    """One tenure: the fold that gives versions, and clients that send commands to its writer."""

    def __init__(self, house: Household, process: Process, log: EtcdEventLog, writer: PartitionWriter) -> None:
        self._house = house
        self._process = process
        self._log = log
        self._writer = writer
        self._versions: dict[str, int] = {}
        self._sent: set[str] = set()
        self._ended = False

    async def serve(self) -> None:
        try:
            async for events in self._log.read(self._writer.partition, 0):
                for event in events:
                    self._versions[event.record.stream] = event.record.version
        except (LogUnavailable, ArchiveUnavailable):
            await self._writer.release()
            return
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(self._serve_client()) for _ in range(self._house.plan.clients)]
            try:
                async with asyncio.timeout(self._house.plan.tenure_s * 2 * self._house.world.chance.random()):
                    await self._writer.wait_closed()
            except TimeoutError:
                self._house.world.note(f"{self._process.name} releases {self._writer.partition}")
                await self._writer.release()
            except LogError as error:
                self._house.world.note(f"{self._process.name} lost {self._writer.partition}: {type(error).__name__}")
            self._ended = True
            await asyncio.wait(clients)

    async def _serve_client(self) -> None:
        work, client, chance = self._house.work, self._process.pid, self._house.world.chance
        while not self._ended:
            command = work.take(client, self._writer.partition)
            if command is None:
                await asyncio.sleep(0.3 * (0.5 + chance.random()))
            elif await self._send(command):
                work.done(client, command)
                await asyncio.sleep(self._house.plan.think_s * 2 * chance.random())
            else:
                work.give_back(client, command)
                await asyncio.sleep(0.05 * (0.5 + chance.random()))

    async def _send(self, command: Command) -> bool:
        """Whether it is done. An unknown outcome is repeated here or, by whoever takes it next, elsewhere."""
        while True:
            try:
                await self._house.recorder.append(
                    self._process.name, self._writer, command.command_id, self._decide(command)
                )
            except LogUnavailable:
                if self._ended or self._house.world.chance.random() < 0.5:
                    return False
                continue
            except VersionConflict as error:
                # One that is fenced and does not know it yet may have folded its successor's events. Of the newest
                # owner, which folded all there is and alone writes, fold and writer agree.
                if self._house.newest_epoch(self._writer.partition) == self._writer.epoch:
                    self._house.world.errors.append(f"{self._process.name}: its fold and its writer disagree: {error}")
                return False
            except LogError:
                return False
            return True

    def _decide(self, command: Command) -> list[EventRecord]:
        """New versions, unless the command's events are in the log or on their way there."""
        work = self._house.work
        work.attempts += 1
        version = self._versions.get(command.stream, 0)
        if command.command_id not in self._sent and self._writer.committed(command.command_id) is None:
            self._sent.add(command.command_id)
            self._versions[command.stream] = version + command.events
        return [
            EventRecord(
                stream=command.stream,
                version=version + 1 + n,
                type="Noted",
                schema_version=1,
                event_id=f"{command.command_id}/{work.attempts}#{n}",
                at=int(self._house.world.now * 1e6),
                command_id=command.command_id,
                correlation_id="",
                causation_id="",
                actor=self._process.name,
                reason="",
                traceparent="",
                body=BODY,
            )
            for n in range(command.events)
        ]
