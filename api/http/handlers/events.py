"""Events over HTTP: a page of the past, or a live stream that can be resumed where it broke. Also what one operation
caused, until it ended."""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import msgspec
from aiohttp import web

from api.http.answers import answer
from api.http.call import Call
from api.http.eventfilter import EventFilter, begin
from api.http.eventview import event_view
from api.http.feed import SILENCE_SECONDS, Cursor, format_cursor
from api.http.problems import damaged, invalid, not_found
from api.http.queries import ComponentEvents, Events
from api.http.schema import EventView
from api.http.schema_story import EventPage
from api.http.streams import EventStream, wants_stream
from events.log.errors import LogDamaged
from events.log.records import StoredEvent
from events.model.operation import ENDINGS
from projections.views import OperationView

SCAN_EVENTS = 20_000  # looked at for one page; a page that is cut short goes on at its cursor
OPERATION_EVENTS = 1_000

_ENDING_TYPES = {event.__name__ for event in ENDINGS}


async def list_events(call: Call) -> web.StreamResponse:
    asked = call.query_as(Events)
    if asked.team is not None and not call.principal.reaches(asked.team):
        raise not_found(f"there is no team {asked.team}", hint="rayfold teams")
    wanted = EventFilter(
        stream=asked.stream,
        type=asked.type,
        team=asked.team,
        app=asked.app,
        component=asked.component,
        operation=asked.operation,
    )
    partitions = set(range(call.context.partitions))
    if asked.stream is not None:
        if "/" not in asked.stream:
            raise invalid(f"expected a stream like component/ID, found {asked.stream[:80]!r}")
        partitions = {call.context.partition(asked.stream)}
    return await _serve(call, wanted, partitions, asked.since, asked.limit)


async def list_component_events(call: Call) -> web.StreamResponse:
    """The component's own events and those of its builds, which share its partition."""
    asked = call.query_as(ComponentEvents)
    row = await call.context.reads.component(call)
    wanted = EventFilter(team=row.team, app=row.app, component=row.name, type=asked.type, operation=asked.operation)
    return await _serve(call, wanted, {call.context.partition(row.stream)}, asked.since, asked.limit)


async def _serve(
    call: Call, wanted: EventFilter, partitions: set[int], since: str | None, limit: int
) -> web.StreamResponse:
    wanted.check()
    live = wants_stream(call)
    cursor, at, exact = await begin(call, since, partitions, live)
    wanted = replace(wanted, since_at=at, exact=exact)
    if live:
        return await _stream(call, wanted, cursor)
    return answer(await _page(call, wanted, cursor, limit))


async def _page(call: Call, wanted: EventFilter, cursor: Cursor, limit: int) -> EventPage:
    items: list[EventView] = []
    scanned, caught_up = 0, True
    async with aclosing(call.context.feed.page(dict(cursor))) as paged:
        async for stored in paged:
            if len(items) >= limit or scanned >= SCAN_EVENTS:
                caught_up = False
                break
            cursor[stored.position.partition] = stored.position.offset + 1
            scanned += 1
            owner = await wanted.owner(call.context, call.principal, stored)
            if owner is not None:
                items.append(event_view(stored, owner))
    next_cursor = format_cursor(cursor, call.context.partitions)
    return EventPage(items=items, next_cursor=next_cursor, caught_up=caught_up)


async def _stream(
    call: Call,
    wanted: EventFilter,
    cursor: Cursor,
    ends: Callable[[StoredEvent], bool] = lambda stored: False,
    needs: int = -1,
) -> web.StreamResponse:
    """Past, then live; `caught-up` once between them; a heartbeat at least every 10 s; `end` after what `ends`.

    A partition that is damaged is told as `damaged`, and the others go on; `problem` ends it where it `needs` that one.
    """
    context = call.context
    caught_up = False
    met: list[tuple[int, LogDamaged]] = []

    def on_damage(partition: int, error: LogDamaged | None) -> None:
        if error is not None:
            met.append((partition, error))

    async with EventStream(call) as stream, aclosing(context.feed.follow(cursor, on_damage)) as following:
        spoken = time.monotonic()
        async for stored in following:
            here = format_cursor(cursor, context.partitions)
            while met:
                partition, error = met.pop(0)
                if partition == needs:
                    problem = damaged(str(error)).view(call.request_id)
                    await stream.send(problem.model_dump_json(), event="problem")
                    return stream.response
                words = msgspec.json.encode({"partition": partition, "damaged": str(error)}).decode()
                await stream.send(words, event="damaged")
            if stored is None:
                if caught_up:
                    await stream.heartbeat(here)
                else:
                    await stream.send(f'{{"cursor":"{here}"}}', id=here, event="caught-up")
                caught_up, spoken = True, time.monotonic()
                continue
            owner = await wanted.owner(context, call.principal, stored)
            if owner is not None:
                await stream.send(event_view(stored, owner).model_dump_json(), id=here)
                spoken = time.monotonic()
            elif time.monotonic() - spoken >= SILENCE_SECONDS:
                await stream.heartbeat(here)
                spoken = time.monotonic()
            if ends(stored):
                await stream.end()
                break
    return stream.response


async def follow_operation(call: Call) -> web.StreamResponse:
    """The events that carry the operation's id, or a child's, from its beginning; the stream ends when it did."""
    await call.context.reads.wait_for(call)
    row = await call.context.reads.operation(call.principal, call.name("operation"))
    wanted = EventFilter(operation=row.id, team=row.team)
    partitions = set(range(call.context.partitions))
    if wants_stream(call) and call.request.headers.get("Last-Event-ID"):
        cursor, _, _ = await begin(call, None, partitions, live=True)
        # The end may lie before this cursor and not be folded yet: then it must be seen here, for it comes no more.
        await call.context.reads.catch_up([row.stream])
        row = await call.context.reads.operation(call.principal, row.id)
    else:
        cursor = {p: await _begun_at(call, p, row) for p in partitions}
    if not wants_stream(call):
        return answer(await _page(call, wanted, cursor, OPERATION_EVENTS))
    if row.ended_at and await _ended_before(call, row, cursor):
        async with EventStream(call) as stream:
            await stream.end()
        return stream.response
    own = call.context.partition(row.stream)
    return await _stream(call, wanted, cursor, lambda stored: _is_end(stored, row), needs=own)


async def _begun_at(call: Call, partition: int, row: OperationView) -> int:
    """Where to look for its events; where another partition is damaged, what comes from now on must do."""
    try:
        return await call.context.feed.offset_at(partition, row.started_at)
    except LogDamaged:
        if partition == call.context.partition(row.stream):
            raise
        return (await call.context.feed.tails())[partition]


async def _ended_before(call: Call, row: OperationView, cursor: Cursor) -> bool:
    """Whether the end lies before the cursor: a client that resumes after it would wait for ever."""
    partition = call.context.partition(row.stream)
    return row.offset < cursor[partition]


def _is_end(stored: StoredEvent, row: OperationView) -> bool:
    record = stored.record
    if record.stream != row.stream or record.type not in _ENDING_TYPES:
        return False
    body = msgspec.msgpack.decode(record.body, type=dict[str, object])
    return body.get("operation") == row.id


HANDLERS = {
    "listEvents": list_events,
    "listComponentEvents": list_component_events,
    "followOperation": follow_operation,
}
