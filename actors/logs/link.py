"""One connection to one log server: the greeting, and requests in flight side by side, each with its answer.

Knows the protocol; not which server has which stream, nor when to try again.
"""

import asyncio
from collections.abc import Callable

import msgspec

from actors.logs import protocol
from actors.logs.background import Background
from actors.logs.errors import LogError, Unreachable
from actors.logs.protocol import Done, Hello, Refused, Reply, Request, Welcome, raised

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
"""A member that is stopped is left after this; what it may have stored by then is not stored again."""


class Link:
    """A connection that is made when first used, and again after a break. `aclose` ends it."""

    def __init__(self, address: str, token: str, node: str) -> None:
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

    async def request(self, make: Callable[[int], Request]) -> Done:
        """The answer to what `make` gives for the request's number. Raises LogError, Unreachable when there is none."""
        writer = await self._connected()
        number = self._next_id
        self._next_id += 1
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await send(writer, make(number))
                return await future
        except TimeoutError as error:
            # A server that says nothing is as good as gone; the others on this connection will notice too.
            self._drop("no answer in time")
            raise Unreachable(f"the log server at {self._address} gave no answer in {ANSWER_SECONDS} s") from error
        finally:
            self._waiting.pop(number, None)
            if not future.cancel() and not future.cancelled():
                future.exception()  # looked at: the connection may have broken while the request was being sent

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None or self._writer.is_closing():
                reader, self._writer = await connect(self._address, self._token, self._node)
                self._tasks.start(self._read(reader, self._writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        why = "the connection broke"
        try:
            while True:
                reply = await receive(reader)
                future = self._waiting.get(reply.id) if isinstance(reply, Done | Refused) else None
                if future is None or future.done():
                    continue
                if isinstance(reply, Done):
                    future.set_result(reply)
                else:
                    future.set_exception(raised(reply))
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


async def connect(address: str, token: str, node: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that the server has admitted. Raises Unreachable, AccessRefused."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            host, port = _resolve(address)
            reader, writer = await asyncio.open_connection(host, port, limit=1024 * 1024)
            try:
                await send(writer, Hello(token=token, node=node))
                reply = await receive(reader)
            except BaseException:
                writer.close()
                raise
    except (OSError, TimeoutError) as error:
        raise Unreachable(f"expected a log server at {address}, found none: {error}") from error
    if not isinstance(reply, Welcome):
        writer.close()
        raise raised(reply)
    return reader, writer


async def send(writer: asyncio.StreamWriter, request: Request) -> None:
    """Send, waiting while the server takes nothing. Raises ConnectionError."""
    writer.write(protocol.encode(request))
    await writer.drain()


async def receive(reader: asyncio.StreamReader) -> Reply:
    """The server's next message. Raises ConnectionError, ProtocolBroken."""
    frame = await protocol.read_frame(reader, protocol.MAX_ANSWER)
    if frame is None:
        raise ConnectionResetError("the log server closed the connection")
    reply: Reply = protocol.decode_reply(frame)
    return reply


def _resolve(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise Unreachable(f"expected host:port, found {address[:80]!r}")
    return host, int(port)
