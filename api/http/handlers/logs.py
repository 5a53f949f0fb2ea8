"""Log lines of a component and the output of its builds: a page, counts, or a live stream with line numbers as ids."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Protocol, TypeVar, cast

from aiohttp import web

from actors.logs.errors import BadQuery, BadStreamName, LogError, QueryTooCostly, TooManyQueries
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import LogLine, operation_stream
from actors.logs.measure import LATENCY_SECONDS, LEVELS
from actors.logs.query import StreamStats
from api.http.answers import answer
from api.http.call import Call, at_time, read_time
from api.http.feed import SILENCE_SECONDS
from api.http.problems import HttpProblem, invalid, malformed
from api.http.queries import Logs, LogTimes, Output
from api.http.schema_story import LogLineView, LogPage, LogStatsView
from api.http.sockets import LineSocket, wants_socket
from api.http.streams import EventStream, wants_stream

PAGE_LINES = 1_000
THERE_SECONDS = 0.5  # how often it is looked whether a client still waits
BUSY_SECONDS = 2  # Retry-After of a team with too many queries

_T = TypeVar("_T")
_Over = Callable[[], Awaitable[bool]]


class _Closable(Protocol):
    async def aclose(self) -> None: ...


class _Sink(Protocol):
    """Where a live stream goes: server-sent events, or a WebSocket."""

    async def send(self, data: str, *, id: str = "", event: str = "") -> None: ...
    async def heartbeat(self, id: str = "") -> None: ...
    async def end(self, data: str = "{}") -> None: ...


async def get_logs(call: Call) -> web.StreamResponse:
    row = await call.context.reads.component(call)
    asked = call.query_as(Logs)
    flt = _filter(asked, row.service_id)
    await _check(flt)
    query = Query(
        stream=row.service_id,
        last=asked.n if asked.from_ is None else None,
        from_number=max(asked.from_ or 1, 1),
        around=asked.around,
        limit=max(asked.n, 1),
        filter=flt,
        team=call.name("team"),
    )
    return await _answer(call, query, asked.window)


def _filter(asked: Logs, service_id: str) -> LineFilter:
    instance = asked.instance or ""
    return LineFilter(
        since=0 if asked.since is None else read_time("since", asked.since),
        until=0 if asked.until is None else read_time("until", asked.until),
        sources=(asked.source,) if asked.source else (),
        # People name an instance by what is shown of it: the part behind the last dash.
        instance=instance if not instance or "-" in instance else f"{service_id}-{instance}",
        level=asked.level or "",
        words=tuple((asked.word or "").split()),
        fields=_fields(asked.field or ""),
        grep=asked.grep or "",
        ignore_case=asked.ignore_case,
    )


def _fields(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if any(not path or not sign for path, sign, _ in pairs):
        raise invalid(f"expected fields like user.id=7, found {text[:80]!r}", hint="several with commas between")
    return tuple((path.strip(), value) for path, _, value in pairs)


async def _check(flt: LineFilter) -> None:
    try:
        # Compiling a hostile pattern may take a while: not on the loop.
        await asyncio.to_thread(flt.matcher)
    except BadQuery as error:
        raise invalid(str(error), hint="quote special characters, or search for plain text") from None


async def get_build_output(call: Call) -> web.StreamResponse:
    row = await call.context.reads.build(call)
    asked = call.query_as(Output)
    stream, team = f"build/{row.build_id}", call.name("team")
    query = Query(stream=stream, from_number=max(asked.from_, 1), limit=max(asked.n, 1), team=team)
    return await _answer(call, query, 0)


async def get_operation_output(call: Call) -> web.StreamResponse:
    reads, asked = call.context.reads, call.query_as(Output)
    row = await reads.operation(call.principal, call.name("operation"))

    async def over() -> bool:
        return (await reads.operation(call.principal, row.id)).status != "running"

    # Of an operation that is no component's nothing is said.
    stream = operation_stream(row.service_id or "none", row.id)
    query = Query(stream=stream, from_number=max(asked.from_, 1), limit=max(asked.n, 1), team=row.team)
    return await _answer(call, query, 0, over)


async def _answer(call: Call, query: Query, window: int, over: _Over | None = None) -> web.StreamResponse:
    """`over`: whether a finite stream may be taken for ended though nobody ended it, because its writer died."""
    if wants_socket(call) or wants_stream(call):
        query, result = await _begin(call, query)
        if wants_socket(call):
            async with LineSocket(call, window) as socket:
                await _stream(call, socket, query, result, over)
            return socket.response
        async with EventStream(call) as events:
            await _stream(call, events, query, result, over)
        return events.response
    result = await _ask(call, query)
    return answer(
        LogPage(
            team=query.team,
            items=[_view(line) for line in result.lines],
            next=result.next_number,
            complete=result.complete,
            looked_from=result.looked_from,
        )
    )


async def get_log_stats(call: Call) -> web.StreamResponse:
    row = await call.context.reads.component(call)
    asked = call.query_as(LogTimes)
    since = 0 if asked.since is None else read_time("since", asked.since)
    until = 0 if asked.until is None else read_time("until", asked.until)
    team = call.name("team")
    work = call.context.services.logs.stats(row.service_id, since=since, until=until, team=team)
    return answer(_stats_view(team, await _while_there(call, work)))


async def _ask(call: Call, query: Query) -> QueryResult:
    return await _while_there(call, call.context.services.logs.query(query))


async def _while_there(call: Call, work: Coroutine[None, None, _T]) -> _T:
    """What `work` comes to; given up as soon as nobody waits for it. Raises HttpProblem."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=THERE_SECONDS))[0]:
            transport = call.request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client has gone")
        return await task
    except (BadQuery, BadStreamName) as error:
        raise invalid(str(error)) from None
    except QueryTooCostly as error:
        raise invalid(str(error), hint="search for plain text, or narrow it with since") from None
    except TooManyQueries as error:
        retry = {"Retry-After": str(BUSY_SECONDS)}
        raise HttpProblem(429, "too_many_queries", str(error), hint="ask less at once", headers=retry) from None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _begin(call: Call, query: Query) -> tuple[Query, QueryResult]:
    """What a page would have, before the answer begins, so that a refusal is a refusal; and what to follow then."""
    resumed = _resume(call)
    if resumed is not None:
        query = Query(stream=query.stream, from_number=resumed, limit=PAGE_LINES, filter=query.filter)
        return query, QueryResult(lines=[], next_number=resumed, looked_from=resumed, complete=True)
    if query.last is None and query.around is None:
        # From a number on: the tail gives all of it.
        return query, QueryResult(lines=[], next_number=query.from_number, looked_from=1, complete=True)
    return query, await _ask(call, query)


