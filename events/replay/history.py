"""Any past state of anything: the events of a stream, its state at a moment, and what differs between two.

Works on the log's port and the aggregates' pure `apply` alone; must not know SQL, HTTP or how anything is shown.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from events.log.records import Position, StoredEvent, partition_of
from events.model.base import partition_key
from events.model.registry import aggregate_of, apply_record, decode_event, initial_state, kind_of
from events.replay.diffing import Change, Plain, diff, to_plain
from events.replay.errors import NoSuchMoment, NoSuchStream
from events.replay.past import Past


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it is shown: its envelope, its place and its decoded body. `at`: microseconds UTC."""

    event_id: str
    stream: str
    version: int
    type: str
    schema_version: int
    partition: int
    offset: int
    revision: int
    at: int
    actor: str
    reason: str
    command_id: str
    correlation_id: str
    causation_id: str
    traceparent: str
    body: Plain


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a stream after `version` events. `at`: the time of the last of them; 0 events: the initial state."""

    stream: str
    kind: str
    version: int
    position: Position | None
    at: int
    last_event: EventView | None
    state: msgspec.Struct

    def plain(self) -> dict[str, Plain]:
        """As JSON has it."""
        shown = to_plain(msgspec.structs.asdict(self))
        return dict(shown) if isinstance(shown, dict) else {}


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two moments of one stream, and what differs."""

    stream: str
    before: Replayed
    after: Replayed
    changes: Sequence[Change]

    def plain(self) -> dict[str, Plain]:
        """As JSON has it, without the two states, which the changes tell apart."""
        sides = {
            name: {"version": side.version, "position": side.position, "at": side.at}
            for name, side in (("before", self.before), ("after", self.after))
        }
        shown = to_plain({"stream": self.stream, **sides, "changes": self.changes})
        return dict(shown) if isinstance(shown, dict) else {}


def place_of(log: Past, stream: str) -> int:
    """The partition that holds `stream`; raises NoSuchStream for a kind that there is not."""
    try:
        kind_of(stream)
    except KeyError as error:
        raise NoSuchStream(str(error.args[0])) from None
    return partition_of(partition_key(stream), log.partitions)


def to_event_view(stored: StoredEvent) -> EventView:
    """An event with its body decoded, upcast to the present schema. Raises UnknownEventError."""
    record = stored.record
    return EventView(
        event_id=record.event_id,
        stream=record.stream,
        version=record.version,
        type=record.type,
        schema_version=record.schema_version,
        partition=stored.position.partition,
        offset=stored.position.offset,
        revision=stored.revision,
        at=record.at,
        actor=record.actor,
        reason=record.reason,
        command_id=record.command_id,
        correlation_id=record.correlation_id,
        causation_id=record.causation_id,
        traceparent=record.traceparent,
        body=to_plain(decode_event(record)),
    )


async def history(log: Past, stream: str) -> list[StoredEvent]:
    """Every event of `stream`, in order. Raises NoSuchStream when there is none, and what the log's reading raises."""
    events = [stored async for block in log.read(place_of(log, stream), 0, stream=stream) for stored in block]
    if not events:
        raise NoSuchStream(f"expected events of {stream}, found none; list streams with: rayfold events")
    return events


async def state_at(
    past: Past,
    stream: str,
    events: Sequence[StoredEvent],
    *,
    at: int | None = None,
    offset: int | None = None,
    version: int | None = None,
) -> Replayed:
    """As `state_of`, folded in a thread, of a stream of `past`. Raises NoSuchMoment also for an offset that its
    partition has not reached: what a state will be after it nobody knows."""
    if offset is not None:
        partition = place_of(past, stream)
        tail = await past.tail(partition)
        if offset >= tail:
            raise NoSuchMoment(f"expected an offset below {tail} of partition {partition}, found {offset}")
    return await asyncio.to_thread(state_of, stream, events, at=at, offset=offset, version=version)


def state_of(
    stream: str,
    events: Sequence[StoredEvent],
    *,
    at: int | None = None,
    offset: int | None = None,
    version: int | None = None,
) -> Replayed:
    """The state of `stream`, whose history is `events`, as it was: at a time (microseconds UTC, that instant included),
    after a partition offset (included), or after so many of its events; now, when none of them is given.

    Raises NoSuchMoment for more than one of them or a version that the stream has not reached.
    """
    if sum(given is not None for given in (at, offset, version)) > 1:
        raise NoSuchMoment("expected one of a time, an offset or a version, found several; give one")
    if version is not None and not 0 <= version <= len(events):
        raise NoSuchMoment(f"expected a version from 0 to {len(events)} of {stream}, found {version}")
    until = _count(events, at, offset) if version is None else version
    state = initial_state(stream)
    for stored in events[:until]:
        state = apply_record(state, stored.record)
    return _replayed(stream, events, until, state)


def _replayed(stream: str, events: Sequence[StoredEvent], until: int, state: msgspec.Struct) -> Replayed:
    last = events[until - 1] if until else None
    return Replayed(
        stream=stream,
        kind=aggregate_of(stream).kind,
        version=until,
        position=last.position if last else None,
        at=last.record.at if last else 0,
        last_event=to_event_view(last) if last else None,
        state=state,
    )


def states_of(stream: str, events: Sequence[StoredEvent]) -> list[msgspec.Struct]:
    """The state before the first event and after each: one more than `events`. They share what did not change."""
    states = [initial_state(stream)]
    for stored in events:
        states.append(apply_record(states[-1], stored.record))
    return states


def _count(events: Sequence[StoredEvent], at: int | None, offset: int | None) -> int:
    """How many events lie before the moment. By the log's order: a clock that went back hides no event before it."""
    if at is not None:
        return max((i for i, stored in enumerate(events, 1) if stored.record.at <= at), default=0)
    if offset is not None:
        return sum(stored.position.offset <= offset for stored in events)
    return len(events)


def compare(before: Replayed, after: Replayed) -> Difference:
    """What differs between two moments of one stream."""
    return Difference(stream=after.stream, before=before, after=after, changes=diff(before.state, after.state))
