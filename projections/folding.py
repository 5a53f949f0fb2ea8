"""One batch folded in one transaction: checkpoints first, then the rows, so that both happen or neither.

Knows transactions and models; must not know how events arrive, nor when to try again.
"""

import functools
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, Table, Update, bindparam, select
from sqlalchemy.exc import DBAPIError

from events.failpoints import FailpointError, failpoint
from events.log.records import StoredEvent
from events.model.base import Event
from events.model.registry import decode_event
from projections.attempts import Attempts, Poison
from projections.dispatch import Dispatch
from projections.errors import CheckpointMoved, NewerProjection, ProjectionsError, WriteFailed
from projections.history import Checkpoint
from projections.kept import KeptRows
from projections.model import Projection, learn_names
from projections.rows import Rows, upsert
from projections.schema import CHECKPOINTS, COMPONENT_NAMES, PARKED, Row

ERROR_CHARACTERS = 2000
"""Of a handler's error, this much is kept."""


class HandlerFailed(ProjectionsError):
    """A projection could not fold one event; its cause is `__cause__`."""

    def __init__(self, projection: str, stored: StoredEvent, cause: Exception) -> None:
        super().__init__(f"{projection} cannot fold {stored.record.event_id} ({stored.record.type}): {cause!r}")
        self.projection = projection
        self.stored = stored
        self.cause = cause


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What one partition gives to a batch. `starts`: the offset each projection folds from; `end`: the one after."""

    partition: int
    events: Sequence[StoredEvent]
    starts: Mapping[str, int]
    end: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction's work, for the read models in `dispatch`. `one_by_one`: write after each event, to learn which
    one the database refuses."""

    slices: Sequence[Slice]
    dispatch: Dispatch
    parked: frozenset[tuple[str, str]]
    condemned: Mapping[tuple[str, str], Poison]
    one_by_one: bool = False


def fold_batch(connection: Connection, batch: Batch, kept: KeptRows, attempts: Attempts) -> Rows:
    """Fold `batch` in this connection's transaction, each try of an event noted in `attempts` before it is made.
    Whoever commits it lets the rows `leave` what is known of them.

    Raises CheckpointMoved, HandlerFailed, WriteFailed.
    """
    _advance(connection, batch)
    rows = Rows(connection, kept)
    read_ahead(rows, batch)
    folder = Folder(rows, batch, attempts)
    try:
        for part in batch.slices:
            folder.fold(part)
    finally:
        attempts.end()
    failpoint("projections.folded")
    rows.flush()
    failpoint("projections.written")
    return rows


@functools.cache
def _move(names: tuple[str, ...]) -> Update:
    c = CHECKPOINTS.c
    named = c.projection.in_([bindparam(f"name_{index}", name) for index, name in enumerate(names)])
    at = (c.partition == bindparam("at_partition"), c.next == bindparam("at_next"))
    statement = CHECKPOINTS.update().where(named, *at, c.version == bindparam("at_version"))
    return statement.values(next=bindparam("to_next"), last_at=bindparam("to_last_at"))


def read_ahead(rows: Rows, batch: Batch) -> None:
    """Read at once what the batch's events will ask for one by one."""
    idents: dict[Table, dict[str, None]] = {}
    for part in batch.slices:
        streams: dict[str, dict[str, None]] = {}
        for stored in part.events:
            kind, _, ident = stored.record.stream.partition("/")
            streams.setdefault(kind, {})[ident] = None
        for kind, found in streams.items():
            # Only of models whose checkpoint moves here: it is what tells that rows kept in memory are as they were.
            tables = [t for p in batch.dispatch.of_kind(kind) if p.name in part.starts for t in p.asks_for]
            for table in (*tables, *((COMPONENT_NAMES,) if kind == "component" else ())):
                idents.setdefault(table, {}).update(found)
    for table, wanted in idents.items():
        rows.load(table, list(wanted))


def _advance(connection: Connection, batch: Batch) -> None:
    # First of all: this compare is what keeps a second projector, or a second try, from folding an event twice, and it
    # takes the rows' locks before anything is read.
    moves: dict[tuple[str, ...], list[Row]] = {}
    for part in batch.slices:
        groups: dict[tuple[int, int], list[str]] = {}
        for name, start in part.starts.items():
            groups.setdefault((start, batch.dispatch.projections[name].version), []).append(name)
        to: Row = {"to_next": part.end, "to_last_at": part.events[-1].record.at}
        for (start, version), group in groups.items():
            move: Row = {"at_partition": part.partition, "at_next": start, "at_version": version, **to}
            moves.setdefault(tuple(group), []).append(move)
    for names, several in moves.items():
        # A primary key bounds what one of them can move, so the sum tells whether each moved all.
        moved = connection.execute(_move(names), several).rowcount
        if moved != len(names) * len(several):
            places = ", ".join(f"{move['at_partition']}:{move['at_next']}" for move in several)
            raise CheckpointMoved(f"expected {len(names)} projections at each of {places}, found {moved} in all")


