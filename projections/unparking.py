"""A stream that a read model has set aside, folded after all: what waits in it, in one transaction, or none of it.

The model's rows of a stream come from that stream alone, so that it may be folded when others have long gone on. Must
not know who wants it, nor which partitions are folded here.
"""

from collections.abc import Mapping
from contextlib import aclosing

import msgspec
from sqlalchemy import Connection, select

from events.failpoints import failpoint
from events.log.port import EventLog
from events.log.records import Position, StoredEvent
from projections.attempts import Attempts, Poison
from projections.database import Database
from projections.dispatch import Dispatch
from projections.errors import CheckpointMoved
from projections.folding import Batch, Folder, HandlerFailed, Slice, read_ahead
from projections.kept import KeptRows
from projections.rows import Rows
from projections.schema import CHECKPOINTS, PARKED


class Waiting:
    """The events of a stream that is parked `at` a position, read bit by bit."""

    def __init__(self, projection: str, stream: str, at: Position) -> None:
        self.projection = projection
        self.stream = stream
        self.at = at
        self._read_to = at.offset
        self._events: list[StoredEvent] = []

    async def read(self, log: EventLog, end: int) -> None:
        """Go on to `end`, no further: what cannot be read behind it does not matter here."""
        if self._read_to >= end:
            return
        async with aclosing(log.read(self.at.partition, self._read_to)) as parts:  # type: ignore[type-var]
            async for events in parts:
                self._events += [stored for stored in events if stored.record.stream == self.stream]
                self._read_to = events[-1].position.offset + 1
                if self._read_to >= end:
                    break

    def before(self, end: int) -> Slice:
        """Those before `end`, to where it was read and the model's checkpoint is."""
        events = [stored for stored in self._events if stored.position.offset < end]
        starts = {self.projection: self.at.offset}
        return Slice(partition=self.at.partition, events=events, starts=starts, end=end)


def parked_at(database: Database, projection: str, stream: str) -> Position | None:
    """Where a model gave up on a stream; None when it did not."""
    c = PARKED.c
    query = select(c.partition, c.offset).where(c.projection == projection, c.stream == stream)
    found = database.read(lambda connection: connection.execute(query).one_or_none())
    return None if found is None else Position(int(found[0]), int(found[1]))


class Unparking(msgspec.Struct, frozen=True, kw_only=True):
    """One stream's. `part`: its events alone, from where the one model gave up to where its checkpoint is and stays."""

    part: Slice
    dispatch: Dispatch

    def run(self, database: Database, kept: KeptRows, attempts: Attempts) -> str:
        """Blocks. Returns why it is set aside still, at the event that is at fault now; "" when it is folded.

        Raises CheckpointMoved when the model or the parked event is elsewhere, DatabaseUnavailable.
        """
        try:
            database.transact(lambda c: self._fold(c, kept, attempts, {})).leave()
        except HandlerFailed as failed:
            # Folding is the same each time: one try tells as much as three.
            poison = Poison(projection=failed.projection, stored=failed.stored, error=repr(failed.cause), attempts=1)
            key = (failed.projection, failed.stored.record.stream)
            database.transact(lambda c: self._fold(c, kept, attempts, {key: poison})).leave()
            return poison.error
        return ""

    def _fold(
        self, connection: Connection, kept: KeptRows, attempts: Attempts, condemned: Mapping[tuple[str, str], Poison]
    ) -> Rows:
        part = self.part
        ((projection, start),) = part.starts.items()
        self._stand(connection, projection)
        rows = Rows(connection, kept)
        stream = part.events[0].record.stream
        row = rows.get(PARKED, projection, stream)
        if row is None or row["offset"] != start:
            found = "nowhere" if row is None else row["offset"]
            raise CheckpointMoved(f"expected {stream} to be parked at {start} by {projection}, found it {found}")
        rows.delete(PARKED, projection, stream)
        batch = Batch(slices=[part], dispatch=self.dispatch, parked=frozenset(), condemned=condemned, one_by_one=True)
        read_ahead(rows, batch)
        try:
            Folder(rows, batch, attempts).fold(part)
        finally:
            attempts.end()
        rows.flush()
        failpoint("projections.unparked")
        return rows

    def _stand(self, connection: Connection, projection: str) -> None:
        # As when a batch moves it: the lock and the compare keep a second projector away. Here nothing moves.
        c, part = CHECKPOINTS.c, self.part
        here = (c.projection == projection, c.partition == part.partition, c.next == part.end)
        version = self.dispatch.projections[projection].version
        statement = CHECKPOINTS.update().where(*here, c.version == version).values(next=part.end)
        if connection.execute(statement).rowcount != 1:
            raise CheckpointMoved(f"expected {projection} at {part.partition}:{part.end}, found it elsewhere")
