"""The past of one stream over HTTP: its state at a moment, and what changed between two. `events.replay` folds."""

import asyncio
from typing import TypedDict

from aiohttp import web
from pydantic import JsonValue, TypeAdapter

from api.http.answers import answer
from api.http.call import Call, at_time, read_time
from api.http.problems import invalid, not_found
from api.http.queries import Diff, Replay
from api.http.schema import Change
from api.http.schema_platform import DiffView, StateView
from events.log.records import Position, StoredEvent
from events.replay.diffing import to_plain
from events.replay.errors import NoSuchMoment, NoSuchStream
from events.replay.history import Replayed, compare, history, state_of
from events.replay.moments import resolve_stream

_STATE = TypeAdapter(dict[str, JsonValue])
_VALUE: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


class Moment(TypedDict, total=False):
    """How `state_of` is told the moment: one of these, or none for now."""

    at: int
    offset: int
    version: int


async def replay(call: Call) -> web.Response:
    asked = call.query_as(Replay)
    moment = Moment()
    if asked.at is not None:
        moment["at"] = read_time("at", asked.at)
    if asked.offset is not None:
        moment["offset"] = asked.offset
    if asked.version is not None:
        moment["version"] = asked.version
    stream, team = await _stream(call)
    events = await _history(call, stream)
    found = await _state(stream, events, moment)
    view = StateView(
        team=team,
        stream=stream,
        version=found.version,
        position=None if found.position is None else str(found.position),
        at=None if found.position is None else at_time(found.at),
        state=_STATE.validate_python(to_plain(found.state)),
    )
    return answer(view)


async def diff(call: Call) -> web.Response:
    asked = call.query_as(Diff)
    stream, team = await _stream(call)
    partition = call.context.partition(stream)
    begin = _moment(asked.from_, partition)
    end = Moment() if asked.to is None else _moment(asked.to, partition)
    events = await _history(call, stream)
    before, after = await _state(stream, events, begin), await _state(stream, events, end)
    difference = await asyncio.to_thread(compare, before, after)
    changes = [
        Change(path=c.path, before=_VALUE.validate_python(c.before), after=_VALUE.validate_python(c.after))
        for c in difference.changes
    ]
    view = DiffView(team=team, stream=stream, from_version=before.version, to_version=after.version, changes=changes)
    return answer(view)


async def _stream(call: Call) -> tuple[str, str | None]:
    """The stream that the path names, `component/ID` or `app/component`, and its team, within reach."""
    try:
        stream = resolve_stream(call.name("stream"), team=call.principal.team or "default")
    except NoSuchStream as error:
        raise not_found(str(error), hint="rayfold events shows the streams there are") from None
    owner = await call.context.owners.of_stream(stream)
    if not call.principal.reaches(owner.team):
        raise not_found(f"there is no stream {stream[:200]}", hint="rayfold components")
    return stream, owner.team


async def _history(call: Call, stream: str) -> list[StoredEvent]:
    try:
        return await history(call.context.services.log, stream)
    except NoSuchStream as error:
        raise not_found(str(error), hint="rayfold events shows the streams there are") from None


async def _state(stream: str, events: list[StoredEvent], moment: Moment) -> Replayed:
    try:
        # A long history takes a while to fold: not on the loop.
        return await asyncio.to_thread(state_of, stream, events, **moment)
    except NoSuchMoment as error:
        raise invalid(str(error)) from None


def _moment(text: str, partition: int) -> Moment:
    digits = text.removeprefix("v")
    if digits.isascii() and digits.isdecimal() and len(digits) < (16 if text != digits else 9):
        return Moment(version=int(digits))
    if text.replace(":", "", 1).isdecimal() and ":" in text:
        position = Position.parse(text)
        if position.partition != partition:
            raise invalid(f"expected a position in partition {partition}, where the stream is, found {position}")
        return Moment(offset=position.offset)
    return Moment(at=read_time("moment", text))


HANDLERS = {"replay": replay, "diff": diff}
