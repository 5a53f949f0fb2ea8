"""Server-sent events: frames, heartbeats, and the end of a client that does not read.

Knows the wire format (WHATWG HTML, "server-sent events"); nothing of what is sent.
"""

import asyncio
from types import TracebackType

from aiohttp import web

from api.http.call import Call
from events.secrets import mask

WRITE_SECONDS = 30.0  # a client that takes nothing for so long is let go; it resumes by its cursor
_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class EventStream:
    """An open stream to one client. Use as an async context manager; leaving it ends the answer."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.response = web.StreamResponse(headers={**_HEADERS, "X-Request-Id": call.request_id})
        self._task = asyncio.current_task()

    async def __aenter__(self) -> "EventStream":
        if self._task is not None:
            self._call.context.streams.add(self._task)
        self._call.context.metrics.streams.inc()
        await self.response.prepare(self._call.request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._call.context.streams.discard(self._task)
        self._call.context.metrics.streams.dec()
        if error is None:
            await self.response.write_eof()

    async def send(self, data: str, *, id: str = "", event: str = "") -> None:
        """One event, secrets masked. `data` has no line breaks (JSON on one line).

        Raises ConnectionResetError when nobody reads.
        """
        head = (f"id: {id}\n" if id else "") + (f"event: {event}\n" if event else "")
        await self._write(f"{head}data: {mask(data)}\n\n")

    async def heartbeat(self, id: str = "") -> None:
        """A comment, and where to resume: filtered events move the cursor too."""
        await self._write((f"id: {id}\n" if id else "") + ": heartbeat\n\n")

    async def end(self, data: str = "{}") -> None:
        """Say that nothing will follow, so that a client does not connect again."""
        await self.send(data, event="end")

    async def _write(self, text: str) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self.response.write(text.encode())
        except TimeoutError:
            raise ConnectionResetError(f"the client took nothing for {WRITE_SECONDS:.0f} s") from None


def wants_stream(call: Call) -> bool:
    """Whether the client asked for server-sent events: by Accept, or with `follow=1`."""
    if getattr(call.query, "follow", False):
        return True
    return "text/event-stream" in call.request.headers.get("Accept", "")
