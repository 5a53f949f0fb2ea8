"""An answer as JSON Lines, sent as it is made, in bounded memory.

Knows the wire; nothing of what the lines say.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from aiohttp import web

from api.http.streams import WRITE_SECONDS

log = structlog.get_logger("api")

JSON_LINES = "application/jsonl"


async def send_lines(request: web.Request, blocks: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """Send blocks of whole lines. What goes wrong before the first one becomes a problem as everywhere; after it the
    connection is cut, so that nobody takes a part for the whole."""
    async with aclosing(blocks):
        first = await anext(blocks, b"")
        response = web.StreamResponse(headers={"Content-Type": JSON_LINES, "Cache-Control": "no-store"})
        await response.prepare(request)
        try:
            await _write(response, first)
            async for block in blocks:
                await _write(response, block)
        except Exception as error:
            if request.transport is not None:
                request.transport.abort()
            log.warning("an answer in lines was cut off", path=request.path[:200], exc_info=error)
            raise ConnectionResetError("cut off, for what follows could not be told") from error
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, block: bytes) -> None:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(block)
    except TimeoutError:
        raise ConnectionResetError(f"the client took nothing for {WRITE_SECONDS:.0f} s") from None
