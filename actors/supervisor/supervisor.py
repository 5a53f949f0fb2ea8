"""LifecycleSupervisor without Ray: owns some partitions, an engine for each, and sweeps for what nobody reported.

Knows who it is and which partitions it was given; it does not decide how many supervisors there are.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import cast

import msgspec
import structlog

from actors.cluster.fair import FairGate
from actors.cluster.rates import Rate
from actors.cluster.settings import NODE_LOST_SECONDS
from actors.cluster.tracing import span
from actors.supervisor.engine import EffectRunner, PartitionEngine
from actors.supervisor.entity import Entity, Told
from actors.supervisor.orders import Known, NodePort
from actors.supervisor.slices import batched, in_slices
from events.failpoints import failpoint
from events.hand import Hand
from events.log.errors import Fenced, LogDamaged, LogError, PartitionOwned
from events.log.port import EventLog
from events.log.records import partition_of
from events.model.base import Envelope, Reply, partition_key
from events.model.component_commands import ReportExited
from events.model.component_parts import ComponentState
from events.model.component_wanted import RUNNING
from events.model.evolution import UnknownEventError
from events.model.node import NodeState, NodeStatus, ReportNodeLost
from events.model.parked import ParkedState
from events.model.placement import Room, apart_from_memory
from events.model.registry import encode_command

log = structlog.get_logger("supervisor")

TEND_SECONDS = 0.5
SWEEP_SECONDS = 5.0
GIVE_BACK_SECONDS = 5.0
DAMAGED_SECONDS = 30.0  # between tries at a partition that is damaged: each reads it, and raises its epoch
SAME_SECONDS = 60.0  # between log lines about a partition that cannot be taken for the same reason
SWEPT_PER_SECOND = 2_000  # streams: looking at so many takes some 10 ms, one per cent of a core
ASKED_AT_ONCE = 5_000  # instances in one question to a node
IN_HAND_COMMANDS = 16_384  # of all callers: some 100 MB with everything that belongs to them
IN_HAND_BYTES = 64 << 20


class GivenUp(Exception):
    """Somebody held this process for dead and took what it owned. It must end: what it has in memory is of before, and
    if it claimed again under its name, it would take what a second process of that name serves meanwhile."""


class Supervisor:
    """Holds the engines of the partitions it is assigned. `tend` keeps it so; call it as one long task."""

    def __init__(
        self,
        *,
        name: str,
        event_log: EventLog,
        nodes: NodePort,
        lost_seconds: float = NODE_LOST_SECONDS,
        told: Told = lambda records, running: None,
        hand: Hand | None = None,
    ) -> None:
        """`hand`: the stream that this process had in hand when it last died, and has now."""
        self.name = name
        self.engines: dict[int, PartitionEngine] = {}
        self.unreadable: dict[int, str] = {}
        """Partitions that cannot be folded, for an event that this version cannot read or for damage, and why."""
        self._damaged_at: dict[int, float] = {}
        self._said: dict[int, tuple[str, float]] = {}
        self._log = event_log
        self._nodes = nodes
        self._lost_seconds = lost_seconds
        self._silent_since: dict[str, float] = {}
        self._unsettled: set[str] = set()
        self._told = told
        self._runner: EffectRunner | None = None
        self._assigned: frozenset[int] = frozenset()
        self._fenced: Fenced | None = None
        self._claiming = asyncio.Lock()
        self._snapshot_turn = asyncio.Semaphore(1)
        self._hand = hand or Hand()
        self._commands = 0
        self._gate = FairGate(things=IN_HAND_COMMANDS, size=IN_HAND_BYTES)
        self._rate = Rate()

    def use(self, runner: EffectRunner) -> None:
        """Give it the hands for effects; before the first partition is assigned."""
        self._runner = runner

    async def assign(self, partitions: Sequence[int]) -> list[int]:
        """From now on serve exactly these partitions. Returns those that are served already."""
        self._assigned = frozenset(partitions)
        await self._follow_assignment()
        return sorted(self.engines)

    def serves(self, partition: int) -> bool:
        """Whether commands for the partition are decided here now."""
        engine = self.engines.get(partition)
        return engine is not None and not engine.closed

    def unserved(self) -> dict[int, str]:
        """Partitions that were given to this supervisor and that it cannot serve, and why."""
        return {p: why for p, why in self.unreadable.items() if p in self._assigned}

    def states(self, streams: Sequence[str]) -> list[msgspec.Struct]:
        """The durable states of those of `streams` that are served here and have events."""
        found = []
        for stream in streams:
            engine = self.engines.get(partition_of(partition_key(stream), self._log.partitions))
            entity = engine.entities.get(stream) if engine is not None else None
            if entity is not None and entity.version and not entity.pending:
                found.append(entity.state)
        return found

    def parked(self) -> list[ParkedState]:
        """What is set aside in the partitions served here."""
        return [state for engine in self.engines.values() for state in engine.parking.states]

    def rate(self) -> float:
        """Commands per second, lately."""
        return self._rate.of(float(self._commands))

    def gauges(self) -> dict[str, float]:
        """Counts for whoever watches."""
        return {
            "commands_total": float(self._commands),
            "commands_in_hand": float(self._gate.things),
            "commands_refused": float(self._gate.refused),
            "partitions": float(len(self.engines)),
            "parked": float(len(self.parked())),
            "entities": float(sum(len(engine.entities) for engine in self.engines.values())),
        }

    async def submit(self, envelopes: Sequence[Envelope]) -> list[Reply]:
        """Decide commands, those of one stream in the order given; `not_owner` for a partition served elsewhere."""
        self._commands += len(envelopes)
        # All are decided before the first is waited for, and none needs a task of its own.
        answers = [self._begin(envelope) for envelope in envelopes]
        return [answer if isinstance(answer, Reply) else await answer for answer in answers]

    def _begin(self, envelope: Envelope) -> "Reply | asyncio.Future[Reply]":
        team, size = envelope.team, len(envelope.command)
        if not self._gate.enter(team, size):
            message = f"{self.name} has {self._gate.things} commands in hand; those of {team} have their share"
            return Reply(command_id=envelope.command_id, error="overloaded", error_message=message)
        answer: Reply | asyncio.Future[Reply] | None = None
        try:
            answer = self._decide(envelope)
        finally:
            if isinstance(answer, asyncio.Future):
                answer.add_done_callback(lambda _: self._gate.leave(team, size))
            else:
                self._gate.leave(team, size)
        return answer

    def _decide(self, envelope: Envelope) -> "Reply | asyncio.Future[Reply]":
        partition = partition_of(partition_key(envelope.stream), self._log.partitions)
        engine = self.engines.get(partition)
        if partition in self.unserved():
            message = self.unreadable[partition]
            return Reply(command_id=envelope.command_id, error="unreadable", error_message=message)
        if engine is None or engine.closed:
            message = f"{self.name} does not serve partition {partition}"
            return Reply(command_id=envelope.command_id, error="not_owner", error_message=message)
        with span("decide", envelope.traceparent, stream=envelope.stream, command=envelope.command_id) as traceparent:
            if traceparent != envelope.traceparent:
                envelope = msgspec.structs.replace(envelope, traceparent=traceparent)
            return engine.begin(envelope)

    async def tend(self) -> None:
        """Claim what is assigned and free, give back what is not, and look for instances that are gone. For ever.

        Raises GivenUp when another owner took a partition that this one was to serve; the others are given back first.
        """
        known: dict[str, Room] = {}
        since_sweep = 0.0
        while True:
            await self._follow_assignment()
            if self._fenced is not None:
                await self._give_up(self._fenced)
            nodes = apart_from_memory(self._nodes.nodes())
            if nodes != known:
                self._unsettled = (self._unsettled | (nodes.keys() - known.keys())) & nodes.keys()
                known = nodes
            for engine in list(self.engines.values()):
                if engine.nodes_met != nodes:
                    await engine.nodes_changed()
            since_sweep += TEND_SECONDS
            entities = sum(len(engine.entities) for engine in self.engines.values())
            if since_sweep >= max(SWEEP_SECONDS, entities / SWEPT_PER_SECOND):
                since_sweep = 0.0
                await self._settle_nodes()
                await self._sweep(known.keys())
            await asyncio.sleep(TEND_SECONDS)

    async def _give_up(self, fence: Fenced) -> None:
        log.error("held for dead, and ends", supervisor=self.name, error=str(fence))
        failpoint("supervisor.fenced")
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                await self.close()  # else nobody else could have the rest until its leases lapse
        except (TimeoutError, LogError) as error:
            log.warning(
                "could not give everything back", supervisor=self.name, error=f"{type(error).__name__}: {error}"
            )
        raise GivenUp(f"{self.name} is ended: {fence}")

    async def close(self) -> None:
        """Give every partition back."""
        self._assigned = frozenset()
        await self._follow_assignment()

    async def _follow_assignment(self) -> None:
        async with self._claiming:
            leaving = [p for p, engine in self.engines.items() if engine.closed or p not in self._assigned]
            await asyncio.gather(*(self._leave(partition) for partition in leaving))
            now = time.monotonic()
            mended = {p for p, at in self._damaged_at.items() if now - at > DAMAGED_SECONDS}  # perhaps
            missing = sorted(self._assigned - self.engines.keys() - (self.unreadable.keys() - mended))
            await asyncio.gather(*(self._claim(partition) for partition in missing))

    async def _leave(self, partition: int) -> None:
        engine = self.engines[partition]
        known = engine.fenced is not None or await engine.look_for_successor()
        if not known and partition in self._assigned:
            return  # to forget it now would be never to learn that it was held for dead
        self._fenced = self._fenced or engine.fenced
        # While it still serves: then the next owner has little to fold, and the pause is short.
        await engine.prepare_to_close()
        del self.engines[partition]
        await engine.close()

    async def _claim(self, partition: int) -> None:
        if self._runner is None or self._fenced is not None:
            return
        try:
            writer = await self._log.claim(partition, self.name)
            failpoint("supervisor.claimed")
            engine = PartitionEngine(
                event_log=self._log,
                writer=writer,
                runner=self._runner,
                nodes=self._nodes.nodes,
                told=self._told,
                snapshot_turn=self._snapshot_turn,
                hand=self._hand,
            )
            try:
                count = await engine.recover()
            except (UnknownEventError, msgspec.ValidationError) as error:
                await self._leave_alone(partition, engine, error)
                return
            except LogError:
                await engine.close()  # else its claim would be kept alive for nobody
                raise
            failpoint("supervisor.recovered")
        except PartitionOwned:
            return  # its owner's lease lapses or is given back; the next round tries again
        except LogDamaged as error:
            self.unreadable[partition] = f"partition {partition} is not served: {error}"
            self._damaged_at[partition] = time.monotonic()
            self._complain(partition, error)
            return
        except LogError as error:
            self._complain(partition, error)
            return
        self.engines[partition] = engine
        self.unreadable.pop(partition, None)
        self._damaged_at.pop(partition, None)
        self._said.pop(partition, None)
        log.info("serves partition", partition=partition, events=count, epoch=writer.epoch)

    def _complain(self, partition: int, error: LogError) -> None:
        """It is tried again several times a second: what is the same each time is said once in a while."""
        before, at = self._said.get(partition, ("", 0.0))
        if before != str(error) or time.monotonic() - at > SAME_SECONDS:
            self._said[partition] = (str(error), time.monotonic())
            log.warning("could not take a partition", partition=partition, error=str(error))

    async def _leave_alone(self, partition: int, engine: PartitionEngine, error: Exception) -> None:
        """What cannot be folded must not be decided upon: the rest of its streams wait for a version that knows it.

        It stays so while this process lives, for neither the log nor the code changes under it.
        """
        log.error("a partition is not served: an event in it cannot be read", partition=partition, error=str(error))
        self.unreadable[partition] = f"partition {partition} is not served: {error}"
        await engine.close()  # gives it up, so that a newer supervisor can claim it at once

    async def _entities(self) -> AsyncIterator[tuple[PartitionEngine, Entity]]:
        """Every stream, in slices: commands are decided in between, and those that came meanwhile may be missing."""
        for engine in list(self.engines.values()):
            async for entity in in_slices(list(engine.entities.values())):
                yield engine, entity

    async def _sweep(self, live: Collection[str]) -> None:
        """What the log believes to run and the node knows nothing of has ended unseen: say so."""
        gone = self._nodes.gone()
        for node in live:
            self._silent_since.pop(node, None)
        running: dict[str, dict[str, tuple[PartitionEngine, str]]] = {}
        async for engine, entity in self._entities():
            if entity.pending:
                continue
            if entity.aggregate.kind == "node":
                await self._report_silent(engine, entity, live)
            if entity.aggregate.kind != "component":
                continue
            stream, state = entity.stream, cast("ComponentState", entity.state)
            for instance in state.instances.values():
                if instance.node in live:
                    if instance.status in RUNNING:
                        running.setdefault(instance.node, {})[instance.id] = (engine, stream)
                elif why := self._given_up(instance.node, gone, stateful=state.placement.stateful):
                    await self._report_lost(engine, stream, instance.id, why)
        for node, placed in running.items():
            for some in batched(placed, ASKED_AT_ONCE):
                await self._report_unknown(node, some, placed)

    def _given_up(self, node: str, gone: Collection[str], *, stateful: bool) -> str:
        """Why what was given to a node that is not live is started elsewhere; empty while it is not."""
        if node in gone:
            return f"node {node} was removed"
        lost = self._is_lost(node)
        if stateful or not lost:
            return ""  # what has state may be running there, unseen: only a person can know that it does not
        return f"node {node} is lost: {self._silence}"

    def _is_lost(self, node: str) -> bool:
        """Whether a node that is not live has been silent for too long, as far as this process has seen."""
        now = time.monotonic()
        return now - self._silent_since.setdefault(node, now) >= self._lost_seconds

    @property
    def _silence(self) -> str:
        return f"nothing was heard of it for {self._lost_seconds:.0f} s"

    async def _report_silent(self, engine: PartitionEngine, entity: Entity, live: Collection[str]) -> None:
        """A node that is lost; one that is back says so itself."""
        state = cast("NodeState", entity.state)
        if state.status is NodeStatus.READY and state.name not in live and self._is_lost(state.name):
            command = encode_command(ReportNodeLost(reason=self._silence))
            ident = f"{entity.stream}@{entity.version}.lost"
            await engine.handle(Envelope(stream=entity.stream, command=command, command_id=ident))

    async def _report_unknown(
        self, node: str, instances: Sequence[str], placed: Mapping[str, tuple[PartitionEngine, str]]
    ) -> None:
        """`placed`: instance → whose it is."""
        try:
            unknown = await self._nodes.unknown(node, instances)
        except Exception as error:
            log.info("node did not answer the sweep", node=node, error=str(error))
            return
        for instance in unknown:
            await self._report_lost(*placed[instance], instance, f"node {node} knows nothing of it")

    async def _report_lost(self, engine: PartitionEngine, stream: str, instance: str, why: str) -> None:
        command = encode_command(ReportExited(instance=instance, exit_code=-1, reason=why))
        await engine.handle(Envelope(stream=stream, command=command, command_id=f"{instance}.lost"))

    async def _settle_nodes(self) -> None:
        """Have nodes that came (back) stop what was started elsewhere meanwhile."""
        if not self._unsettled:
            return
        known: list[Known] = []
        unsure = False
        async for _, entity in self._entities():
            if entity.aggregate.kind != "component":
                continue
            state = cast("ComponentState", entity.state)
            unsure = unsure or entity.pending > 0
            if not entity.pending and state.started_instances:
                known.append(Known(state.service_id, state.started_instances, tuple(state.instances)))
        for node in sorted(self._unsettled):
            try:
                stopping = await self._nodes.settle(node, known)
            except Exception as error:
                log.info("node could not be settled, will be tried again", node=node, error=str(error))
                continue
            if stopping:
                log.warning("a node ran what is over", node=node, instances=stopping)
            if not unsure:
                self._unsettled.discard(node)
