"""The projector: follows the log for its partitions and folds what gathers into the read models, exactly once.

A plain asyncio class, hosted by an actor that it knows nothing of. Must not know what any model means.

A rebuild empties a model's tables and folds the log into the same tables again: until it has caught up, readers see
what is there already, and a wait for a position does not end early.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Connection

from events.failpoints import failpoint
from events.log.errors import BeyondTail, LogDamaged, LogRewritten, LogUnavailable
from events.log.port import EventLog
from events.log.records import StoredEvent
from projections.attempts import ATTEMPTS_MOST, Attempts, Gathered, Poison, Span
from projections.catalogue import ALL
from projections.database import Database
from projections.dispatch import Dispatch
from projections.errors import (
    AmbiguousCommit,
    CheckpointMoved,
    DatabaseUnavailable,
    HistoryLost,
    UnknownProjection,
    WriteFailed,
)
from projections.folding import (
    Batch,
    HandlerFailed,
    Progress,
    Slice,
    fold_batch,
    forget,
    load_progress,
)
from projections.history import Checkpoint, check_history
from projections.kept import KeptRows
from projections.model import Projection
from projections.unparking import Unparking, Waiting, parked_at

A = TypeVar("A")
T = TypeVar("T")

BATCH_EVENTS = 2000  # in one transaction: a few hundred milliseconds on SQLite, when catching up
PACE_S = 0.04  # a transaction has costs of its own, some ms: under load it begins no sooner after the one before
QUEUED_LISTS = 256  # lists read ahead of the writer; then the reader waits
UNAVAILABLE_FIRST_S = 0.2
UNAVAILABLE_MOST_S = 5.0

_log = structlog.get_logger(__name__)


class _Reassigned(Exception):
    """Other partitions are to be followed from now on."""


class _Behind(Exception):
    """A checkpoint is before what is followed: follow again from the checkpoints."""


class Projector:
    """Folds `partitions` (all when None, until `assign` says otherwise) of `log` into `projections`. Used from one
    event loop.

    Any number may run: two on one partition cost work and errors in neither's rows, for each batch moves the checkpoint
    from where its projector believes it to be, or is rolled back.
    """

    def __init__(
        self,
        database: Database,
        log: EventLog,
        *,
        projections: Sequence[Projection] = ALL,
        partitions: Iterable[int] | None = None,
        hand: Path | None = None,
    ) -> None:
        """`hand`: the file in which it notes what it folds, its own, and kept when its process dies."""
        self._database = database
        self._log = log
        self._dispatch = Dispatch(projections)
        self._projections = self._dispatch.projections
        self._partitions = sorted(range(log.partitions) if partitions is None else partitions)
        self._reassigned = asyncio.Event()
        self._next: dict[tuple[str, int], int] = {}
        self._checkpoints: dict[Checkpoint, str] = {}
        self._parked: frozenset[tuple[str, str]] = frozenset()
        self._attempts = Attempts(hand)
        self._rebuilding: set[str] = set()
        self._kept = KeptRows()
        self._followed: dict[int, int] = {}
        self.refused = ""
        """Why nothing is folded, and the way out; empty while all is well."""
        self.damaged: dict[int, str] = {}
        """Partitions that cannot be read on, and what is damaged in each; the others are folded."""
        self.backlog = 0
        """Events read and not folded yet; what is not even read is not counted."""
        self._applying = asyncio.Lock()
        # One thread, so that SQLite sees one writer and a cancelled batch ends before the next begins.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="projector")

    async def run(self) -> None:
        """Follow the log until cancelled. Waits out a database that is away; raises what the log's reading raises.

        Folds nothing while the log lacks what is folded already (`refused` says so), until that is rebuilt; of a
        partition that is damaged what is before the damage (`damaged` says so), and the others.
        """
        pause = UNAVAILABLE_FIRST_S
        while True:
            waits = False
            self._reassigned.clear()
            if not self._partitions:
                await self._reassigned.wait()
                continue
            try:
                await self._load()
                await check_history(self._log, self._checkpoints)
                self.refused = ""
                pause = UNAVAILABLE_FIRST_S
                await self._follow()
            except* (HistoryLost, BeyondTail, LogRewritten) as group:
                # Either of the others, while following: the next round says more exactly what the checkpoints lack.
                if self.refused != (refused := str(group.exceptions[0])):
                    _log.error("projector.refuses", error=refused)
                self.refused = refused
                waits = True
            except* LogUnavailable as group:
                _log.warning("projector.log_unavailable", error=str(group.exceptions[0]), retry_s=pause)
                waits = True
            except* _Reassigned:
                _log.info("projector.follows_others", partitions=self._partitions)
            except* _Behind:
                _log.info("projector.follows_again", partitions=self._partitions)
            except* DatabaseUnavailable as group:
                _log.warning("projector.database_unavailable", error=str(group.exceptions[0]), retry_s=pause)
                waits = True
            # Not above: what is raised in an `except*` CPython before 3.11.4 puts into a group, a cancellation too.
            if waits:
                await asyncio.sleep(pause)
                pause = min(2 * pause, UNAVAILABLE_MOST_S)

    def partitions(self) -> list[int]:
        """The partitions it folds."""
        return list(self._partitions)

    async def assign(self, partitions: Iterable[int]) -> None:
        """Fold exactly these from now on. The transaction under way is waited for: when this returns, whoever is given
        the others finds their checkpoints where they will stay."""
        wanted = sorted(partitions)
        async with self._applying:
            if wanted == self._partitions:
                return
            self._partitions = wanted
            self._followed = {p: end for p, end in self._followed.items() if p in wanted}
            self._reassigned.set()

    async def close(self) -> None:
        """Wait for the transaction under way, and free the thread. Cancel `run` first."""
        await asyncio.to_thread(self._thread.shutdown)

    def positions(self) -> dict[int, int]:
        """For each partition, the next offset of its slowest projection, as this projector knows it."""
        return {p: min(self._next.get((n, p), 0) for n in self._projections) for p in self._partitions}

    async def catch_up(self) -> int:
        """Fold up to the tail as it is when reached, then return how many events were read. For tools and tests.

        Raises HistoryLost.
        """
        await self._load()
        await check_history(self._log, self._checkpoints)
        count = 0
        for partition in self._partitions:
            start = min(self._next[name, partition] for name in self._projections)
            async for events in self._log.read(partition, start):
                for part in _parts(events):
                    await self._apply({partition: part})
                count += len(events)
        return count

    async def rebuild(self, name: str) -> int:
        """Empty the model called `name` ("all": every one) and fold it again from the start; may run beside `run`.

        Returns the number of events read. Ends when the model is where the others are. Raises UnknownProjection,
        DatabaseUnavailable; after an error or a kill, the next `run` goes on where this stopped.
        """
        models = list(self._projections.values()) if name == "all" else [self._model(name)]
        names = {p.name for p in models}
        async with self._applying:
            await self._load_locked()
            self._rebuilding |= names
            try:
                await self._in_thread(self._forget, models)
                await self._load_locked()
            except BaseException:
                self._rebuilding -= names
                raise
        count = 0
        try:
            for partition in self._partitions:
                count += await self._refold(partition, names)
        finally:
            self._rebuilding -= names
        return count

    async def retry_parked(self, name: str, stream: str) -> str | None:
        """Fold what waits in a stream that the model called `name` has set aside, in one transaction. Returns why it is
        set aside still, "" when it is not; None when that is no stream that is folded here.

        Raises UnknownProjection, DatabaseUnavailable; CheckpointMoved when another projector folded meanwhile.
        """
        self._model(name)
        at = await self._in_thread(lambda key: parked_at(self._database, *key), (name, stream))
        if at is None or at.partition not in self._partitions:
            return None
        waiting = Waiting(name, stream, at)
        # While others are folded; what they add meanwhile is read when they are not.
        await waiting.read(self._log, self._next.get((name, at.partition), 0))
        async with self._applying:
            if at.partition not in self._partitions or (name, stream) not in self._parked:
                return None
            end = self._next[name, at.partition]
            await waiting.read(self._log, end)
            unparking = Unparking(part=waiting.before(end), dispatch=self._dispatch)
            error = await self._in_thread(lambda u: u.run(self._database, self._kept, self._attempts), unparking)
            if not error:
                self._parked -= {(name, stream)}
            _log.info("projector.retried_parked", projection=name, stream=stream, error=error)
            return error

    def _model(self, name: str) -> Projection:
        if name not in self._projections:
            known = ", ".join(sorted(self._projections))
            raise UnknownProjection(f"expected one of all, {known}; found {name[:60]!r}")
        return self._projections[name]

    def _forget(self, models: Sequence[Projection]) -> None:
        def work(connection: Connection) -> None:
            for model in models:
                forget(connection, model, self._partitions)

        self._database.transact(work)

    async def _refold(self, partition: int, names: set[str]) -> int:
        """Fold one partition into the models being rebuilt, until they are where the others are."""
        count = 0
        while partition in self._partitions:  # else whoever folds it now finds that it begins at its start
            start = min(self._next.get((name, partition), 0) for name in names)
            async for events in self._log.read(partition, start):
                for part in _parts(events):
                    await self._apply({partition: part})
                count += len(events)
            async with self._applying:
                # Asked while nothing is being applied: from here on what is followed continues what is folded.
                if min(self._next.get((name, partition), 0) for name in names) >= self._followed.get(partition, 0):
                    return count
        return count

    # --- following ----------------------------------------------------------------------------------------------------

    def _note_damage(self, partition: int, damage: LogDamaged | None) -> None:
        if damage is None:
            self.damaged.pop(partition, None)
            _log.info("projector.reads_on", partition=partition)
        else:
            self.damaged[partition] = str(damage)
            _log.error("projector.cannot_read", partition=partition, error=str(damage))

    async def _follow(self) -> None:
        queue: asyncio.Queue[list[StoredEvent]] = asyncio.Queue(QUEUED_LISTS)
        self.backlog = 0
        self.damaged = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._until_reassigned())
            group.create_task(self._read_ahead(self.positions(), queue))
            group.create_task(self._write(queue))

    async def _until_reassigned(self) -> None:
        await self._reassigned.wait()
        raise _Reassigned

    async def _read_ahead(self, starts: dict[int, int], queue: asyncio.Queue[list[StoredEvent]]) -> None:
        async for events in self._log.follow_all(starts, self._note_damage):
            for part in _parts(events):
                self.backlog += len(part)
                await queue.put(part)

    async def _write(self, queue: asyncio.Queue[list[StoredEvent]]) -> None:
        """While one transaction runs, and until it began `PACE_S` ago, everything that arrives gathers for the next."""
        loop = asyncio.get_running_loop()
        next_at = 0.0
        while True:
            gathered: dict[int, list[StoredEvent]] = {}
            events = await queue.get()
            if self.backlog < BATCH_EVENTS and (early := next_at - loop.time()) > 0:
                await asyncio.sleep(early)
            next_at = loop.time() + PACE_S
            count = len(events)
            gathered[events[0].position.partition] = list(events)
            while count < BATCH_EVENTS and not queue.empty():
                events = queue.get_nowait()
                count += len(events)
                gathered.setdefault(events[0].position.partition, []).extend(events)
            await self._apply(gathered)
            self.backlog -= count

    # --- applying -----------------------------------------------------------------------------------------------------

    async def _apply(self, gathered: Gathered) -> None:
        """Fold what is gathered, by each projection from where it is. Raises _Behind, DatabaseUnavailable."""
        async with self._applying:
            for partition, events in gathered.items():
                if partition not in self._partitions:
                    continue
                end = events[-1].position.offset + 1
                self._followed[partition] = max(end, self._followed.get(partition, 0))
            for portion, in_doubt in self._attempts.portions(gathered):
                await self._apply_portion(portion, in_doubt)

    async def _apply_portion(self, gathered: Gathered, one_by_one: bool) -> None:
        while (batch := self._batch(gathered, one_by_one)).slices:
            try:
                await self._in_thread(self._fold, batch)
            except (CheckpointMoved, AmbiguousCommit) as error:
                _log.info("projector.reads_checkpoints_again", reason=str(error))
                await self._load_locked()
            except WriteFailed:
                if one_by_one:
                    raise
                one_by_one = True
            except HandlerFailed as failed:
                self._judge(failed)
            else:
                failpoint("projections.committed")
                self._committed(batch)

    def _fold(self, batch: Batch) -> None:
        spans = [Span(part.partition, min(part.starts.values()), part.end) for part in batch.slices]
        with self._attempts.of(spans):
            rows = self._database.transact(lambda c: fold_batch(c, batch, self._kept, self._attempts))
        rows.leave()

    def _batch(self, gathered: Gathered, one_by_one: bool) -> Batch:
        slices = []
        for partition, events in gathered.items():
            if partition not in self._partitions:
                continue  # it was given to another meanwhile
            first, end = events[0].position.offset, events[-1].position.offset + 1
            starts: dict[str, int] = {}
            for name in self._projections:
                start = self._next[name, partition]
                if start < first and name not in self._rebuilding:
                    raise _Behind(f"{name} is at {partition}:{start}, followed is {partition}:{first}")
                if first <= start < end:
                    starts[name] = start
            if starts:
                slices.append(Slice(partition=partition, events=events, starts=starts, end=end))
        return Batch(
            slices=slices,
            dispatch=self._dispatch,
            parked=self._parked,
            condemned=self._condemned(gathered, slices),
            one_by_one=one_by_one,
        )

    def _condemned(self, gathered: Gathered, slices: Sequence[Slice]) -> dict[tuple[str, str], Poison]:
        """What is to be parked with this batch, for others to go on."""
        condemned: dict[tuple[str, str], Poison] = {}
        for poison in self._attempts.given_up(gathered):
            position, stream = poison.stored.position, poison.stored.record.stream
            starts = next((part.starts for part in slices if part.partition == position.partition), {})
            asked = any(p.name == poison.projection for p in self._dispatch.of_kind(stream.partition("/")[0]))
            if asked and starts.get(poison.projection, position.offset + 1) <= position.offset:
                condemned.setdefault((poison.projection, stream), poison)
        return condemned

    def _judge(self, failed: HandlerFailed) -> None:
        """Count a failure; after the third the stream is to be parked for that projection, and the others go on."""
        attempt = self._attempts.failed(failed.projection, failed.stored.position, repr(failed.cause))
        if attempt < ATTEMPTS_MOST:
            _log.warning("projector.handler_failed", error=str(failed), attempt=attempt)

    def _committed(self, batch: Batch) -> None:
        for part in batch.slices:
            self._next.update({(name, part.partition): part.end for name in part.starts})
        for (projection, stream), poison in batch.condemned.items():
            _log.error("projector.parked_stream", projection=projection, stream=stream, error=poison.error)
        self._parked |= batch.condemned.keys()
        self._attempts.reached(self._next)

    # --- the database -------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        async with self._applying:
            await self._load_locked()

    async def _load_locked(self) -> None:
        def load(partitions: Sequence[int]) -> Progress:
            self._kept.clear()  # in the thread: after the rows of a transaction whose caller was cancelled
            projections = list(self._projections.values())
            return self._database.transact(lambda c: load_progress(c, projections, partitions))

        progress = await self._in_thread(load, self._partitions)
        self._next, self._parked = progress.next, progress.parked
        self._checkpoints = progress.checkpoints
        self._attempts.reached(self._next)

    async def _in_thread(self, work: Callable[[A], T], argument: A) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, argument)


def _parts(events: list[StoredEvent]) -> Iterator[list[StoredEvent]]:
    for start in range(0, len(events), BATCH_EVENTS):
        yield events[start : start + BATCH_EVENTS]
