"""The log client: appends that are stored once, queries, and tails that resume by number. Knows the protocol only.

Of a pool it needs one member that answers: that one says who writes a stream, and appends go there from then on. One
connection to a member carries the appends (any number in flight); each query and each tail has its own, so a slow
reader or a large answer holds up nothing else.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from actors.logs.errors import ProtocolBroken, StorageFailed, StreamMoved, Unreachable
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import Batch, LineRecord, LogLine
from actors.logs.link import Link, connect, receive, send
from actors.logs.protocol import Append, Ask, AskStats, AskTotals, Close, Done, More, Request, Tail, Where, raised
from actors.logs.query import IDLE_SECONDS, StreamStats
from actors.logs.totals import StoreTotals
from actors.logs.view import Appended
from events.clock import now_micros

QUERY_WAIT_SECONDS = 60.0
"""A query's turn may be a while in coming, and then it may take a while."""
_log = logging.getLogger(__name__)

_BACKOFF_FIRST = 0.05
_BACKOFF_MOST = 2.0
_HOPS = 4
"""Members that one request is sent on to without a pause between."""
_SUSPECT_SECONDS = 10.0
"""A member that did not answer is asked after all others for so long."""
_STREAMS = 10_000
"""Streams whose writer is remembered."""

Address = str | Path
"""`host:port`, or a file that holds it, or a directory of such files named `*.addr`, read at each connect."""

_Make = Callable[[int], Request]


