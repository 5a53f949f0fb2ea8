"""One tenure of a simulated owner: production's fold and snapshots, and clients that send commands to its writer.

Streams are teams, whose tokens bear the events' ids: so a state tells exactly which events were folded into it. Knows
its household; nothing of faults.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from actors.supervisor.snapshots import Cut, SnapshotPolicy, SnapshotTaker
from events.log.errors import ArchiveUnavailable, LogError, LogFull, LogUnavailable, VersionConflict
from events.log.etcd_log import EtcdEventLog
from events.log.port import PartitionWriter
from events.log.records import EventRecord
from events.model.folding import PartitionFold
from events.model.registry import apply_record, encode_event, initial_state
from events.model.team import TeamState, TeamTokenIssued
from events.replay.current import fold_partition
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.household import Command, Household


@dataclass
class Entity:
    """One stream in memory, with what is on its way into the log."""

    state: TeamState
    version: int = 0
    tail: int = -1


class Owner:
    """`serve` until the tenure is over or somebody else has the partition."""

    def __init__(self, house: "Household", process: Process, log: EtcdEventLog, writer: PartitionWriter) -> None:
        self._house = house
        self._process = process
        self._log = log
        self._writer = writer
        self._entities: dict[str, Entity] = {}
        self._sent: set[str] = set()
        self._next_offset = 0
        self._on_their_way: set[asyncio.Future[None]] = set()
        self._sound = True
        self._ended = False
        self._taker: SnapshotTaker | None = None

    async def serve(self) -> None:
        if not await self._recover():
            await self._writer.release()
            return
        async with asyncio.TaskGroup() as group:
            snapshots = group.create_task(self._take_snapshots())
            clients = [group.create_task(self._serve_client()) for _ in range(self._house.plan.clients)]
            try:
                async with asyncio.timeout(self._house.plan.tenure_s * 2 * self._house.world.chance.random()):
                    await self._writer.wait_closed()
            except TimeoutError:
                self._house.world.note(f"{self._process.name} releases {self._writer.partition}")
                snapshots.cancel()
                if self._taker is not None:
                    await self._taker.at_release()
                await self._writer.release()
            except LogError as error:
                self._house.world.note(f"{self._process.name} lost {self._writer.partition}: {type(error).__name__}")
            self._ended = True
            snapshots.cancel()
            await asyncio.wait(clients)

    # -- the fold

    async def _recover(self) -> bool:
        """Whether memory is what the log holds, and nobody else writes here."""
        partition = self._writer.partition
        try:
            fold = await fold_partition(self._log, partition, self._writer.take_snapshot())
        except (LogUnavailable, ArchiveUnavailable):
            return False
        if fold.next_offset != self._writer.next_offset:
            if self._house.newest_epoch(partition) == self._writer.epoch:
                self._wrong(f"it folded {fold.next_offset} events of {self._writer.next_offset}")
            return False
        self._next_offset = fold.next_offset
        self._begin(fold)
        return True

    def _begin(self, fold: PartitionFold) -> None:
        """Judge what was recovered by what was ever written, which no process could know; then serve with it."""
        partition, mine = self._writer.partition, self._process.fold
        wanted = self._house.truth.states(partition, fold.next_offset)
        for stream, folded in fold.states.items():
            state = folded.state
            assert isinstance(state, TeamState)
            if state.name not in ("", mine):
                self._wrong(f"the state of {stream} was made by {state.name}, and it runs {mine}")
            tokens = wanted.pop(stream, [])
            if list(state.tokens) != tokens or folded.version != len(tokens):
                self._wrong(
                    f"{stream} has {folded.version} events, {len(state.tokens)} of {len(tokens)} that it should"
                )
            marked = msgspec.structs.replace(state, name=mine)
            self._entities[stream] = Entity(marked, folded.version, folded.last_offset)
        if wanted:
            self._wrong(f"it knows nothing of {sorted(wanted)}")

    def _wrong(self, what: str) -> None:
        where = f"recovered partition {self._writer.partition} at {self._writer.next_offset}"
        self._house.world.errors.append(f"RECOVERED: {self._process.name} {where}: {what}")

    # -- snapshots

    async def _take_snapshots(self) -> None:
        plan = self._house.plan
        if self._writer.snapshots is None or not plan.snapshot_events:
            return
        self._taker = SnapshotTaker(
            writer=self._writer,
            shelf=self._writer.snapshots,
            cut=self._cut,
            policy=SnapshotPolicy(
                events=plan.snapshot_events, seconds=plan.snapshot_s, apart_seconds=0.05, release_seconds=2.0
            ),
            turn=asyncio.Semaphore(1),
        )
        await self._taker.run()

    def _cut(self) -> Cut | None:
        if not self._sound:
            return None
        streams: list[tuple[str, msgspec.Struct, int, int]] = [
            (stream, entity.state, entity.version, entity.tail) for stream, entity in self._entities.items()
        ]
        waiting: Any = tuple(self._on_their_way)
        return Cut(self._next_offset, self._writer.ledger_point(), streams, waiting)

    # -- clients

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

    async def _send(self, command: "Command") -> bool:
        """Whether it is done. An unknown outcome is repeated here or, by whoever takes it next, elsewhere."""
        while True:
            records, undo = self._decide(command)
            try:
                await self._append(command, records)
            except LogFull:
                # It was not even queued, and nobody else decided meanwhile.
                undo()
                self._house.refused += 1
                return False
            except LogUnavailable:
                if self._ended or self._house.world.chance.random() < 0.5:
                    return False
                continue
            except VersionConflict as error:
                self._sound = False
                # One that is fenced and does not know it yet may have folded its successor's events. Of the newest
                # owner, which folded all there is and alone writes, fold and writer agree.
                if self._house.newest_epoch(self._writer.partition) == self._writer.epoch:
                    self._house.world.errors.append(f"{self._process.name}: its fold and its writer disagree: {error}")
                return False
            except LogError:
                self._sound = False
                return False
            if self._taker is not None:
                self._taker.grew(len(records))
            return True

    async def _append(self, command: "Command", records: list[EventRecord]) -> None:
        on_its_way: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_their_way.add(on_its_way)
        try:
            await self._house.recorder.append(self._process.name, self._writer, command.command_id, records)
        finally:
            self._on_their_way.discard(on_its_way)
            on_its_way.set_result(None)

    def _decide(self, command: "Command") -> tuple[list[EventRecord], Callable[[], None]]:
        """Its events, and how to take them back out of memory. New ones, unless the command's are in the log already or
        on their way there."""
        house = self._house
        house.work.attempts += 1
        entity = self._entities.get(command.stream) or self._begin_stream(command.stream)
        records = [
            _record(house, self._process.name, command, entity.version + 1 + n, n) for n in range(command.events)
        ]
        if command.command_id in self._sent or self._writer.committed(command.command_id) is not None:
            return records, lambda: None
        before = (entity.state, entity.version, entity.tail)
        self._sent.add(command.command_id)
        self._next_offset += len(records)
        for record in records:
            state = apply_record(entity.state, record)
            assert isinstance(state, TeamState)
            entity.state, entity.version = state, record.version
        entity.tail = self._next_offset - 1

        def undo() -> None:
            entity.state, entity.version, entity.tail = before
            self._sent.discard(command.command_id)
            self._next_offset -= len(records)

        return records, undo

    def _begin_stream(self, stream: str) -> Entity:
        state = initial_state(stream)
        assert isinstance(state, TeamState)
        entity = self._entities[stream] = Entity(msgspec.structs.replace(state, name=self._process.fold))
        return entity


def _record(house: "Household", client: str, command: "Command", version: int, n: int) -> EventRecord:
    event_id = f"{command.command_id}/{house.work.attempts}#{n}"
    return EventRecord(
        stream=command.stream,
        version=version,
        type=TeamTokenIssued.__name__,
        schema_version=TeamTokenIssued.schema_version,
        event_id=event_id,
        at=int(house.world.now * 1e6),
        command_id=command.command_id,
        correlation_id="",
        causation_id="",
        actor=client,
        reason="",
        traceparent="",
        body=encode_event(TeamTokenIssued(name=event_id, sha256=house.padding())),
    )
