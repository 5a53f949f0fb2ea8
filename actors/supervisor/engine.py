"""The owner of one partition: takes commands, decides, appends, and keeps the world's effects going.

Everything is derived from the log: an engine that recovers goes on where the last one stopped, on whatever line it
died. It knows nothing of Ray, and carries out no effect itself: an `EffectRunner` does.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog

from actors.supervisor.answers import Answers
from actors.supervisor.entity import Entity, Told
from actors.supervisor.owed import RETRY_FIRST_SECONDS, RETRY_MAX_SECONDS, Owed
from actors.supervisor.parking import Parking, parked_refusal
from actors.supervisor.recovery import recover_entities
from actors.supervisor.replies import DEAD, done, not_written, refused
from actors.supervisor.slices import in_slices
from actors.supervisor.snapshots import Cut, SnapshotPolicy, SnapshotTaker
from events.clock import now_micros
from events.failpoints import failpoint
from events.hand import Hand
from events.log.errors import Fenced, LogFull, LogUnavailable, Overloaded
from events.log.port import Committed, EventLog, PartitionWriter
from events.log.records import EventRecord
from events.model.base import PROGRESS_ROUNDS, Decision, Envelope, Event, Meta, Refusal, Reply
from events.model.component_progress import Effect
from events.model.parked import FOLD, KIND
from events.model.placement import Room, apart_from_memory
from events.model.registry import decode_command

log = structlog.get_logger("supervisor")

REPLY_SECONDS = 15.0  # how long a command waits for its events to be durable


class NeverAtRest(AssertionError):
    """A stream's progress goes round in circles; going on would only fill the log. It is parked for it."""


class EffectRunner(Protocol):
    """Carries out effects. Each must be idempotent: it is repeated until the state no longer owes it."""

    async def run(self, engine: "PartitionEngine", entity: Entity, effect: Effect) -> None: ...


