"""One batch folded in one transaction: checkpoints first, then the rows, so that both happen or neither.

Knows transactions and models; must not know how events arrive, nor when to try again.
"""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import Connection, bindparam, select
from sqlalchemy.exc import DBAPIError

from events.failpoints import FailpointError, failpoint
from events.log.records import StoredEvent
from events.model.base import Event
from events.model.registry import decode_event
from projections.errors import CheckpointMoved, NewerProjection, ProjectionsError, WriteFailed
from projections.history import Checkpoint
from projections.model import Projection, learn_names
from projections.rows import Rows, upsert
from projections.schema import CHECKPOINTS, COMPONENT_NAMES, PARKED, Row

WORTH_READING_AHEAD = 2  # streams
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


class Poison(msgspec.Struct, frozen=True, kw_only=True):
    """The event at which a projection gives up on a stream."""

    projection: str
    stored: StoredEvent
    error: str
    attempts: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction's work. `one_by_one`: write after each event, to learn which one the database refuses."""

    slices: Sequence[Slice]
    projections: Mapping[str, Projection]
    parked: frozenset[tuple[str, str]]
    condemned: Mapping[tuple[str, str], Poison]
    one_by_one: bool = False


def fold_batch(connection: Connection, batch: Batch) -> None:
    """Fold `batch` in this connection's transaction. Raises CheckpointMoved, HandlerFailed, WriteFailed."""
    for part in batch.slices:
        _advance(connection, part, batch.projections)
    rows = Rows(connection)
    _read_ahead(rows, batch)
    folder = _Folder(rows, batch)
    for part in batch.slices:
        for stored in part.events:
            folder.fold(part, stored)
    failpoint("projections.folded")
    rows.flush()
    failpoint("projections.written")


_MOVE = (
    CHECKPOINTS.update()
    .where(
        CHECKPOINTS.c.partition == bindparam("at_partition"),
        CHECKPOINTS.c.next == bindparam("at_next"),
        CHECKPOINTS.c.version == bindparam("at_version"),
        CHECKPOINTS.c.projection.in_(bindparam("at_names", expanding=True)),
    )
    .values(next=bindparam("to_next"), last_at=bindparam("to_last_at"))
)


def _read_ahead(rows: Rows, batch: Batch) -> None:
    """Read at once what the batch's events will ask for one by one."""
    idents: dict[str, dict[str, None]] = {}
    for part in batch.slices:
        for stored in part.events:
            kind, _, ident = stored.record.stream.partition("/")
            idents.setdefault(kind, {})[ident] = None
    for kind, found in idents.items():
        if len(found) < WORTH_READING_AHEAD:
            continue
        tables = [t for p in batch.projections.values() if kind in p.kinds for t in p.asks_for]
        for table in (*tables, *((COMPONENT_NAMES,) if kind == "component" else ())):
            rows.load(table, list(found))


def _advance(connection: Connection, part: Slice, projections: Mapping[str, Projection]) -> None:
    # First of all: this compare is what keeps a second projector, or a second try, from folding an event twice, and it
    # takes the rows' locks before anything is read.
    groups: dict[tuple[int, int], list[str]] = {}
    for name, start in part.starts.items():
        groups.setdefault((start, projections[name].version), []).append(name)
    last_at = part.events[-1].record.at
    for (start, version), names in groups.items():
        where = {"at_partition": part.partition, "at_next": start, "at_version": version, "at_names": names}
        moved = connection.execute(_MOVE, {**where, "to_next": part.end, "to_last_at": last_at}).rowcount
        if moved != len(names):
            raise CheckpointMoved(
                f"partition {part.partition}: expected {len(names)} projections at offset {start}, found {moved}"
            )


class _Folder:
    def __init__(self, rows: Rows, batch: Batch) -> None:
        self._rows = rows
        self._batch = batch
        self._parked = set(batch.parked)

    def fold(self, part: Slice, stored: StoredEvent) -> None:
        kind = stored.record.stream.partition("/")[0]
        decoded: Event | None = None
        for name, start in part.starts.items():
            projection = self._batch.projections[name]
            if kind not in projection.kinds or stored.position.offset < start or self._is_aside(name, stored):
                continue
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
            if row is not None:
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
