"""The log as stored, over HTTP: its verification, told line by line as it goes.

Thin: `events.log.verify` finds; here is only how its progress and its reports become lines.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

import msgspec
from aiohttp import web

from api.http.call import Call
from api.http.lines import send_lines
from api.http.problems import HttpProblem, invalid, not_found
from api.http.queries import VerifyLog
from events.log.chain import NotedHead, parse_heads
from events.log.verify import PartitionReport, report_document, unrecognised, verify_log
from events.replay.snapshots import deep_check

PROGRESS_SECONDS = 5.0
"""Between lines of progress: below every client's patience with a silent connection."""

_walking = asyncio.Lock()


async def verify(call: Call) -> web.StreamResponse:
    """Lines: `{partition, checked}` while it goes, a report per partition, at last `{whole, unrecognised}`."""
    asked = call.query_as(VerifyLog)
    stored = call.context.services.stored
    noted = _noted(asked.since_head)
    if asked.partition is not None and asked.partition >= stored.partitions:
        detail = f"there is no partition {asked.partition}; they go from 0 to {stored.partitions - 1}"
        raise not_found(detail, hint="rayfold log stats")
    if _walking.locked():
        # It reads the whole log: two at once would only slow each other and the platform.
        raise HttpProblem(429, "busy", "the log is being verified already", hint="wait for it, and ask again")
    told = _Told()
    partitions = None if asked.partition is None else [asked.partition]

    walk = verify_log(
        stored, partitions=partitions, noted=noted, deep=deep_check(stored) if asked.deep else None, progress=told.count
    )
    return await send_lines(call.request, _lines(walk, noted, told))


class _Told:
    """How far the walk is, for the lines in between."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}

    def count(self, partition: int, events: int) -> None:
        self.at = {"partition": partition, "checked": events}


async def _lines(
    walk: AsyncIterator[PartitionReport], noted: Sequence[NotedHead], told: _Told
) -> AsyncGenerator[bytes, None]:
    reports: list[PartitionReport] = []
    async with _walking:
        while True:
            coming = asyncio.ensure_future(_next(walk))
            try:
                while not (await asyncio.wait({coming}, timeout=PROGRESS_SECONDS))[0]:
                    yield _line(told.at)
            finally:
                # Whoever asked may have gone away meanwhile: then nobody needs the rest.
                coming.cancel()
            report = coming.result()
            if report is None:
                break
            reports.append(report)
            yield _line(report_document(report))
    unknown = unrecognised(noted, reports)
    yield _line({"whole": not unknown and all(r.broken is None for r in reports), "unrecognised": unknown})


async def _next(walk: AsyncIterator[PartitionReport]) -> PartitionReport | None:
    return await anext(walk, None)


def _line(document: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(document) + b"\n"


def _noted(given: str) -> list[NotedHead]:
    """Heads as `partition:offset hash`, several with commas between."""
    try:
        return parse_heads(given.replace(",", "\n")) if given else []
    except ValueError as error:
        raise invalid(str(error)) from None


HANDLERS = {"verifyLog": verify}
