"""The past of one stream over HTTP: its state at a moment, and what changed between two. `events.replay` folds."""

import asyncio
from typing import TypedDict

from aiohttp import web

from api.http.answers import answer
from api.http.call import Call, read_time
from api.http.problems import invalid, not_found
from api.http.queries import Diff, Replay
from api.http.schema_debugger import DiffView
from api.http.schema_platform import StateView
from events.log.records import Position, StoredEvent
from events.replay.documents import Document, difference_document, state_document
from events.replay.errors import NoSuchMoment, NoSuchStream
from events.replay.history import Replayed, compare, history
from events.replay.history import state_at as folded_at
from events.replay.names import resolve_stream
from events.replay.why import attribute


class Moment(TypedDict, total=False):
    """How `state_of` is told the moment: one of these, or none for now."""

    at: int
    offset: int
    version: int


def moment_of(at: str | None, offset: int | None, version: int | None) -> Moment:
    """The moment that a request names by one of them. Raises HttpProblem 422 for a text that is no time."""
    moment = Moment()
    if at is not None:
        moment["at"] = read_time("at", at)
    if offset is not None:
        moment["offset"] = offset
    if version is not None:
        moment["version"] = version
    return moment


async def replay(call: Call) -> web.Response:
    asked = call.query_as(Replay)
    moment = moment_of(asked.at, asked.offset, asked.version)
    stream, team = await stream_of(call)
    found = await state_at(call, stream, await history_of(call, stream), moment)
    document = await asyncio.to_thread(state_document, found)
    return answer(StateView.model_validate({"team": team, **document}))


async def diff(call: Call) -> web.Response:
    asked = call.query_as(Diff)
    stream, team = await stream_of(call)
    partition = call.context.partition(stream)
    begin = _moment(asked.from_, partition)
    end = Moment() if asked.to is None else _moment(asked.to, partition)
    events = await history_of(call, stream)
    before = await state_at(call, stream, events, begin)
    after = await state_at(call, stream, events, end)
    document = await asyncio.to_thread(_difference, stream, events, before, after)
    return answer(DiffView.model_validate({"team": team, **document}))


def _difference(stream: str, events: list[StoredEvent], before: Replayed, after: Replayed) -> Document:
    difference = compare(before, after)
    changes = attribute(stream, events, difference.changes, before=before.version, after=after.version)
    return difference_document(difference, changes)


async def stream_of(call: Call) -> tuple[str, str | None]:
    """The stream that the path names, `component/ID` or `app/component`, and its team. Raises HttpProblem 404, also for
    what the token does not reach."""
    try:
        stream = resolve_stream(call.name("stream"), team=call.principal.team or "default")
    except NoSuchStream as error:
        raise not_found(str(error), hint="rayfold events shows the streams there are") from None
    owner = await call.context.owners.of_stream(stream)
    if not call.principal.reaches(owner.team):
        raise not_found(f"there is no stream {stream[:200]}", hint="rayfold components")
    return stream, owner.team


async def history_of(call: Call, stream: str) -> list[StoredEvent]:
    """Every event of a stream. Raises HttpProblem 404."""
    try:
        return await history(call.context.services.log, stream)
    except NoSuchStream as error:
        raise not_found(str(error), hint="rayfold events shows the streams there are") from None


async def state_at(call: Call, stream: str, events: list[StoredEvent], moment: Moment) -> Replayed:
    """The state at a moment. Raises HttpProblem 422."""
    try:
        return await folded_at(call.context.services.log, stream, events, **moment)
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
