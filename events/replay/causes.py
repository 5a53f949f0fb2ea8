"""Why an event happened: the chain of events and commands behind it, across streams, as far as the log tells.

Knows how to look events up in a `Past`; which event points at which is in `links`.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from events.log.records import EventRecord, StoredEvent
from events.model.registry import decode_event
from events.replay.errors import NoSuchStream
from events.replay.history import history
from events.replay.links import Link, link_of
from events.replay.past import Past

MAX_LINKS = 40  # a chain that is longer is shown so far; the last link says where it went on
MAX_HISTORIES = 32  # streams kept at hand while a whole history is stepped through

Allowed = Callable[[str], Awaitable[bool]]
"""Whether a stream may be looked into."""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One link. `kind`: event, command or operation; `id`: its id; `how`: how what came before it in the list follows
    from it; `event`: the event itself, where this is one, or the one with which the operation began, if the log has
    it; `actor` and `reason`: whose command it was."""

    kind: str
    id: str
    how: str
    event: StoredEvent | None = None
    actor: str = ""
    reason: str = ""


async def _all(stream: str) -> bool:
    return True


class _Known(msgspec.Struct, frozen=True):
    """A history that was read, and where in it each operation began."""

    events: Sequence[StoredEvent]
    begun: dict[str, StoredEvent]


class Causes:
    """Looks up chains in one `Past`; keeps the last histories it has read, for the next event's chain."""

    def __init__(self, past: Past, *, allowed: Allowed = _all) -> None:
        self._past = past
        self._allowed = allowed
        self._kept: OrderedDict[str, _Known] = OrderedDict()

    def keep(self, stream: str, events: Sequence[StoredEvent]) -> None:
        """Take a history that was read already."""
        begun = {s.record.correlation_id: s for s in reversed(events) if s.record.type == "OperationStarted"}
        self._kept[stream] = _Known(events, begun)
        if len(self._kept) > MAX_HISTORIES:
            self._kept.popitem(last=False)

    async def chain(self, stored: StoredEvent) -> list[Cause]:
        """From the nearest cause to the command that came from outside, and last the operation it belongs to."""
        causes: list[Cause] = []
        here = stored
        seen = {stored.record.event_id}
        while len(causes) < MAX_LINKS:
            link = link_of(here.record, decode_event(here.record))
            behind = None if link is None else await self._find(link, here)
            if link is None or behind is None or behind.record.event_id in seen:
                causes.append(_command(here.record))
                break
            seen.add(behind.record.event_id)
            causes.append(Cause(kind="event", id=behind.record.event_id, how=link.how, event=behind))
            here = behind
        operation = stored.record.correlation_id
        begun: StoredEvent | None = None
        if operation and operation != causes[-1].id:
            begun = await self._begun(operation, [stored, *(c.event for c in causes if c.event)])
        # What belongs to no operation carries its own command's id in that place.
        if begun is not None or operation not in ("", causes[-1].id, stored.record.command_id):
            causes.append(Cause(kind="operation", id=operation, how="belongs to", event=begun))
        return causes

    async def _find(self, link: Link, later: StoredEvent) -> StoredEvent | None:
        events = (await self._known(link.stream)).events
        if link.version:
            return events[link.version - 1] if 0 < link.version <= len(events) else None
        own = later.record.stream == link.stream
        before = events[: later.record.version - 1] if own else events
        for stored in reversed(before):
            record = stored.record
            if record.type not in link.types or (not own and record.at > later.record.at):
                continue
            if not link.field or str(getattr(decode_event(record), link.field, "")) == link.value:
                return stored
        return None

    async def _known(self, stream: str) -> _Known:
        if stream not in self._kept:
            try:
                events = await history(self._past, stream) if await self._allowed(stream) else []
            except NoSuchStream:
                events = []
            self.keep(stream, events)
        return self._kept[stream]

    async def _begun(self, operation: str, among: Sequence[StoredEvent]) -> StoredEvent | None:
        """Where the operation began, in one of the streams that the chain went through."""
        for stream in dict.fromkeys(stored.record.stream for stored in among):
            begun = (await self._known(stream)).begun.get(operation)
            if begun is not None:
                return begun
        return None


def _command(record: EventRecord) -> Cause:
    return Cause(kind="command", id=record.command_id, how="was decided from", actor=record.actor, reason=record.reason)
