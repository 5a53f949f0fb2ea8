"""Which events a reader wants and may see, and where in the log it begins.

Knows events, owners and cursors; nothing of how they are sent.
"""

from dataclasses import dataclass

from api.http.call import Call, read_time
from api.http.context import Context
from api.http.eventview import Owner
from api.http.feed import Cursor, parse_cursor
from api.http.identity import Principal
from api.http.problems import invalid
from events.log.records import Position, StoredEvent
from events.model.registry import EVENT_TYPES


@dataclass(frozen=True, kw_only=True)
class EventFilter:
    """All conditions must hold; None always does. `since_at`: microseconds UTC, not for `exact` (a partition that
    begins at an offset)."""

    stream: str | None = None
    type: str | None = None
    team: str | None = None
    app: str | None = None
    component: str | None = None
    operation: str | None = None
    since_at: int = 0
    exact: int = -1

    def check(self) -> None:
        """Raises HttpProblem 422 for an event type that there is none of."""
        if self.type is not None and self.type not in EVENT_TYPES:
            raise invalid(f"expected an event type like ReleaseCreated, found {self.type[:60]!r}")

    async def owner(self, context: Context, principal: Principal, stored: StoredEvent) -> Owner | None:
        """Whose the event is, when it passes; None when it is not wanted, or is not there for this principal."""
        record = stored.record
        if self.stream is not None and record.stream != self.stream:
            return None
        if self.type is not None and record.type != self.type:
            return None
        if record.at < self.since_at and stored.position.partition != self.exact:
            return None
        if self.operation is not None and not _belongs(record.correlation_id, self.operation):
            return None
        owner = await context.owners.of(stored)
        if not principal.reaches(owner.team):
            return None
        wanted = ((self.team, owner.team), (self.app, owner.app), (self.component, owner.component))
        return owner if all(want is None or want == found for want, found in wanted) else None


def _belongs(correlation_id: str, operation: str) -> bool:
    # The operations of a deploy's other process types carry its id in front.
    return correlation_id == operation or correlation_id.startswith(operation + "-")


async def begin(call: Call, since: str | None, partitions: set[int], live: bool) -> tuple[Cursor, int, int]:
    """Where to begin: the cursor, the oldest time wanted elsewhere, and the partition begun at an exact offset (-1).

    `Last-Event-ID` before `since`; without both the newest (`live`) or the oldest. Raises HttpProblem 422.
    """
    context = call.context
    last = call.request.headers.get("Last-Event-ID")
    text = last if last is not None else since
    tails = await context.feed.tails()
    if text is None:
        return {p: tails[p] if live else 0 for p in partitions}, 0, -1
    if text.count(".") == context.partitions - 1 and text.replace(".", "").isdecimal():
        cursor = parse_cursor(text, context.partitions)
        return {p: _within(cursor[p], p, tails) for p in partitions}, 0, -1
    if text.replace(":", "", 1).isdecimal() and ":" in text:
        return await _from_position(context, Position.parse(text), partitions, tails)
    at = read_time("since (a time, a position like 3:120, or a cursor that an answer gave)", text)
    return {p: await context.feed.offset_at(p, at) for p in partitions}, at, -1


def _within(offset: int, partition: int, tails: Cursor) -> int:
    if offset > tails[partition]:
        found = f"{offset} where partition {partition} ends at {tails[partition]}"
        raise invalid(f"expected a place in this log, found {found}", hint="begin anew, without the cursor")
    return offset


async def _from_position(
    context: Context, position: Position, partitions: set[int], tails: Cursor
) -> tuple[Cursor, int, int]:
    """Its own partition from that offset, the others from that event's time."""
    if position.partition >= context.partitions:
        raise invalid(f"expected a partition below {context.partitions}, found {position.partition}")
    _within(position.offset, position.partition, tails)
    event = await context.feed.event_at(position)
    if event is None:
        return {p: tails[p] for p in partitions}, 0, -1
    at = event.record.at
    cursor = {p: await context.feed.offset_at(p, at) for p in partitions}
    if position.partition in partitions:
        cursor[position.partition] = position.offset
    return cursor, at, position.partition
