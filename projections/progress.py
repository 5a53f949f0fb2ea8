"""How far the read models are: positions reached, waiting for one, lag, and what is parked.

Must not know what any model holds, nor read the log: whoever asks for the lag brings the tails.
"""

import asyncio
import time
from collections.abc import Mapping

from sqlalchemy import func, select

from events.log.records import Position
from projections.database import Database
from projections.paging import to_view
from projections.schema import CHECKPOINTS, PARKED
from projections.views import ParkedView, PartitionLag, ProjectionView

POLL_S = 0.005


def reached(database: Database) -> dict[int, int]:
    """For each partition, the next offset of its slowest projection: everything below it is visible."""
    query = select(CHECKPOINTS.c.partition, func.min(CHECKPOINTS.c.next)).group_by(CHECKPOINTS.c.partition)
    rows = database.read(lambda connection: connection.execute(query).all())
    return {int(partition): int(next_) for partition, next_ in rows}


def lag(database: Database, tails: Mapping[int, int]) -> list[PartitionLag]:
    """For each of `tails` ({partition: the offset its next event will get}), how far behind the models are."""
    found = {(p.partition, p.projection): p for p in checkpoints(database)}
    result = []
    for partition, tail in sorted(tails.items()):
        slowest = min((c for (p, _), c in found.items() if p == partition), key=lambda c: c.next, default=None)
        next_ = slowest.next if slowest else 0
        last_at = slowest.last_at if slowest else 0
        result.append(
            PartitionLag(partition=partition, tail=tail, next=next_, events=max(0, tail - next_), last_at=last_at)
        )
    return result


def checkpoints(database: Database) -> list[ProjectionView]:
    """Every projection's place in every partition."""
    query = select(CHECKPOINTS).order_by(CHECKPOINTS.c.projection, CHECKPOINTS.c.partition)
    rows = database.read(lambda connection: connection.execute(query).mappings().all())
    return [to_view(row, ProjectionView) for row in rows]


def parked(database: Database) -> list[ParkedView]:
    """Every stream that some projection could not fold."""
    query = select(PARKED).order_by(PARKED.c.projection, PARKED.c.stream)
    rows = database.read(lambda connection: connection.execute(query).mappings().all())
    return [to_view(row, ParkedView) for row in rows]


class Watermarks:
    """Waits for positions on behalf of any number of callers of one event loop, with one query for all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reached: dict[int, int] = {}
        self._asked_at = 0.0
        self._asking = asyncio.Lock()

    async def wait_for(self, position: Position, timeout_s: float) -> bool:
        """True once the event at `position` is visible in every read model; False if it is not within `timeout_s`.

        Raises DatabaseUnavailable.
        """
        try:
            async with asyncio.timeout(timeout_s):
                # From an earlier answer only a "yes" may be taken, and only while no rebuild goes on: so ask anew.
                begun = time.monotonic()
                while not await self._is_reached(position, begun):
                    await asyncio.sleep(POLL_S)
                    begun = time.monotonic()
                return True
        except TimeoutError:
            return False

    async def _is_reached(self, position: Position, since: float) -> bool:
        async with self._asking:
            if self._asked_at < since:
                asked_at = time.monotonic()
                self._reached = await asyncio.to_thread(reached, self._database)
                self._asked_at = asked_at
            return self._reached.get(position.partition, 0) > position.offset
