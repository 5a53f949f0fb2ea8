"""The debugger over HTTP: steps, the story of a field, an app between two times, what-if, checks, histories as files.

Thin: `events.replay` finds, `documents` words it; here is only what a token reaches and how an answer is bounded.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import msgspec
from aiohttp import web

from api.http.answers import answer
from api.http.call import Call, read_time
from api.http.eventview import event_view
from api.http.handlers.past import history_of, moment_of, state_at, stream_of
from api.http.lines import send_lines
from api.http.problems import HttpProblem, invalid, not_found, unavailable
from api.http.queries import DiffApp, Export, ExportStream, ReplayAll, Steps, Why
from api.http.schema import Page
from api.http.schema_debugger import AppDiffView, PlatformThenView, StepView, VerdictView, WhatIf, WhatIfView, WhyView
from events.clock import now_micros
from events.replay import documents
from events.replay.appdiff import app_diff, app_streams, related_streams
from events.replay.causes import Causes
from events.replay.determinism import check as check_file
from events.replay.errors import BadCommand, CheckFailed, NoSuchField, NoSuchStream
from events.replay.export import export as export_blocks
from events.replay.steps import Step, steps
from events.replay.whatif import what_if as would_be
from events.replay.whole import Then, of_team, summary, whole
from events.replay.why import why as story_of

TURN_SECONDS = 20.0  # to wait for whoever checks or folds everything now: two would take a small machine for themselves
_BLOCK_STATES = 64


async def replay_all(call: Call) -> web.StreamResponse:
    """The whole platform; for a team's token what is the team's."""
    asked = call.query_as(ReplayAll)
    at = None if asked.at is None else read_time("at", asked.at)
    async with _alone(call):
        then = list((await whole(call.context.services.log, at=at)).values())
    if call.principal.team is not None:
        then = of_team(then, call.principal.team)
    if not asked.states:
        told = await asyncio.to_thread(lambda: documents.summary_document(summary(then), at=at))
        return answer(PlatformThenView.model_validate(told))

    async def lines() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(then), _BLOCK_STATES):
            block = then[start : start + _BLOCK_STATES]
            yield await asyncio.to_thread(_as_lines, block)

    return await send_lines(call.request, lines())


def _as_lines(then: Sequence[Then]) -> bytes:
    return b"".join(msgspec.json.encode(documents.then_document(one)) + b"\n" for one in then)


async def replay_steps(call: Call) -> web.Response:
    asked = call.query_as(Steps)
    stream, _ = await stream_of(call)
    events = await history_of(call, stream)
    first = _version(asked.cursor) if asked.cursor is not None else 1
    if first > len(events):
        raise invalid(
            f"expected a cursor from 1 to {len(events)}, found {first}", hint="begin anew, without the cursor"
        )
    last = min(len(events), first + asked.limit - 1)
    walked = await asyncio.to_thread(lambda: list(islice(steps(stream, events, first=first, last=last), asked.limit)))
    causes = Causes(call.context.services.log, allowed=lambda name: reaches(call, name))
    causes.keep(stream, events)
    items = [await _step(call, step, causes, states=asked.states) for step in walked]
    return answer(Page[StepView](items=items, next_cursor=str(last + 1) if last < len(events) else None))


def _version(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and 0 < len(cursor) < 10 and int(cursor) > 0):
        raise invalid(f"expected a cursor as the page before gave it, a version, found {cursor[:60]!r}")
    return int(cursor)


async def _step(call: Call, step: Step, causes: Causes, *, states: bool) -> StepView:
    chain = await causes.chain(step.event)
    told = await asyncio.to_thread(documents.step_document, step, chain, states=states)
    owner = await call.context.owners.of(step.event)
    return StepView.model_validate({**told, "event": event_view(step.event, owner)})


async def reaches(call: Call, stream: str) -> bool:
    """Whether the token may look into a stream."""
    return call.principal.reaches((await call.context.owners.of_stream(stream)).team)


async def diff_app(call: Call) -> web.Response:
    asked = call.query_as(DiffApp)
    team = _team(call, asked.team)
    begin = read_time("from", asked.from_)
    end = read_time("to", asked.to if asked.to is not None else "now")
    try:
        found = await app_diff(
            call.context.services.log, team, asked.app, begin=begin, end=end, allowed=lambda name: reaches(call, name)
        )
    except NoSuchStream as error:
        raise not_found(str(error), hint="rayfold apps") from None
    told = await asyncio.to_thread(documents.app_difference_document, found)
    return answer(AppDiffView.model_validate(told))


def _team(call: Call, given: str | None) -> str:
    team = given or call.principal.team or "default"
    if not call.principal.reaches(team):
        raise not_found(f"there is no team {team}", hint="rayfold teams")
    return team


async def why(call: Call) -> web.Response:
    asked = call.query_as(Why)
    stream, team = await stream_of(call)
    events = await history_of(call, stream)
    try:
        story = await asyncio.to_thread(story_of, stream, events, call.name("field"))
    except NoSuchField as error:
        raise invalid(str(error), hint="a path as rayfold diff shows it, or the beginning of one") from None
    told = await asyncio.to_thread(documents.why_document, story, limit=asked.limit)
    return answer(WhyView.model_validate({"team": team, **told}))


async def what_if(call: Call) -> web.Response:
    asked = call.body_as(WhatIf)
    stream, team = await stream_of(call)
    moment = moment_of(asked.at, asked.offset, asked.version)
    events = await history_of(call, stream)
    found = await state_at(call, stream, events, moment)
    at = moment.get("at") if moment else now_micros()
    raw = msgspec.json.encode(asked.commands)
    try:
        tried = await would_be(
            call.context.services.log, found, events, raw, at=at, actor=call.principal.name, complete=True
        )
    except BadCommand as error:
        raise invalid(str(error)) from None
    told = await asyncio.to_thread(documents.tried_document, stream, found.version, tried)
    return answer(WhatIfView.model_validate({"team": team, **told}))


async def check(call: Call) -> web.Response:
    """In two processes, on a file that is gone afterwards."""
    stream, team = await stream_of(call)
    await history_of(call, stream)
    async with _alone(call):
        with tempfile.TemporaryDirectory(prefix="rayfold-check-") as directory:
            file = Path(directory) / "history.jsonl"
            async for block in _exported(call, [stream]):
                await asyncio.to_thread(_append, file, block)
            try:
                verdicts = [verdict async for verdict in check_file(file)]
            except CheckFailed as error:
                raise unavailable(str(error)) from None
    told = documents.verdict_document(verdicts[0])
    return answer(VerdictView.model_validate({"team": team, **told}))


@asynccontextmanager
async def _alone(call: Call) -> AsyncIterator[None]:
    """One at a time of what reads and folds much. Raises HttpProblem 429 when the turn does not come."""
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await call.context.folding.acquire()
    except TimeoutError:
        busy = "somebody else folds a lot now"
        raise HttpProblem(429, "overloaded", busy, hint="try again", headers={"Retry-After": "5"}) from None
    try:
        yield
    finally:
        call.context.folding.release()


def _append(file: Path, block: bytes) -> None:
    with file.open("ab") as opened:
        opened.write(block)


async def export_stream(call: Call) -> web.StreamResponse:
    stream, _ = await stream_of(call)
    await history_of(call, stream)
    streams = [stream]
    if call.query_as(ExportStream).related:
        related = await related_streams(call.context.services.log, stream)
        streams += [name for name in related if name != stream and await reaches(call, name)]
    return await send_lines(call.request, _exported(call, streams))


async def export(call: Call) -> web.StreamResponse:
    """An app's streams as far as the token reaches; without an app everything, for the administrator."""
    asked = call.query_as(Export)
    if asked.app is None:
        if call.principal.team is not None or asked.team is not None:
            raise invalid("expected app=NAME, found none; everything is for the administrator", hint="?app=NAME")
        return await send_lines(call.request, _exported(call, None))
    try:
        found = await app_streams(call.context.services.log, _team(call, asked.team), asked.app)
    except NoSuchStream as error:
        raise not_found(str(error), hint="rayfold apps") from None
    return await send_lines(call.request, _exported(call, [name for name in found if await reaches(call, name)]))


def _exported(call: Call, streams: list[str] | None) -> AsyncGenerator[bytes, None]:
    services = call.context.services
    return export_blocks(services.log, streams, rayfold=services.version, now=now_micros())


HANDLERS = {
    "replayAll": replay_all,
    "replaySteps": replay_steps,
    "diffApp": diff_app,
    "why": why,
    "whatIf": what_if,
    "check": check,
    "exportStream": export_stream,
    "export": export,
}