class PartitionEngine:
    """One partition and every entity in it. Used from one event loop only; `recover` first."""

    def __init__(
        self,
        *,
        event_log: EventLog,
        writer: PartitionWriter,
        runner: EffectRunner,
        nodes: Callable[[], Sequence[Room]],
        clock: Callable[[], int] = now_micros,
        told: Told = lambda records, running: None,
        snapshots: SnapshotPolicy | None = None,
        snapshot_turn: asyncio.Semaphore | None = None,
        hand: Hand | None = None,
    ) -> None:
        """`snapshot_turn` and `hand` are shared by a process's engines: they encode one at a time, and have one stream
        in hand."""
        self.partition = writer.partition
        self.runner = runner
        self.entities: dict[str, Entity] = {}
        self.nodes_met: Mapping[str, Room] = {}  # as they were when every stream was last asked what follows
        self._log = event_log
        self._writer = writer
        self._nodes = nodes
        self._clock = clock
        self._told = told
        self._inflight: dict[str, asyncio.Future[Reply]] = {}
        self._answers = Answers(REPLY_SECONDS)
        self._appends: set[asyncio.Future[Committed]] = set()
        self._closed = False
        self.fenced: Fenced | None = None  # another owner took the partition, and this one was not asked
        self._sound = True  # memory is what the log holds or will hold: what a snapshot may be taken of
        self._upkeep: list[asyncio.Task[None]] = []
        self._next_offset = 0  # of the next event to be decided; everything before it was submitted
        self.parking = Parking(hand=hand or Hand(), decide=self.handle, settle=self._settle)
        self._owed = Owed(
            run=lambda entity, effect: self.runner.run(self, entity, effect),
            due=self._settle,
            serving=self._serving,
            clock=clock,
        )
        self.snapshots: SnapshotTaker | None = None
        if writer.snapshots is not None:
            self.snapshots = SnapshotTaker(
                writer=writer,
                shelf=writer.snapshots,
                cut=self._cut,
                policy=snapshots or SnapshotPolicy(),
                turn=snapshot_turn or asyncio.Semaphore(1),
            )

    @property
    def closed(self) -> bool:
        """It serves no more: it was closed, or another owner has the partition."""
        return self._closed

    # --- life ---------------------------------------------------------------------------------------------------------

    async def recover(self) -> int:
        """Fold the partition from its newest snapshot, or from its start if none fits, and serve from then on. Every
        effect that has no outcome is taken up meanwhile. Returns how many events were folded."""
        recovered = await recover_entities(self._log, self._writer, self.parking)
        self.entities, self._sound, self._next_offset = recovered.entities, recovered.whole, recovered.next_offset
        loop = asyncio.get_running_loop()
        self._upkeep.append(loop.create_task(self._watch_ownership()))
        # Beside the commands, which would wait for it twice as long as for the fold.
        self._upkeep.append(loop.create_task(self.nodes_changed()))
        if self.snapshots is not None:
            self.snapshots.grew(recovered.folded)
            self._upkeep.append(loop.create_task(self.snapshots.run()))
        return recovered.folded

    def _cut(self) -> Cut | None:
        if not self._sound:
            return None
        streams = [(e.stream, e.state, e.version, e.tail) for e in self.entities.values() if e.version]
        return Cut(self._next_offset, self._writer.ledger_point(), streams, tuple(self._appends))

    async def _watch_ownership(self) -> None:
        """An engine that owns nothing any more must stop its effects even when it has nothing to append."""
        try:
            await self._writer.wait_closed()
        except DEAD as error:
            log.warning("the partition is served by another owner", partition=self.partition, error=str(error))
            self.fenced = error if isinstance(error, Fenced) else None
        self._closed = True

    async def look_for_successor(self) -> bool:
        """Note whether somebody claimed the partition since, also where nothing was appended or kept alive after.

        False: etcd did not say, as just after a process was stopped for long. Ask again.
        """
        try:
            found = await self._log.owner_of(self.partition)
        except LogUnavailable:
            return False
        if found is not None and found.epoch > self._writer.epoch:
            message = f"partition {self.partition}: expected epoch {self._writer.epoch}, found {found.epoch}"
            self.fenced = Fenced(f"{message} of {found.owner} (node {found.node}, pid {found.pid})")
        return True

    async def prepare_to_close(self) -> None:
        """What can be done for the next owner while this one still serves."""
        if self.snapshots is not None and not self._closed:
            await self.snapshots.ahead_of_release()

    async def close(self) -> None:
        """Stop every effect and give the partition up; what is in flight is written out first."""
        serving, self._closed = not self._closed, True
        for task in self._upkeep:
            task.cancel()
        tasks = [task for entity in self.entities.values() for task in entity.tasks.values()] + self.parking.close()
        for task in tasks:
            task.cancel()
        for entity in self.entities.values():
            if entity.timer is not None:
                entity.timer.cancel()
        await asyncio.gather(*tasks, *self._appends, return_exceptions=True)
        for command_id, future in self._inflight.items():
            if not future.done():
                message = "the partition is being given up; repeat with the same id to learn the outcome"
                future.set_result(Reply(command_id=command_id, error="not_owner", error_message=message))
        self._answers.close()
        if self.snapshots is not None and serving:
            await self.snapshots.at_release()
        await self._writer.release()

    async def nodes_changed(self) -> None:
        """The set of live nodes is another: what waited for one may go on."""
        self.nodes_met = apart_from_memory(self._nodes())
        async for entity in in_slices(list(self.entities.values())):
            self._settle(entity)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def handle(self, envelope: Envelope) -> Reply:
        """Decide one command and wait until its events are durable. A known command id gets its first result."""
        answer = self.begin(envelope)
        return answer if isinstance(answer, Reply) else await answer

    def begin(self, envelope: Envelope) -> "Reply | asyncio.Future[Reply]":
        """Decide one command: the reply, or what will be it once the events are durable. In order of the calls."""
        known = self._known(envelope)
        if known is not None:
            return known
        try:
            entity = self._entity(envelope.stream)
            command = decode_command(envelope.stream, envelope.command)
        except KeyError as error:
            return refused(envelope, Refusal(code="invalid", message=str(error.args[0])))
        except msgspec.DecodeError as error:
            return refused(envelope, Refusal(code="invalid", message=f"not a command of this stream: {error}"))
        if (parked := self.parking.parked(envelope.stream)) is not None:
            return refused(envelope, parked_refusal(parked), entity.version)
        expected = envelope.expected_version
        if expected is not None and expected != entity.version:
            message = f"expected version {expected}, found {entity.version}: it changed in between"
            return refused(envelope, Refusal(code="version_mismatch", message=message))
        at = self._clock()
        meta = Meta(command_id=envelope.command_id, at=at, actor=envelope.actor, reason=envelope.reason)
        self.parking.hand.take(envelope.stream.encode())
        try:
            decision: Decision = entity.aggregate.decide(entity.state, command, meta)
        except Exception as error:
            # The command's fault, or the code's: nothing has changed, and the others of its call must not suffer.
            log.error("a command could not be decided", stream=envelope.stream, exc_info=error)
            message = f"deciding it failed with {type(error).__name__}; the platform's log has the cause"
            return Reply(command_id=envelope.command_id, error="failed", error_message=message)
        finally:
            self.parking.hand.put_down()
        if isinstance(decision, Refusal):
            if not entity.version and not entity.pending:
                del self.entities[envelope.stream]  # there is no such thing, and asking for it must not fill memory
            return refused(envelope, decision, entity.version)
        if not decision:
            nothing = done(envelope, version=entity.version, partition=self.partition, offset=entity.last_offset)
            return msgspec.structs.replace(nothing, operation="")
        return self._append(entity, decision, envelope, at)

    def _known(self, envelope: Envelope) -> "Reply | asyncio.Future[Reply] | None":
        inflight = self._inflight.get(envelope.command_id)
        if inflight is not None:
            return asyncio.shield(inflight)
        first = self._writer.committed(envelope.command_id)
        if first is None:
            return None
        # A batch of format 1 did not keep its commands' versions: then the present one stands in.
        entity = self.entities.get(envelope.stream)
        version = first.version or (entity.version if entity else 0)
        return done(envelope, version=version, partition=self.partition, offset=first.last.offset)

    def _append(
        self, entity: Entity, events: Sequence[Event], envelope: Envelope, at: int
    ) -> "Reply | asyncio.Future[Reply]":
        if not envelope.correlation_id:
            operation = entity.operation_of(events) or envelope.command_id
            envelope = msgspec.structs.replace(envelope, correlation_id=operation)
        if envelope.traceparent:
            entity.traceparent = envelope.traceparent
        elif entity.traceparent and entity.operation_of(()):
            envelope = msgspec.structs.replace(envelope, traceparent=entity.traceparent)
        records = entity.records(events, envelope, at)
        try:
            committed = self._submit(entity, envelope.command_id, records)
        except (Overloaded, LogFull, *DEAD) as error:
            self._closed = self._closed or isinstance(error, DEAD)
            return not_written(envelope, error)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._inflight[envelope.command_id] = future
        self._watch_append(entity, committed, envelope, records)
        self._settle(entity)
        return self._answers.in_time(envelope.command_id, future)

    def _submit(self, entity: Entity, command_id: str, records: list[EventRecord]) -> "asyncio.Future[Committed]":
        """Queue the append, then fold: an append that is refused here leaves the state as it was."""
        failpoint("supervisor.before-append")
        future = self._writer.submit(command_id, records)
        entity.pending += 1
        self._next_offset += len(records)
        entity.tail = self._next_offset - 1
        try:
            entity.apply(records)
        except Exception:
            # What is in memory is not what the log will hold: only the next owner's fold tells what is.
            self._closed, self._sound = True, False
            raise
        return future

    def _watch_append(
        self, entity: Entity, committed: "asyncio.Future[Committed]", envelope: Envelope, records: list[EventRecord]
    ) -> None:
        self._appends.add(committed)

        # A callback and no task: one task more for each command is a tenth of what a command costs.
        def ended(future: "asyncio.Future[Committed]") -> None:
            self._appends.discard(future)
            try:
                self._after_append(entity, future, envelope, records)
            except Exception as error:
                # This stream would stand still for ever; whoever claims next folds it anew and goes on.
                log.error("an append's outcome was lost on the way", partition=self.partition, exc_info=error)
                self._closed, self._sound = True, False

        committed.add_done_callback(ended)

    def _after_append(
        self, entity: Entity, committed: "asyncio.Future[Committed]", envelope: Envelope, records: list[EventRecord]
    ) -> None:
        try:
            result = committed.result()
        except (LogUnavailable, asyncio.CancelledError, *DEAD) as error:
            if isinstance(error, DEAD):
                # The state in memory holds events that never became durable: nothing more may be decided by it.
                self._closed, self._sound = True, False
            reply = not_written(envelope, error)
        else:
            failpoint("supervisor.after-commit")
            entity.pending -= 1
            entity.last_offset = max(entity.last_offset, result.last.offset)
            reply = done(envelope, version=records[-1].version, partition=self.partition, offset=result.last.offset)
            if self.snapshots is not None:
                self.snapshots.grew(len(records))
            self._told(records, entity.running)
            entity.notify()
            self._owed.reconcile(entity)
            if entity.aggregate.kind == KIND:
                self._on_parked(entity)
        future = self._inflight.pop(envelope.command_id, None)
        if future is not None and not future.done():
            future.set_result(reply)

    # --- what follows -------------------------------------------------------------------------------------------------

    def _entity(self, stream: str) -> Entity:
        entity = self.entities.get(stream)
        if entity is None:
            entity = self.entities[stream] = Entity(stream)
        return entity

    def _settle(self, entity: Entity) -> None:
        """Append what follows from the state until nothing does; then see to timers and effects.

        One stream's fault is its own: it is tried again, then parked, while the partition's others go on.
        """
        if self._closed or not self.parking.may_go_on(entity):
            return
        self.parking.hand.take(entity.stream.encode())
        try:
            self._progress(entity)
        except Exception as error:
            self.parking.failed(entity, "progress", error)
        else:
            self.parking.succeeded(entity)
        finally:
            self.parking.hand.put_down()

    def _on_parked(self, about: Entity) -> None:
        """What is known about a stream that cannot be handled is another."""
        before = self.parking.parked(about.stream.removeprefix(f"{KIND}/"))
        entity = self.entities.get(self.parking.learn(about))
        if entity is None:
            return
        if self.parking.parked(entity.stream) is not None:
            entity.rest()
        elif before is not None and before.handler == FOLD:
            self._closed = True  # whoever claims next, most likely this process, folds it anew
        else:
            self._settle(entity)

    def _progress(self, entity: Entity) -> None:
        for _ in range(PROGRESS_ROUNDS):
            at = self._clock()
            events = entity.aggregate.progress(entity.state, at, self._nodes())
            if not events:
                break
            cause = f"{entity.stream}@{entity.version}"
            operation = entity.operation_of(events)
            envelope = Envelope(
                stream=entity.stream,
                command=msgspec.Raw(),
                command_id=f"{entity.stream}@{entity.version + 1}",
                correlation_id=operation,
                causation_id=cause,
                traceparent=entity.traceparent if operation else "",
            )
            records = entity.records(events, envelope, at)
            try:
                committed = self._submit(entity, envelope.command_id, records)
            except Overloaded:
                asyncio.get_running_loop().call_later(RETRY_FIRST_SECONDS, self._settle, entity)
                return
            except LogFull:
                asyncio.get_running_loop().call_later(RETRY_MAX_SECONDS, self._settle, entity)
                return
            except DEAD:
                self._closed = True
                return
            self._watch_append(entity, committed, envelope, records)
        else:
            raise NeverAtRest(f"{entity.stream}: progress did not come to rest in {PROGRESS_ROUNDS} rounds")
        self._owed.set_timer(entity)
        self._owed.reconcile(entity)

    def _serving(self, entity: Entity) -> bool:
        return not self._closed and self.parking.parked(entity.stream) is None

    async def until(self, stream: str, holds: Callable[[msgspec.Struct], bool]) -> msgspec.Struct:
        """Wait until the durable state of `stream` satisfies `holds`; returns that state."""
        entity = self._entity(stream)
        while entity.pending or not holds(entity.state):
            await entity.changed.wait()
        return entity.state