class Folder:
    """Asks the models about each event of a batch, each try noted in `attempts` before it is made."""

    def __init__(self, rows: Rows, batch: Batch, attempts: Attempts) -> None:
        self._rows = rows
        self._batch = batch
        self._attempts = attempts
        self._parked = set(batch.parked)
        self._asides = {stream for _, stream in (*batch.parked, *batch.condemned)}

    def fold(self, part: Slice) -> None:
        """Change the rows by what one partition gives. Raises HandlerFailed, WriteFailed."""
        dispatch = self._batch.dispatch
        for stored in part.events:
            record = stored.record
            kind = record.stream.partition("/")[0]
            # What waits behind a parked event is counted, whatever it is.
            found = dispatch.of_kind(kind) if record.stream in self._asides else dispatch.of(kind, record)
            if found:
                self._fold(part.starts, stored, found)

    def _fold(self, starts: Mapping[str, int], stored: StoredEvent, projections: Sequence[Projection]) -> None:
        offset = stored.position.offset
        decoded: Event | None = None
        for projection in projections:
            name = projection.name
            if name not in starts or offset < starts[name]:
                continue
            if self._asides and self._is_aside(name, stored):
                continue
            self._attempts.begin(name, stored.position)
            try:
                if decoded is None:
                    decoded = decode_event(stored.record)
                    learn_names(self._rows, decoded)
                projection.fold(self._rows, stored, decoded)
                if self._batch.one_by_one:
                    self._rows.flush()
            except (DBAPIError, FailpointError):
                raise  # the database's trouble, not this event's
            except WriteFailed as error:
                if not self._batch.one_by_one:
                    raise  # some event before may be to blame
                raise HandlerFailed(name, stored, error) from error
            except Exception as error:
                raise HandlerFailed(name, stored, error) from error

    def _is_aside(self, projection: str, stored: StoredEvent) -> bool:
        """Whether the event's stream is parked, counting the event; parks it when this is the poisonous one."""
        key = (projection, stored.record.stream)
        if key in self._parked:
            row = self._rows.get(PARKED, *key)
            if row is None:
                # Folded by a person's wish meanwhile, which moves no checkpoint: what comes now is not to be left out.
                raise CheckpointMoved(f"expected {key[1]} to be parked by {projection}, found that it is not")
            self._rows.put(PARKED, {**row, "behind": int(row["behind"]) + 1})
            return True
        poison = self._batch.condemned.get(key)
        if poison is None or poison.stored.position != stored.position:
            return False
        self._rows.put(PARKED, _parked_row(poison))
        self._parked.add(key)
        return True


def _parked_row(poison: Poison) -> Row:
    stored = poison.stored
    return {
        "projection": poison.projection,
        "stream": stored.record.stream,
        "partition": stored.position.partition,
        "offset": stored.position.offset,
        "event_id": stored.record.event_id,
        "event_type": stored.record.type,
        "error": poison.error[:ERROR_CHARACTERS],
        "attempts": poison.attempts,
        "behind": 0,
        "parked_at": stored.record.at,
    }


# --- checkpoints ------------------------------------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the projections are: (projection, partition) → next offset, and (projection, stream) set aside.

    `checkpoints`: the same places once each, with the name of a projection that is there.
    """

    next: dict[tuple[str, int], int]
    checkpoints: dict[Checkpoint, str]
    parked: frozenset[tuple[str, str]]


def load_progress(connection: Connection, projections: Sequence[Projection], partitions: Sequence[int]) -> Progress:
    """Read the checkpoints, making those that are missing; a model of an older version starts anew.

    Raises NewerProjection.
    """
    found = _checkpoints(connection, partitions)
    for projection in projections:
        versions = {p: found.get((projection.name, p), _ABSENT)[0] for p in partitions}
        if (newest := max(versions.values(), default=-1)) > projection.version:
            raise NewerProjection(
                f"expected {projection.name} of version {projection.version}, found {newest}: upgrade rayfold"
            )
        if stale := [p for p, version in versions.items() if version < projection.version]:
            forget(connection, projection, stale)
    found = _checkpoints(connection, partitions)
    names = {p.name for p in projections}
    parked = connection.execute(
        select(PARKED.c.projection, PARKED.c.stream).where(PARKED.c.partition.in_(partitions))
    ).all()
    return Progress(
        next={key: next_ for key, (_, next_, _) in found.items() if key[0] in names},
        checkpoints={Checkpoint(p, next_, at): name for (name, p), (_, next_, at) in found.items() if name in names},
        parked=frozenset((str(projection), str(stream)) for projection, stream in parked),
    )


_Row = tuple[int, int, int]
"""version, next, last_at"""
_ABSENT: _Row = (-1, 0, 0)


def _checkpoints(connection: Connection, partitions: Sequence[int]) -> dict[tuple[str, int], _Row]:
    c = CHECKPOINTS.c
    query = select(c.projection, c.partition, c.version, c.next, c.last_at).where(c.partition.in_(partitions))
    return {(str(name), int(p)): (int(v), int(n), int(at)) for name, p, v, n, at in connection.execute(query)}


def forget(connection: Connection, projection: Projection, partitions: Sequence[int]) -> None:
    """Delete what a projection holds of these partitions, and set its checkpoints to their start."""
    for table in projection.tables:
        connection.execute(table.delete().where(table.c.partition.in_(partitions)))
    connection.execute(
        PARKED.delete().where(PARKED.c.projection == projection.name, PARKED.c.partition.in_(partitions))
    )
    rows: list[Row] = [
        {"projection": projection.name, "partition": p, "version": projection.version, "next": 0, "last_at": 0}
        for p in partitions
    ]
    connection.execute(upsert(CHECKPOINTS, connection.dialect.name), rows)