class LogClient:
    """Speaks to one log server. Safe to share between tasks; `aclose` ends it."""

    def __init__(self, address: Address, token: str, *, node: str = "") -> None:
        self._address = address
        self._token = token
        self._node = node
        self._links: dict[str, Link] = {}
        self._writers: OrderedDict[str, str] = OrderedDict()
        self._suspects: dict[str, float] = {}

    async def aclose(self) -> None:
        """Cut the connections; requests under way raise Unreachable."""
        for link in self._links.values():
            await link.aclose()

    async def append(
        self,
        stream: str,
        source_id: str,
        lines: Sequence[LineRecord],
        *,
        after: int,
        upto: int,
        finished: bool = False,
        seconds: float | None = None,
    ) -> Appended:
        """Store `lines`, which lie between `after` and `upto` in their source; returns once they are durable.

        Sent again until answered, for `seconds` (None: for ever), and stored once. Raises WrongPosition (go on from its
        `stored`), BadBatch, StreamClosed, BadStreamName, AccessRefused, and Unreachable when the time is over.
        """
        batch = Batch.of(source_id, lines, after=after, upto=upto, finished=finished)
        return await self.append_batch(stream, batch, seconds=seconds)

    async def append_batch(self, stream: str, batch: Batch, *, seconds: float | None = None) -> Appended:
        """As `append`, for lines that are encoded already."""
        done = await self._request(stream, lambda number: Append(id=number, stream=stream, batch=batch), seconds)
        if done.appended is None:
            raise ProtocolBroken("expected where the batch landed, found nothing")
        return done.appended

    async def close_stream(self, stream: str, outcome: str, *, seconds: float | None = None) -> None:
        """End a finite stream (`build/<id>`); its tails end. May be repeated, the first outcome stands."""
        at = now_micros()
        await self._request(stream, lambda number: Close(id=number, stream=stream, outcome=outcome, at=at), seconds)

    async def position(self, stream: str, source_id: str, *, seconds: float | None = None) -> int | None:
        """How far `source_id` is stored in `stream`; None when nothing is known of it."""
        done = await self._request(stream, lambda number: Where(id=number, stream=stream, source_id=source_id), seconds)
        return done.position

    async def query(self, query: Query) -> QueryResult:
        """Answer `query`. Raises BadQuery, QueryTooCostly, TooManyQueries, BadStreamName, Unreachable, AccessRefused.

        Cancelled, it is given up by the server too.
        """
        query.check()
        done = await self._asked(Ask(id=1, query=query))
        if done.result is None:
            raise ProtocolBroken("expected lines, found nothing")
        return done.result

    async def stats(self, stream: str, *, since: int = 0, until: int = 0, team: str = "") -> StreamStats:
        """Counts of the stream's lines between two times, unix microseconds. Raises as `query`."""
        done = await self._asked(AskStats(id=1, stream=stream, since=since, until=until, team=team))
        if done.stats is None:
            raise ProtocolBroken("expected counts, found nothing")
        return done.stats

    async def totals(self) -> StoreTotals:
        """What the servers' stores counted since they started. Raises Unreachable, AccessRefused."""
        return (await self._asked(AskTotals(id=1))).totals or StoreTotals()

    async def _asked(self, request: Request) -> Done:
        async with self._dial() as (reader, writer):
            try:
                async with asyncio.timeout(QUERY_WAIT_SECONDS):
                    await send(writer, request)
                    reply = await receive(reader)
            except (TimeoutError, ConnectionError) as error:
                raise Unreachable(f"the log server at {self._address} did not answer: {error}") from error
        if not isinstance(reply, Done):
            raise raised(reply)
        return reply

    async def tail(
        self, stream: str, from_number: int | None = None, flt: LineFilter | None = None, *, reconnect: bool = True
    ) -> AsyncIterator[list[LogLine]]:
        """Lines from `from_number` on (None: from now on) as they are stored; ends when a finite stream has ended.

        After a break it resumes by number: nothing is lost or repeated. Raises BadQuery, BadStreamName, AccessRefused,
        and Unreachable where `reconnect` is false.
        """
        cursor, wait = from_number, _BACKOFF_FIRST
        while True:
            try:
                async with self._dial() as (reader, writer):
                    await send(writer, Tail(id=1, stream=stream, from_number=cursor, filter=flt or LineFilter()))
                    while True:
                        async with asyncio.timeout(IDLE_SECONDS * 3):
                            reply = await receive(reader)
                        if not isinstance(reply, More):
                            raise raised(reply)
                        cursor, wait = reply.piece.next_number, _BACKOFF_FIRST
                        if reply.piece.lines:
                            yield reply.piece.lines
                        if reply.piece.closed:
                            return
            except (Unreachable, StorageFailed, StreamMoved, ConnectionError, TimeoutError) as error:
                if not reconnect:
                    raise Unreachable(f"the tail of {stream} broke: {error}") from error
                wait = await _back_off(wait)

    async def _request(self, stream: str, make: _Make, seconds: float | None) -> Done:
        wait, hops = _BACKOFF_FIRST, _HOPS
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._once(stream, make)
                    except StreamMoved as error:
                        hops -= 1
                        if self._point_to(stream, error.address) and hops:
                            continue
                    except (Unreachable, StorageFailed, ConnectionError) as error:
                        self._writers.pop(stream, None)
                        _log.debug("log client: %s; trying again", error)
                    wait, hops = await _back_off(wait), _HOPS
        except TimeoutError as error:
            raise Unreachable(f"the log server at {self._address} did not take the request in {seconds} s") from error

    async def _once(self, stream: str, make: _Make) -> Done:
        address = self._writers.get(stream) or (await self._candidates())[0]
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(address, self._token, self._node)
        try:
            done = await link.request(make)
            # Known from now on, so that what is sent side by side is on its way in the order it was given.
            self._point_to(stream, address)
            return done
        except (Unreachable, ConnectionError):
            self._suspects[address] = asyncio.get_running_loop().time()
            raise

    def _point_to(self, stream: str, address: str) -> bool:
        """Remember who writes `stream`; False when nobody knows."""
        self._writers.pop(stream, None)
        if not address:
            return False
        self._writers[stream] = address
        while len(self._writers) > _STREAMS:
            self._writers.popitem(last=False)
        return True

    async def _candidates(self) -> list[str]:
        """Addresses to try, best first. Raises Unreachable when there is none."""
        found = await asyncio.to_thread(_addresses, self._address)
        for gone in self._links.keys() - set(found):
            if gone not in self._writers.values():
                await self._links.pop(gone).aclose()
        since = asyncio.get_running_loop().time() - _SUSPECT_SECONDS
        # Those with a link come first: one member is as good as another, and a connection costs.
        return sorted(found, key=lambda each: (self._suspects.get(each, since) > since, each not in self._links))

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        candidates = await self._candidates()
        for left, address in zip(reversed(range(len(candidates))), candidates, strict=True):
            try:
                reader, writer = await connect(address, self._token, self._node)
                break
            except Unreachable:
                self._suspects[address] = asyncio.get_running_loop().time()
                if not left:
                    raise
        try:
            yield reader, writer
        finally:
            writer.close()


def _addresses(address: Address) -> list[str]:
    if isinstance(address, str):
        return [address]
    try:
        files = sorted(address.glob("*.addr")) if address.is_dir() else [address]
        found = [file.read_text("ascii").strip() for file in files]
    except OSError as error:
        raise Unreachable(f"expected a log server's address at {address}, found none: {error}") from error
    if not found:
        raise Unreachable(f"expected a log server's address in {address}, found none")
    return found


async def _back_off(wait: float) -> float:
    """Wait, and return how long to wait the next time (doubling, with jitter, so that clients do not come in step)."""
    await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, not a secret)
    return min(wait * 2, _BACKOFF_MOST)
