"""Live lines over a WebSocket: one JSON object a message, and no more ahead of the client than it has acknowledged.

A browser takes in messages however slowly its page shows them; so the page says what it has shown. Knows the wire
format; nothing of what the lines say.

From us: a line as in a page, `{"heartbeat": true}`, `{"end": true}`. From the client: `{"ack": NUMBER}`, the number of
the last line it is done with. Resume by connecting again with `from`.
"""

import asyncio
from types import TracebackType

import msgspec
from aiohttp import WSMsgType, web

from api.http.call import Call
from api.http.streams import WRITE_SECONDS
from events.secrets import mask

IDLE_SECONDS = 300.0  # a client that acknowledges nothing for so long, with a full window, is let go
_MAX_MESSAGE = 4096


class _Ack(msgspec.Struct):
    ack: int


class LineSocket:
    """An open socket to one client. Use as an async context manager; leaving it ends the connection."""

    def __init__(self, call: Call, window: int) -> None:
        self._call = call
        self._window = window
        self.response = web.WebSocketResponse(
            heartbeat=30.0, max_msg_size=_MAX_MESSAGE, protocols=("rayfold",), writer_limit=256 * 1024
        )
        self._task = asyncio.current_task()
        self._reading: asyncio.Task[None] | None = None
        self._unacknowledged: list[int] = []
        self._room = asyncio.Event()
        self._gone = False

    async def __aenter__(self) -> "LineSocket":
        if self._task is not None:
            self._call.context.streams.add(self._task)
        self._call.context.metrics.streams.inc()
        await self.response.prepare(self._call.request)
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._call.context.streams.discard(self._task)
        self._call.context.metrics.streams.dec()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self.response.close(code=1000 if error is None else 1011)

    async def send(self, data: str, *, id: str = "", event: str = "") -> None:
        """One line, secrets masked; waits while the client is too far behind.

        Raises ConnectionResetError when nobody reads.
        """
        if self._window and id:
            await self._have_room()
            self._unacknowledged.append(int(id))
        await self._write(mask(data))

    async def heartbeat(self, id: str = "") -> None:
        """A sign of life."""
        await self._write('{"heartbeat":true}')

    async def end(self, data: str = "{}") -> None:
        """Say that nothing will follow, so that a client does not connect again."""
        await self._write('{"end":true}')

    async def _have_room(self) -> None:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                while len(self._unacknowledged) >= self._window:
                    self._room.clear()
                    if self._gone:
                        raise ConnectionResetError("the client has gone")
                    await self._room.wait()
        except TimeoutError:
            raise ConnectionResetError(f"the client acknowledged nothing for {IDLE_SECONDS:.0f} s") from None

    async def _read(self) -> None:
        try:
            async for message in self.response:
                if message.type is not WSMsgType.TEXT:
                    break
                done = msgspec.json.decode(message.data, type=_Ack).ack
                self._unacknowledged = [number for number in self._unacknowledged if number > done]
                self._room.set()
        except msgspec.MsgspecError:
            pass  # no client of ours: it is let go below, as one that has gone
        finally:
            self._gone = True
            self._room.set()

    async def _write(self, text: str) -> None:
        if self._gone:
            raise ConnectionResetError("the client has gone")
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self.response.send_str(text)
        except TimeoutError:
            raise ConnectionResetError(f"the client took nothing for {WRITE_SECONDS:.0f} s") from None


def wants_socket(call: Call) -> bool:
    """Whether the client asked for a WebSocket."""
    return call.request.headers.get("Upgrade", "").lower() == "websocket"
