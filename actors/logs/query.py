"""Answers queries and feeds tails from the store, a bounded piece at a time. Knows nothing of sockets."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import LogLine, check_stream_name
from actors.logs.measure import Counts
from actors.logs.search import Piece, Searcher, Tally
from actors.logs.segment import Closed
from actors.logs.store import LogStore
from actors.logs.view import StreamView

QUERY_SECONDS = 20.0
"""After this a query answers with what it has, marked incomplete."""
IDLE_SECONDS = 10.0
"""A tail with nothing to say says so this often, which shows both ends that the other lives."""
_TAIL_LINES = 1_000
_RANGE_BYTES = 4 * 1024 * 1024
"""Stored bytes of one range of numbers that a worker is given; a segment is about that large."""
_RANGE_BYTES_WORDS = 128 * 1024 * 1024
"""The same where the index passes over almost everything."""


class TailPiece(msgspec.Struct, frozen=True, kw_only=True):
    """What a tail gives: lines (none: a sign of life), where to go on, and the end of a finite stream."""

    lines: list[LogLine]
    next_number: int
    closed: Closed | None = None


class StreamStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a stream's lines, of the numbers `first` … `next_number - 1` that are kept and fall between the times.

    `complete` false: the time limit came first, and only those below `next_number` are counted.
    """

    counts: Counts
    first: int
    next_number: int
    complete: bool


async def answer(store: LogStore, searcher: Searcher, query: Query) -> QueryResult:
    """Answer `query`. Raises BadStreamName, BadQuery, QueryTooCostly, StorageFailed."""
    query.check()
    await asyncio.to_thread(query.filter.matcher)  # a bad pattern is said even where there is nothing to search
    ask = _Asking(store, searcher, query, time.monotonic() + QUERY_SECONDS)
    if query.around is not None:
        return await ask.around(query.around)
    if query.last is not None:
        return await ask.newest(query.last)
    return await ask.oldest()


async def stats(store: LogStore, searcher: Searcher, stream: str, since: int, until: int) -> StreamStats:
    """Count the lines of a stream between two times (unix microseconds; `until` 0: now). Raises as `answer`."""
    view = await store.view(stream)
    deadline = time.monotonic() + QUERY_SECONDS
    counts, cursor = Counts(), view.first_number
    while cursor < view.next_number and time.monotonic() < deadline:
        work = Tally(view=view, cursor=cursor, stop=view.next_number, since=since, until=until)
        more, cursor, wanted = await searcher.tally(work)
        counts.add(more)
        if wanted:
            await store.fetch(stream, wanted)
    return StreamStats(counts=counts, first=view.first_number, next_number=cursor, complete=cursor >= view.next_number)


class _Part(NamedTuple):
    """What came of a range: its lines in order, where it stopped, and whether that is its end."""

    lines: list[LogLine]
    cursor: int
    done: bool