async def _stream(call: Call, sink: _Sink, query: Query, result: QueryResult, over: _Over | None) -> None:
    """What a page would have, then what comes, joined by number; `end` when a finite stream has ended."""
    for line in result.lines:
        await _send(sink, line)
    try:
        await _follow(call, sink, query, result.next_number, over)
    except LogError as error:
        # The answer has begun: the client comes again with the last number and learns more then.
        raise ConnectionResetError(f"the log broke: {error}") from error
    await sink.end()


def _resume(call: Call) -> int | None:
    last = call.request.headers.get("Last-Event-ID")
    if last is None:
        return None
    if not (last.isascii() and last.isdecimal() and len(last) < 19):
        raise malformed(f"expected Last-Event-ID to be a line number, found {last[:60]!r}")
    return int(last) + 1


async def _send(sink: _Sink, line: LogLine) -> None:
    # A gap's id is the last number that is missing.
    await sink.send(_view(line).model_dump_json(), id=str(line.next_number - 1))


async def _follow(call: Call, sink: _Sink, query: Query, from_number: int, over: _Over | None) -> None:
    pieces = call.context.services.logs.tail(query.stream, from_number, query.filter)
    async with aclosing(cast("_Closable", pieces)):
        waiting: asyncio.Task[list[LogLine] | None] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(_next(pieces))
                done, _ = await asyncio.wait({waiting}, timeout=SILENCE_SECONDS)
                if not done:
                    if over is not None and await over():
                        return
                    await sink.heartbeat()
                    continue
                lines, waiting = waiting.result(), None
                if lines is None:
                    return
                for line in lines:
                    await _send(sink, line)
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


def _stats_view(team: str, found: StreamStats) -> LogStatsView:
    counts = found.counts
    requests = sum(counts.latencies)
    bounds = [f"{bound * 1000:g}" for bound in LATENCY_SECONDS] + ["inf"]
    return LogStatsView(
        team=team,
        first=found.first,
        next=found.next_number,
        complete=found.complete,
        lines=counts.lines,
        bytes=counts.bytes,
        lost=counts.lost,
        sources=counts.sources,
        levels={level: count for level, count in zip(LEVELS, counts.levels, strict=True) if level},
        statuses={f"{place}xx": count for place, count in enumerate(counts.statuses, 1)},
        requests=requests,
        latency_ms=round(counts.latency_ms / requests, 3) if requests else 0.0,
        latency_le_ms={bound: sum(counts.latencies[: place + 1]) for place, bound in enumerate(bounds)},
    )


HANDLERS = {
    "getLogs": get_logs,
    "getLogStats": get_log_stats,
    "getBuildOutput": get_build_output,
    "getOperationOutput": get_operation_output,
}
