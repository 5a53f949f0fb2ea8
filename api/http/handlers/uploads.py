"""Receiving sources, whole or in parts: streamed to disk within a limit, never held in memory.

Knows the wire; the disk is `uploads` and `parts`.
"""

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from aiohttp import web

from actors.builder.parts import Part
from api.http.answers import answer
from api.http.call import Call
from api.http.parts import BUNDLE_BYTES, PART_BYTES
from api.http.problems import HttpProblem, invalid, malformed, not_found, too_large
from api.http.schema_deploy import JoinUpload, PartsKept, UploadJoined
from api.http.schema_platform import Uploaded
from api.http.uploads import DigestMismatch, Uploads, Writing

CHUNK_BYTES = 1024 * 1024  # gathered before a thread writes it
IDLE_SECONDS = 60.0  # a sender that sends nothing for so long is let go
_LENGTH = 4  # bytes, the first the highest
_FRAMES = f"each part stands behind its length, as {_LENGTH} bytes, the highest first"
_SHA256 = re.compile(r"[0-9a-f]{64}")


async def put_upload(call: Call) -> web.Response:
    """201 when it was written, 200 when this team had put it before."""
    team, sha256 = call.name("team"), _digest(call)
    limit = call.context.services.upload_bytes
    _check_length(call.request, limit)
    await call.context.reads.team(team)
    uploads = Uploads(call.context.services.uploads)
    if await asyncio.to_thread(uploads.has, team, sha256):
        return answer(Uploaded(team=team, sha256=sha256, size_bytes=None))
    size = await _receive(call, uploads, team, sha256, limit)
    return answer(Uploaded(team=team, sha256=sha256, size_bytes=size), 201)


async def put_parts(call: Call) -> web.Response:
    """201; each is kept as soon as it is here, so that what is cut off need not be sent again as a whole."""
    team, parts = call.name("team"), call.context.parts
    _check_length(call.request, BUNDLE_BYTES)
    await call.context.reads.team(team)
    count, size, pending = 0, 0, bytearray()
    with _told():
        async for chunk in _chunks(call.request, BUNDLE_BYTES):
            pending += chunk
            if chunk and len(pending) < CHUNK_BYTES:
                continue
            if whole := _whole_parts(pending):
                await asyncio.to_thread(parts.keep, team, whole)
                count, size = count + len(whole), size + sum(map(len, whole))
    if pending:
        raise malformed(f"expected a part to its end, found {len(pending)} bytes of it", hint=_FRAMES)
    call.context.metrics.uploaded.inc(size)
    return answer(PartsKept(team=team, parts=count, size_bytes=size), 201)


def _whole_parts(pending: bytearray) -> list[bytes]:
    """Those that `pending` begins with; they are taken out of it."""
    found: list[bytes] = []
    while len(pending) >= _LENGTH:
        length = int.from_bytes(pending[:_LENGTH], "big")
        if not 1 <= length <= PART_BYTES:
            raise invalid(f"expected parts of 1 to {PART_BYTES} bytes, found the length {length}", _FRAMES)
        if len(pending) < _LENGTH + length:
            break
        found.append(bytes(pending[_LENGTH : _LENGTH + length]))
        del pending[: _LENGTH + length]
    return found


async def join_upload(call: Call) -> web.Response:
    """201 when it was joined; 200 when this team had it before, or parts are missing and nothing was kept."""
    team, body = call.name("team"), call.body_as(JoinUpload)
    parts = [Part(sha256=part.sha256, size_bytes=part.size_bytes) for part in body.parts]
    total, limit = sum(part.size_bytes for part in parts), call.context.services.upload_bytes
    if total > limit:
        raise too_large(limit, f"parts of {total}")
    await call.context.reads.team(team)
    uploads = Uploads(call.context.services.uploads)
    # First: those that are here are in use, also where the upload itself is here; the next one has most of them.
    missing = await asyncio.to_thread(call.context.parts.missing, team, parts)
    if await asyncio.to_thread(uploads.has, team, body.sha256):
        return answer(UploadJoined(team=team, sha256=body.sha256, size_bytes=None, missing=[]))
    if not missing:
        loop = asyncio.get_running_loop()
        with _told():
            missing = await loop.run_in_executor(
                call.context.joining, call.context.parts.join, uploads, team, body.sha256, parts
            )
    joined = UploadJoined(team=team, sha256=body.sha256, size_bytes=None if missing else total, missing=missing)
    return answer(joined, 200 if missing else 201)


def _check_length(request: web.Request, limit: int) -> None:
    if request.content_length is not None and request.content_length > limit:
        raise too_large(limit, f"{request.content_length}")


def _digest(call: Call) -> str:
    sha256 = call.name("sha256")
    if not _SHA256.fullmatch(sha256):
        raise invalid(f"expected the sha256 of the content (64 hex digits, lower case), found {sha256[:80]!r}")
    return sha256


async def _receive(call: Call, uploads: Uploads, team: str, sha256: str, limit: int) -> int:
    with _told():
        writing = await asyncio.to_thread(uploads.begin)
        try:
            await _copy(call.request, writing, limit)
            await asyncio.to_thread(uploads.keep, writing, team, sha256)
        finally:
            # Shielded: a request cut off here must leave nothing behind either.
            await asyncio.shield(asyncio.to_thread(writing.discard))
    call.context.metrics.uploaded.inc(writing.size)
    return writing.size


@contextmanager
def _told() -> Iterator[None]:
    """What may be wrong with a content and with the disk, as problems."""
    try:
        yield
    except DigestMismatch as error:
        raise HttpProblem(422, "digest_mismatch", str(error), hint="send it again, or under its own name") from None
    except OSError as error:
        if isinstance(error, ConnectionError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HttpProblem(503, "no_space", "the platform's disk is full", headers={"Retry-After": "60"}) from error


async def _copy(request: web.Request, writing: Writing, limit: int) -> None:
    pending = bytearray()
    async for chunk in _chunks(request, limit):
        pending += chunk
        if pending and (len(pending) >= CHUNK_BYTES or not chunk):
            await asyncio.to_thread(writing.write, bytes(pending))
            pending.clear()


async def _chunks(request: web.Request, limit: int) -> AsyncIterator[bytes]:
    """What comes, at last nothing. Raises HttpProblem beyond `limit` bytes, and when nothing comes for long."""
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
        yield chunk
        if not chunk:
            return


async def head_upload(call: Call) -> web.Response:
    uploads = Uploads(call.context.services.uploads)
    if not await asyncio.to_thread(uploads.has, call.name("team"), _digest(call)):
        raise not_found("there is no such upload")
    return web.Response(status=200)


HANDLERS = {"putUpload": put_upload, "headUpload": head_upload, "joinUpload": join_upload, "putParts": put_parts}
