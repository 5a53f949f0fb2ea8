"""Answers queries and feeds tails from the store, a bounded piece at a time. Knows nothing of sockets."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import LogLine, check_stream_name
from actors.logs.search import Piece, Searcher
from actors.logs.segment import Closed
from actors.logs.store import LogStore

QUERY_SECONDS = 20.0
"""After this a query answers with what it has, marked incomplete."""
IDLE_SECONDS = 10.0
"""A tail with nothing to say says so this often, which shows both ends that the other lives."""
_TAIL_LINES = 1_000


class TailPiece(msgspec.Struct, frozen=True, kw_only=True):
    """What a tail gives: lines (none: a sign of life), where to go on, and the end of a finite stream."""

    lines: list[LogLine]
    next_number: int
    closed: Closed | None = None


async def answer(store: LogStore, searcher: Searcher, query: Query) -> QueryResult:
    """Answer `query`. Raises BadStreamName, BadQuery, QueryTooCostly, StorageFailed."""
    query.check()
    deadline = time.monotonic() + QUERY_SECONDS
    if query.last is not None:
        return await _newest(store, searcher, query, query.last, deadline)
    lines: list[LogLine] = []
    cursor = max(query.from_number, 1)
    done = False
    while not done and len(lines) < query.limit and time.monotonic() < deadline:
        view = await store.view(query.stream)
        piece = Piece(
            direction="forward", view=view, cursor=cursor, limit=query.limit - len(lines), filter=query.filter
        )
        more, cursor, done = await searcher.run(piece)
        lines += more
    closed = (await store.view(query.stream)).closed
    return QueryResult(
        lines=lines, next_number=cursor, looked_from=query.from_number, complete=done, closed=closed if done else None
    )


async def _newest(store: LogStore, searcher: Searcher, query: Query, count: int, deadline: float) -> QueryResult:
    view = await store.view(query.stream)
    before, end = view.next_number, view.next_number
    lines: list[LogLine] = []
    done = count == 0
    while not done and len(lines) < count and time.monotonic() < deadline:
        piece = Piece(direction="backward", view=view, cursor=before, limit=count - len(lines), filter=query.filter)
        more, before, done = await searcher.run(piece)
        lines = more + lines
    complete = done or len(lines) >= count
    return QueryResult(lines=lines, next_number=end, looked_from=before, complete=complete, closed=view.closed)


async def follow(
    store: LogStore, searcher: Searcher, stream: str, from_number: int | None, flt: LineFilter
) -> AsyncIterator[TailPiece]:
    """Lines from `from_number` on (None: only what comes from now on), for ever, or until a finite stream has ended.

    Everything is read from disk by number, so a slow reader costs no memory. Raises as `answer`.
    """
    check_stream_name(stream)
    view = await store.view(stream)
    cursor = view.next_number if from_number is None else max(from_number, 1)
    told = cursor
    while True:
        view = await store.view(stream)
        if cursor < view.next_number:
            piece = Piece(direction="forward", view=view, cursor=cursor, limit=_TAIL_LINES, filter=flt)
            lines, cursor, _ = await searcher.run(piece)
            if lines:
                yield TailPiece(lines=lines, next_number=cursor)
                told = cursor
            continue
        if view.closed:
            yield TailPiece(lines=[], next_number=cursor, closed=view.closed)
            return
        if not await store.wait_beyond(stream, cursor, IDLE_SECONDS) or told < cursor:
            yield TailPiece(lines=[], next_number=cursor)
            told = cursor
        await asyncio.sleep(0)