class _Asking:
    """One query under way. Ranges of numbers are looked at side by side and their lines put together in order."""

    def __init__(self, store: LogStore, searcher: Searcher, query: Query, deadline: float) -> None:
        self._store = store
        self._searcher = searcher
        self._query = query
        self._deadline = deadline

    async def oldest(self) -> QueryResult:
        """The oldest `limit` lines from `from_number` on."""
        query = self._query
        view = await self._store.view(query.stream)
        start = max(query.from_number, 1)
        lines, cursor, done = await self._forward(view, start, query.limit)
        closed = (await self._store.view(query.stream)).closed if done else None
        return QueryResult(lines=lines, next_number=cursor, looked_from=query.from_number, complete=done, closed=closed)

    async def newest(self, count: int) -> QueryResult:
        """The newest `count` lines."""
        view = await self._store.view(self._query.stream)
        end = view.next_number
        lines, before, done = await self._backward(view, end, count) if count else _Part([], end, True)
        complete = done or len(lines) >= count
        return QueryResult(lines=lines, next_number=end, looked_from=before, complete=complete, closed=view.closed)

    async def around(self, number: int) -> QueryResult:
        """The line `number` with `limit` lines before and after it."""
        limit = self._query.limit
        view = await self._store.view(self._query.stream)
        older, before, _ = await self._backward(view, min(number, view.next_number - 1) + 1, limit + 1)
        newer, cursor, done = await self._forward(view, max(number + 1, 1), limit)
        complete = done or len(newer) >= limit
        return QueryResult(lines=older + newer, next_number=cursor, looked_from=before, complete=complete)

    async def _forward(self, view: StreamView, start: int, limit: int) -> _Part:
        async def look(begin: int, end: int) -> _Part:
            return await self._range("forward", view, begin, end, limit)

        lines: list[LogLine] = []
        cursor = start
        ranges = [(max(begin, start), end) for begin, end in self._ranges(view) if end > start]
        async with aclosing(self._ahead(ranges, look)) as parts:
            async for part in parts:
                fitting = part.lines[: limit - len(lines)]
                lines += fitting
                whole = len(fitting) == len(part.lines)
                cursor = part.cursor if whole else fitting[-1].next_number if fitting else cursor
                if len(lines) >= limit or not whole or not part.done:
                    return _Part(lines, cursor, part.done and whole and cursor >= view.next_number)
        return _Part(lines, max(cursor, start), True)

    async def _backward(self, view: StreamView, before: int, limit: int) -> _Part:
        async def look(begin: int, end: int) -> _Part:
            return await self._range("backward", view, begin, end, limit)

        lines: list[LogLine] = []
        cursor = before
        ranges = [(begin, min(end, before)) for begin, end in self._ranges(view) if begin < before]
        async with aclosing(self._ahead(ranges[::-1], look)) as parts:
            async for part in parts:
                fitting = part.lines[max(len(part.lines) - (limit - len(lines)), 0) :]
                whole = len(fitting) == len(part.lines)
                lines = fitting + lines
                cursor = part.cursor if whole else fitting[0].number if fitting else cursor
                if len(lines) >= limit or not part.done:
                    return _Part(lines, cursor, part.done and whole and cursor <= 1)
        return _Part(lines, cursor, True)

    def _ranges(self, view: StreamView) -> list[tuple[int, int]]:
        """All numbers of the stream, cut where segments begin; the first takes in what retention has dropped."""
        flt = self._query.filter
        if flt.passes_all():
            return [(1, view.next_number)]
        size = _RANGE_BYTES_WORDS if flt.words or flt.fields else _RANGE_BYTES
        cuts, filled = [1], 0
        for extent in view.extents:
            if filled >= size and extent.first > cuts[-1]:
                cuts.append(extent.first)
                filled = 0
            filled += extent.size
        return list(zip(cuts, [*cuts[1:], view.next_number], strict=True))

    async def _ahead(
        self, ranges: list[tuple[int, int]], look: Callable[[int, int], Coroutine[None, None, _Part]]
    ) -> AsyncGenerator[_Part, None]:
        """The answers in the order of `ranges`, some of them looked for before they are asked for."""
        left = deque(ranges)
        under_way: deque[asyncio.Task[_Part]] = deque()
        try:
            while left or under_way:
                while left and len(under_way) <= self._searcher.workers:
                    under_way.append(asyncio.ensure_future(look(*left.popleft())))
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _range(self, direction: str, view: StreamView, begin: int, end: int, limit: int) -> _Part:
        """Up to `limit` lines with numbers from `begin` on and below `end`, from the side where `direction` begins."""
        is_forward = direction == "forward"
        lines: list[LogLine] = []
        cursor = begin if is_forward else end
        done = False
        while not done and len(lines) < limit and time.monotonic() < self._deadline:
            piece = Piece(
                direction="forward" if is_forward else "backward",
                view=view,
                cursor=cursor,
                limit=limit - len(lines),
                filter=self._query.filter,
                stop=end if is_forward else begin,
            )
            more, cursor, done, wanted = await self._searcher.run(piece)
            lines = lines + more if is_forward else more + lines
            if wanted:
                await self._store.fetch(view.name, wanted)
        return _Part(lines, cursor, done)


async def follow(
    store: LogStore, searcher: Searcher, stream: str, from_number: int | None, flt: LineFilter
) -> AsyncIterator[TailPiece]:
    """Lines from `from_number` on (None: only what comes from now on), for ever, or until a finite stream has ended.

    What was just stored comes from memory, all else from disk by number: a slow reader costs none. Raises as `answer`.
    """
    check_stream_name(stream)
    view = await store.view(stream)
    cursor = view.next_number if from_number is None else max(from_number, 1)
    told = cursor
    with store.reading_along(stream) as fresh:
        while True:
            view = await store.view(stream)
            if cursor < view.next_number:
                found = fresh(cursor, _TAIL_LINES) if flt.passes_all() else None
                lines, cursor = found or await _from_disk(store, searcher, view, cursor, flt)
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


async def _from_disk(
    store: LogStore, searcher: Searcher, view: StreamView, cursor: int, flt: LineFilter
) -> tuple[list[LogLine], int]:
    piece = Piece(direction="forward", view=view, cursor=cursor, limit=_TAIL_LINES, filter=flt)
    lines, cursor, _, wanted = await searcher.run(piece)
    if wanted:
        await store.fetch(view.name, wanted)
    return lines, cursor
