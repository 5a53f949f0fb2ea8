"""The log client: appends that are stored once, queries, and tails that resume by number. Knows the protocol only.

One connection carries the appends (any number in flight); each query and each tail has its own, so a slow reader or a
large answer holds up nothing else.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from actors.logs import protocol
from actors.logs.background import Background
from actors.logs.errors import (
    BY_CODE,
    LogError,
    ProtocolBroken,
    StorageFailed,
    StreamMoved,
    Unreachable,
    WrongPosition,
)
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import Batch, LineRecord, LogLine
from actors.logs.protocol import Append, Ask, Close, Done, Hello, More, Refused, Reply, Request, Tail, Welcome, Where
from actors.logs.query import IDLE_SECONDS
from actors.logs.stream import Appended
from events.clock import now_micros

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
_BACKOFF_FIRST = 0.05
_BACKOFF_MOST = 2.0

Address = str | Path
"""`host:port`, or the server's port file, which is read at each connect."""

_Make = Callable[[int], Request]


class LogClient:
    """Speaks to one log server. Safe to share between tasks; `aclose` ends it."""

    def __init__(self, address: Address, token: str, *, node: str = "") -> None:
        self._address = address
        self._token = token
        self._node = node
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._next_id = 1
        self._tasks = Background("log client")

    async def aclose(self) -> None:
        """Cut the connection; requests under way raise Unreachable."""
        await self._tasks.aclose()
        self._drop("the client was closed")

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
        done = await self._request(lambda number: Append(id=number, stream=stream, batch=batch), seconds)
        if done.appended is None:
            raise ProtocolBroken("expected where the batch landed, found nothing")
        return done.appended

    async def close_stream(self, stream: str, outcome: str, *, seconds: float | None = None) -> None:
        """End a finite stream (`build/<id>`); its tails end. May be repeated, the first outcome stands."""
        at = now_micros()
        await self._request(lambda number: Close(id=number, stream=stream, outcome=outcome, at=at), seconds)

    async def position(self, stream: str, source_id: str, *, seconds: float | None = None) -> int | None:
        """How far `source_id` is stored in `stream`; None when nothing is known of it."""
        done = await self._request(lambda number: Where(id=number, stream=stream, source_id=source_id), seconds)
        return done.position

    async def query(self, query: Query) -> QueryResult:
        """Answer `query`. Raises BadQuery, QueryTooCostly, BadStreamName, Unreachable, AccessRefused."""
        query.check()
        async with self._dial() as (reader, writer):
            try:
                async with asyncio.timeout(ANSWER_SECONDS * 2):
                    await _send(writer, Ask(id=1, query=query))
                    reply = await _receive(reader)
            except (TimeoutError, ConnectionError) as error:
                raise Unreachable(f"the log server at {self._address} did not answer: {error}") from error
        if not isinstance(reply, Done) or reply.result is None:
            raise _raised(reply)
        return reply.result

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
                    await _send(writer, Tail(id=1, stream=stream, from_number=cursor, filter=flt or LineFilter()))
                    while True:
                        async with asyncio.timeout(IDLE_SECONDS * 3):
                            reply = await _receive(reader)
                        if not isinstance(reply, More):
                            raise _raised(reply)
                        cursor, wait = reply.piece.next_number, _BACKOFF_FIRST
                        if reply.piece.lines:
                            yield reply.piece.lines
                        if reply.piece.closed:
                            return
            except (Unreachable, StorageFailed, StreamMoved, ConnectionError, TimeoutError) as error:
                if not reconnect:
                    raise Unreachable(f"the tail of {stream} broke: {error}") from error
                wait = await _back_off(wait)

    async def _request(self, make: _Make, seconds: float | None) -> Done:
        wait = _BACKOFF_FIRST
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self._once(make)
                    except (Unreachable, StorageFailed, ConnectionError) as error:
                        _log.debug("log client: %s; trying again", error)
                    wait = await _back_off(wait)
        except TimeoutError as error:
            raise Unreachable(f"the log server at {self._address} did not take the request in {seconds} s") from error

    async def _once(self, make: _Make) -> Done:
        writer = await self._connected()
        number = self._next_id
        self._next_id += 1
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await _send(writer, make(number))
                return await future
        except TimeoutError as error:
            # A server that says nothing is as good as gone; the others on this connection will notice too.
            self._drop("no answer in time")
            raise Unreachable(f"the log server at {self._address} gave no answer in {ANSWER_SECONDS} s") from error
        finally:
            self._waiting.pop(number, None)

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None or self._writer.is_closing():
                reader, self._writer = await self._connect()
                self._tasks.start(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        why = "the connection broke"
        try:
            while True:
                reply = await _receive(reader)
                future = self._waiting.get(reply.id) if isinstance(reply, Done | Refused) else None
                if future is None or future.done():
                    continue
                if isinstance(reply, Done):
                    future.set_result(reply)
                else:
                    future.set_exception(_raised(reply))
        except (ConnectionError, LogError, msgspec.MsgspecError) as error:
            why = str(error)
        finally:
            if self._writer is writer:
                self._drop(why)
            writer.close()

    def _drop(self, why: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unreachable(f"the log server at {self._address}: {why}"))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                host, port = await asyncio.to_thread(_resolve, self._address)
                reader, writer = await asyncio.open_connection(host, port, limit=1024 * 1024)
                try:
                    await _send(writer, Hello(token=self._token, node=self._node))
                    reply = await _receive(reader)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"expected a log server at {self._address}, found none: {error}") from error
        if not isinstance(reply, Welcome):
            writer.close()
            raise _raised(reply)
        return reader, writer

    @asynccontextmanager
    async def _dial(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await self._connect()
        try:
            yield reader, writer
        finally:
            writer.close()


def _resolve(address: Address) -> tuple[str, int]:
    text = address.read_text("ascii").strip() if isinstance(address, Path) else address
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        raise Unreachable(f"expected host:port, found {text[:80]!r}")
    return host, int(port)


def _raised(reply: Reply) -> LogError:
    if not isinstance(reply, Refused):
        return ProtocolBroken(f"expected an answer to the request, found {type(reply).__name__}")
    if reply.code == WrongPosition.code:
        return WrongPosition(reply.message, reply.stored)
    return BY_CODE.get(reply.code, LogError)(reply.message)


async def _send(writer: asyncio.StreamWriter, request: Request) -> None:
    writer.write(protocol.encode(request))
    await writer.drain()


async def _receive(reader: asyncio.StreamReader) -> Reply:
    frame = await protocol.read_frame(reader, protocol.MAX_ANSWER)
    if frame is None:
        raise ConnectionResetError("the log server closed the connection")
    reply: Reply = protocol.decode_reply(frame)
    return reply


async def _back_off(wait: float) -> float:
    """Wait, and return how long to wait the next time (doubling, with jitter, so that clients do not come in step)."""
    await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, not a secret)
    return min(wait * 2, _BACKOFF_MOST)
