"""Load over HTTP from one process: kept connections, one request at a time on each, at full speed or at a pace.

A bare protocol on asyncio's own, because on two cores a client library would be most of what is measured. Knows no
route; whoever uses it gives whole requests.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

ANSWER_SECONDS = 60.0


@dataclass
class Seen:
    """What came back: seconds per answer from when it was due, and how often each status came.

    A request that asks for many things has so many answers, all at once.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    elapsed: float = 0.0
    marks: list[tuple[int, float, float]] = field(default_factory=list)
    """(number of the request, sent, answered), on the loop's clock."""


class _Connection(asyncio.Protocol):
    """One kept connection. `ask` and wait; answers must say their length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, b""))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.find(b"Content-Length: ", 0, head)
        length = int(self._buffer[at + 16 : self._buffer.find(b"\r\n", at)]) if at >= 0 else 0
        if len(self._buffer) < head + 4 + length:
            return
        status = int(self._buffer[9:12])
        body = self._buffer[head + 4 : head + 4 + length]
        self._buffer = self._buffer[head + 4 + length :]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    @property
    def open(self) -> bool:
        return self._transport is not None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body; 0 when the connection broke."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def alone(status: int, body: bytes) -> Mapping[int, int]:
    """The statuses in an answer to a request for one thing: its own."""
    return {status: 1}


async def load(
    port: int,
    request: Callable[[int], bytes],
    *,
    connections: int,
    seconds: float,
    rate: float = 0.0,
    until: asyncio.Event | None = None,
    statuses: Callable[[int, bytes], Mapping[int, int]] = alone,
) -> Seen:
    """Send `request(0)`, `request(1)`, … for so long. `rate`: requests a second in all (0: as fast as they are
    answered); a request that is late counts from when it was due. `until` is set: it ends earlier. `statuses`: how
    often each is in an answer. The connections are open when the time begins.
    """
    seen = Seen()
    loop = asyncio.get_running_loop()
    opened = await asyncio.gather(*(_connect(port) for _ in range(connections)))
    began = loop.time()
    numbers = iter(range(1 << 60))

    async def client(connection: _Connection) -> None:
        while True:
            number = next(numbers)
            due = began + number / rate if rate else loop.time()
            if max(due, loop.time()) >= began + seconds or (until is not None and until.is_set()):
                break
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            async with asyncio.timeout(ANSWER_SECONDS):
                if not connection.open:
                    connection = await _connect(port)
                status, body = await connection.ask(request(number))
            done = loop.time()
            for each, count in statuses(status, body).items():
                seen.statuses[each] = seen.statuses.get(each, 0) + count
                seen.seconds += [done - due] * count
            seen.marks.append((number, due, done))
        connection.close()

    async with asyncio.TaskGroup() as group:
        for connection in opened:
            group.create_task(client(connection))
    seen.elapsed = loop.time() - began
    return seen


async def _connect(port: int) -> _Connection:
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return connection


def patch(path: str, token: str, body: bytes, key: str) -> bytes:
    """A whole PATCH request."""
    return _request("PATCH", path, token, body, f"Idempotency-Key: {key}\r\n")


def post(path: str, token: str, body: bytes) -> bytes:
    """A whole POST request."""
    return _request("POST", path, token, body, "")


def _request(method: str, path: str, token: str, body: bytes, more: str) -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
