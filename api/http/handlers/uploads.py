"""Receiving sources: streamed to disk within a limit, never held in memory. Knows the wire; the disk is `uploads`."""

import asyncio
import errno
import re

from aiohttp import web

from api.http.answers import answer
from api.http.call import Call
from api.http.problems import HttpProblem, invalid, malformed, not_found, too_large
from api.http.schema_platform import Uploaded
from api.http.uploads import DigestMismatch, Uploads, Writing

CHUNK_BYTES = 1024 * 1024  # gathered before a thread writes it
IDLE_SECONDS = 60.0  # a sender that sends nothing for so long is let go
_SHA256 = re.compile(r"[0-9a-f]{64}")


async def put_upload(call: Call) -> web.Response:
    """201 when it was written, 200 when this team had put it before."""
    team, sha256 = call.name("team"), _digest(call)
    limit = call.context.services.upload_bytes
    length = call.request.content_length
    if length is not None and length > limit:
        raise too_large(limit, f"{length}")
    await call.context.reads.team(team)
    uploads = Uploads(call.context.services.uploads)
    if await asyncio.to_thread(uploads.has, team, sha256):
        return answer(Uploaded(team=team, sha256=sha256, size_bytes=None))
    try:
        size = await _receive(call, uploads, team, sha256, limit)
    except OSError as error:
        if isinstance(error, ConnectionError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HttpProblem(503, "no_space", "the platform's disk is full", headers={"Retry-After": "60"}) from error
    call.context.metrics.uploaded.inc(size)
    return answer(Uploaded(team=team, sha256=sha256, size_bytes=size), 201)


def _digest(call: Call) -> str:
    sha256 = call.name("sha256")
    if not _SHA256.fullmatch(sha256):
        raise invalid(f"expected the sha256 of the content (64 hex digits, lower case), found {sha256[:80]!r}")
    return sha256


async def _receive(call: Call, uploads: Uploads, team: str, sha256: str, limit: int) -> int:
    writing = await asyncio.to_thread(uploads.begin)
    try:
        await _copy(call.request, writing, limit)
        await asyncio.to_thread(uploads.keep, writing, team, sha256)
        return writing.size
    except DigestMismatch as error:
        raise HttpProblem(422, "digest_mismatch", str(error), hint="send it again, or under its own name") from None
    finally:
        # Shielded: a request cut off here must leave nothing behind either.
        await asyncio.shield(asyncio.to_thread(writing.discard))


async def _copy(request: web.Request, writing: Writing, limit: int) -> None:
    pending = bytearray()
    received = 0
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await request.content.readany()
        except TimeoutError:
            raise malformed(f"nothing came for {IDLE_SECONDS:.0f} s; the upload was given up") from None
        received += len(chunk)
        if received > limit:
            raise too_large(limit, "more")
        pending += chunk
        if pending and (len(pending) >= CHUNK_BYTES or not chunk):
            await asyncio.to_thread(writing.write, bytes(pending))
            pending.clear()
        if not chunk:
            return


async def head_upload(call: Call) -> web.Response:
    uploads = Uploads(call.context.services.uploads)
    if not await asyncio.to_thread(uploads.has, call.name("team"), _digest(call)):
        raise not_found("there is no such upload")
    return web.Response(status=200)


HANDLERS = {"putUpload": put_upload, "headUpload": head_upload}
