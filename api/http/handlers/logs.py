"""Log lines of a component and the output of its builds: a page, or a live stream whose ids are line numbers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Protocol, cast

from aiohttp import web

from actors.logs.errors import BadQuery, BadStreamName, LogError, QueryTooCostly
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import LogLine
from api.http.answers import answer
from api.http.call import Call, at_time, read_time
from api.http.feed import SILENCE_SECONDS
from api.http.problems import invalid, malformed
from api.http.queries import Logs, Output
from api.http.schema_story import LogLineView, LogPage
from api.http.streams import EventStream, wants_stream

PAGE_LINES = 1_000


class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def get_logs(call: Call) -> web.StreamResponse:
    row = await call.context.reads.component(call)
    asked = call.query_as(Logs)
    since = 0 if asked.since is None else read_time("since", asked.since)
    sources = (asked.source,) if asked.source else ()
    flt = LineFilter(since=since, sources=sources, grep=asked.grep or "")
    await _check(flt)
    query = _query(row.service_id, asked.n, asked.from_, flt)
    if wants_stream(call):
        return await _stream(call, query)
    return await _page(call, query)


async def _check(flt: LineFilter) -> None:
    try:
        # Compiling a hostile pattern may take a while: not on the loop.
        await asyncio.to_thread(flt.predicate)
    except BadQuery as error:
        raise invalid(str(error), hint="quote special characters, or search for plain text") from None


def _query(stream: str, n: int, from_: int | None, flt: LineFilter) -> Query:
    if from_ is None:
        return Query(stream=stream, last=n, filter=flt)
    return Query(stream=stream, from_number=max(from_, 1), limit=max(n, 1), filter=flt)


async def get_build_output(call: Call) -> web.StreamResponse:
    row = await call.context.reads.build(call)
    asked = call.query_as(Output)
    query = _query(f"build/{row.build_id}", asked.n, asked.from_, LineFilter())
    if wants_stream(call):
        return await _stream(call, query)
    return await _page(call, query)


async def _page(call: Call, query: Query) -> web.Response:
    result = await _ask(call, query)
    items = [_view(line) for line in result.lines]
    return answer(LogPage(team=call.name("team"), items=items, next=result.next_number))


async def _ask(call: Call, query: Query) -> QueryResult:
    try:
        return await call.context.services.logs.query(query)
    except (BadQuery, BadStreamName) as error:
        raise invalid(str(error)) from None
    except QueryTooCostly as error:
        raise invalid(str(error), hint="search for plain text, or narrow it with since") from None


async def _stream(call: Call, query: Query) -> web.StreamResponse:
    """What a page would have, then what comes, joined by number; `end` when a finite stream has ended."""
    resumed = _resume(call)
    if resumed is not None:
        query = Query(stream=query.stream, from_number=resumed, limit=PAGE_LINES, filter=query.filter)
        result = QueryResult(lines=[], next_number=resumed, looked_from=resumed, complete=True)
    elif query.last is None:
        # From a number on: the tail gives all of it.
        result = QueryResult(lines=[], next_number=query.from_number, looked_from=1, complete=True)
    else:
        result = await _ask(call, query)
    async with EventStream(call) as stream:
        for line in result.lines:
            await _send(stream, line)
        try:
            await _follow(call, stream, query, result.next_number)
        except LogError as error:
            # The answer has begun: the client comes again with the last number and learns more then.
            raise ConnectionResetError(f"the log broke: {error}") from error
        await stream.end()
    return stream.response


def _resume(call: Call) -> int | None:
    last = call.request.headers.get("Last-Event-ID")
    if last is None:
        return None
    if not (last.isascii() and last.isdecimal() and len(last) < 19):
        raise malformed(f"expected Last-Event-ID to be a line number, found {last[:60]!r}")
    return int(last) + 1


async def _send(stream: EventStream, line: LogLine) -> None:
    # A gap's id is the last number that is missing.
    await stream.send(_view(line).model_dump_json(), id=str(line.next_number - 1))


async def _follow(call: Call, stream: EventStream, query: Query, from_number: int) -> None:
    pieces = call.context.services.logs.tail(query.stream, from_number, query.filter)
    async with aclosing(cast("_Closable", pieces)):
        waiting: asyncio.Task[list[LogLine] | None] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(_next(pieces))
                done, _ = await asyncio.wait({waiting}, timeout=SILENCE_SECONDS)
                if not done:
                    await stream.heartbeat()
                    continue
                lines, waiting = waiting.result(), None
                if lines is None:
                    return
                for line in lines:
                    await _send(stream, line)
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


async def _next(pieces: AsyncIterator[list[LogLine]]) -> list[LogLine] | None:
    return await anext(pieces, None)


def _view(line: LogLine) -> LogLineView:
    return LogLineView(
        number=line.number,
        at=at_time(line.at),
        source=line.source,
        stream=line.stream,
        instance=line.instance,
        release=line.release,
        text=line.display(),
        partial=line.partial,
        gap=line.gap,
    )


HANDLERS = {"getLogs": get_logs, "getBuildOutput": get_build_output}
