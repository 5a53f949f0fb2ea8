"""Load over HTTP from one process: kept connections, one request at a time on each, at full speed or at a pace.

A bare protocol on asyncio's own, without a task or a future for each request, because on two cores a client library
would be much of what is measured. Knows no route; whoever uses it gives whole requests.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

ANSWER_SECONDS = 60.0
LOOK_SECONDS = 0.5
RECONNECT_SECONDS = 0.02


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
    warm_up: float = 0.0,
    until: asyncio.Event | None = None,
    statuses: Callable[[int, bytes], Mapping[int, int]] = alone,
) -> Seen:
    """Send `request(0)`, `request(1)`, … for so long. `rate`: requests a second in all (0: as fast as they are
    answered); a request that is late counts from when it was due. `warm_up`: so many seconds before; what is due in
    them is not counted. `until` is set: it ends earlier. `statuses`: how often each is in an answer; one whose
    connection broke has the status 0. The connections are open when the time begins. Raises TimeoutError for an answer
    that does not come, OSError when nobody listens for so long.
    """
    run = _Load(port, request, rate=rate, until=until, statuses=statuses)
    await asyncio.gather(*(run.connect() for _ in range(connections)))
    return await run.go(warm_up, seconds)


class _Load:
    """One load: the connections that are free, and what is to be sent next."""

    def __init__(
        self,
        port: int,
        request: Callable[[int], bytes],
        *,
        rate: float,
        until: asyncio.Event | None,
        statuses: Callable[[int, bytes], Mapping[int, int]],
    ) -> None:
        self._port = port
        self._request = request
        self._rate = rate
        self._until = until
        self._statuses = statuses
        self._loop = asyncio.get_running_loop()
        self._seen = Seen()
        self._free: deque[_Connection] = deque()
        self._asked: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._next = 0
        self._began = self._counts_from = self._ends = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()

    async def connect(self) -> None:
        """Have one more connection."""
        deadline = self._loop.time() + ANSWER_SECONDS
        while True:
            try:
                await self._loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
                return
            except OSError:
                if self._loop.time() > deadline:
                    raise
            await asyncio.sleep(RECONNECT_SECONDS)

    async def go(self, warm_up: float, seconds: float) -> Seen:
        """All of it; the connections are closed then."""
        self._began = self._loop.time()
        self._counts_from = self._began + warm_up
        self._ends = self._counts_from + seconds
        self._look()
        try:
            await self._ended
        finally:
            for task in self._connecting:
                task.cancel()
            for connection in (*self._free, *self._asked):
                connection.close()
        self._seen.elapsed = self._loop.time() - self._counts_from
        return self._seen

    def opened(self, connection: "_Connection") -> None:
        """One more is free."""
        self._free.append(connection)

    def answered(self, connection: "_Connection", status: int, body: bytes) -> None:
        """What came for what it was asked; status 0 when it broke."""
        if self._ended.done():
            return
        now, due = self._loop.time(), connection.due
        if due >= self._counts_from:
            for each, count in self._statuses(status, body).items():
                self._seen.statuses[each] = self._seen.statuses.get(each, 0) + count
                self._seen.seconds += [now - due] * count
            self._seen.marks.append((connection.number, due, now))
        self._asked.discard(connection)
        if connection.open:
            self._free.append(connection)
        else:
            self.lost(connection)
        self._send()

    def lost(self, connection: "_Connection") -> None:
        """One is not open any more: another is opened in its place."""
        if self._ended.done():
            return
        if connection in self._free:
            self._free.remove(connection)
        task = self._loop.create_task(self.connect())
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[None]") -> None:
        self._connecting.discard(task)
        if task.cancelled() or self._ended.done():
            return
        if (error := task.exception()) is not None:
            self._ended.set_exception(error)
        else:
            self._send()

    def _send(self) -> None:
        """Whatever is due, on whatever is free; nothing once it has ended."""
        while self._free and not self._ended.done():
            now = self._loop.time()
            due = self._began + self._next / self._rate if self._rate else now
            if max(due, now) >= self._ends or (self._until is not None and self._until.is_set()):
                if not self._asked:  # else it ends with the last answer
                    self._ended.set_result(None)
                return
            if due > now:
                if self._timer is None:
                    self._timer = self._loop.call_at(due, self._due)
                return
            connection = self._free.popleft()
            self._asked.add(connection)
            connection.ask(self._next, due, self._request(self._next))
            self._next += 1

    def _due(self) -> None:
        self._timer = None
        self._send()

    def _look(self) -> None:
        """Now and then: for an answer that does not come, and for the end where nothing is due before it."""
        if self._ended.done():
            return
        late = self._loop.time() - ANSWER_SECONDS
        if any(connection.asked_at < late for connection in self._asked):
            self._ended.set_exception(TimeoutError(f"a request has had no answer for {ANSWER_SECONDS:.0f} s"))
            return
        self._send()
        self._loop.call_later(LOOK_SECONDS, self._look)


class _Connection(asyncio.Protocol):
    """One kept connection, asked one thing at a time; answers must say their length."""

    def __init__(self, run: _Load) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waits = False
        self.number = 0
        self.due = self.asked_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._run.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waits:
            self._answered(0, b"")
        else:
            self._run.lost(self)

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = buffer.find(b"Content-Length: ", 0, head)
        end = head + 4 + (int(buffer[at + 16 : buffer.find(b"\r\n", at)]) if at >= 0 else 0)
        if len(buffer) < end:
            return
        self._buffer = buffer[end:]
        if self._waits:
            self._answered(int(buffer[9:12]), buffer[head + 4 : end])

    def _answered(self, status: int, body: bytes) -> None:
        self._waits = False
        self._run.answered(self, status, body)

    @property
    def open(self) -> bool:
        return self._transport is not None

    def ask(self, number: int, due: float, request: bytes) -> None:
        """Send the `number`-th request, which was due at `due` on the loop's clock."""
        assert self._transport is not None
        self.number, self.due, self._waits = number, due, True
        self.asked_at = asyncio.get_running_loop().time()
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


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
