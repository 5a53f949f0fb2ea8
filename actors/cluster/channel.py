"""Requests and answers of bytes between actors of one machine, over unix sockets: what Ray calls are too dear for.

A socket is named after the actor that listens at it, in a directory that no application can enter; that is the
authentication; how much is on its way is bounded by whoever asks. Knows frames; nothing of what a request means.
"""

import asyncio
import itertools
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import structlog

from actors.cluster.directory import ActorUnreachable

log = structlog.get_logger("channel")

MAX_FRAME_BYTES = 64 << 20
CONNECT_SECONDS = 2.0

_HEAD = struct.Struct(">II")  # bytes of the body, number of the call
Serve = Callable[[bytes], Awaitable[bytes]]


class NoChannel(Exception):
    """The actor listens at no socket of this machine. Nothing was sent."""


class _Frames(asyncio.Protocol):
    """One connection's end. Raises nothing: a frame that is too long ends the connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    @property
    def open(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        buffer, at = self._buffer, 0
        buffer += data
        while len(buffer) - at >= _HEAD.size:
            size, number = _HEAD.unpack_from(buffer, at)
            if size > MAX_FRAME_BYTES:
                log.error("a frame is too long", expected=MAX_FRAME_BYTES, found=size)
                self.end()
                break
            end = at + _HEAD.size + size
            if len(buffer) < end:
                break
            self.received(number, bytes(memoryview(buffer)[at + _HEAD.size : end]))
            at = end
        del buffer[:at]

    def received(self, number: int, body: bytes) -> None:
        """A whole frame is here."""
        raise NotImplementedError

    def send(self, number: int, body: bytes) -> None:
        """Lost if the connection is."""
        if self._transport is not None:
            self._transport.writelines((_HEAD.pack(len(body), number), body))

    def end(self) -> None:
        """Close it, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


class ChannelServer:
    """Answers what comes in at an actor's socket. A request whose answer fails is not answered: its caller is told that
    the actor could not be reached."""

    def __init__(self, directory: Path, actor: str, serve: Serve) -> None:
        """`directory` is made, 0700."""
        self._path = socket_path(directory, actor)
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._connections: set[_Served] = set()

    async def start(self) -> None:
        """Listen, in the place of an earlier process of the same name."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Served(self._serve, self._connections), self._path
        )

    async def aclose(self) -> None:
        """Break every connection. The path stays: it may be a later process's by now."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.end()


class _Served(_Frames):
    """A caller."""

    def __init__(self, serve: Serve, everyone: "set[_Served]") -> None:
        super().__init__()
        self._serve = serve
        self._everyone = everyone
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._everyone.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._everyone.discard(self)

    def received(self, number: int, body: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(number, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, body: bytes) -> None:
        try:
            self.send(number, await self._serve(body))
        except Exception:
            log.exception("a request could not be answered")
            self.end()


class Channels:
    """Calls actors of this machine, over one connection to each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._connections: dict[str, _Asked] = {}

    async def call(self, actor: str, request: bytes, *, seconds: float) -> bytes:
        """What the actor answers. Raises NoChannel if it is not to be found here, and ActorUnreachable when it has died
        or does not answer in time: the call may have had its effect."""
        connection = self._connections.get(actor)
        if connection is None or not connection.open:
            connection = await self._connect(actor)
        try:
            async with asyncio.timeout(seconds):
                return await connection.ask(request)
        except TimeoutError as error:
            # It may be stopped, or another process may have its name by now.
            connection.end()
            raise ActorUnreachable(f"{actor} did not answer within {seconds} s") from error
        except ConnectionError as error:
            raise ActorUnreachable(f"{actor}: {error}") from error

    async def _connect(self, actor: str) -> "_Asked":
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                path = str(socket_path(self._directory, actor))
                _, connection = await asyncio.get_running_loop().create_unix_connection(_Asked, path)
        except OSError as error:  # TimeoutError too
            raise NoChannel(f"{actor} does not listen on this machine: {error}") from error
        known = self._connections.get(actor)
        if known is not None and known.open:  # somebody else was faster
            connection.end()
            return known
        self._connections[actor] = connection
        return connection


class _Asked(_Frames):
    """An actor."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.cycle(range(1 << 32))
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def ask(self, request: bytes) -> bytes:
        """Its answer. Raises ConnectionError when it has gone meanwhile."""
        if not self.open:
            raise ConnectionError("the connection broke")
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self.send(number, request)
        try:
            return await answer
        finally:
            del self._waiting[number]

    def received(self, number: int, body: bytes) -> None:
        answer = self._waiting.get(number)
        if answer is not None and not answer.done():  # else whoever asked has given up
            answer.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the connection broke"))


def socket_path(directory: Path, actor: str) -> Path:
    """Where the actor listens."""
    return directory / f"{actor}.sock"
