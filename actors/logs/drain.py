"""Sends one instance's lines on to another place: a tail of the store, so that whatever is away delays only itself.

The place in the stream is kept: what was sent and not answered for is sent again, with its number. Knows the client and
a driver; the store is the buffer.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from pathlib import Path

from actors.logs.client import LogClient
from actors.logs.drivers.port import Driver, DriverAway, DriverRefused
from actors.logs.errors import LogError
from actors.logs.filter import LineFilter, Query
from actors.logs.line import LogLine

_log = logging.getLogger(__name__)

_BACKOFF_FIRST = 0.2
_BACKOFF_MOST = 30.0
_FINISH_SECONDS = 30.0


class Drain:
    """`run` until cancelled; `finish` to send what is left."""

    def __init__(self, client: LogClient, driver: Driver, *, stream: str, instance: str, state: Path) -> None:
        self.sent = 0
        self.refused = 0
        self._client = client
        self._driver = driver
        self._stream = stream
        self._filter = LineFilter(instance=instance)
        self._state = state
        self._cursor = 1

    async def run(self) -> None:
        """For ever."""
        self._cursor = await asyncio.to_thread(self._load)
        while True:
            try:
                async for lines in self._client.tail(self._stream, self._cursor, self._filter):
                    await self._send(lines)
                return
            except LogError as error:
                _log.warning("log drain of %s: %s; trying again", self._stream, error)
                await asyncio.sleep(_BACKOFF_FIRST)

    async def finish(self) -> None:
        """Send what is stored by now, after `run` was cancelled; what cannot be sent in 30 s is said and left."""
        try:
            async with asyncio.timeout(_FINISH_SECONDS):
                complete = False
                while not complete:
                    query = Query(stream=self._stream, from_number=self._cursor, filter=self._filter)
                    result = await self._client.query(query)
                    await self._send(result.lines)
                    complete, self._cursor = result.complete, result.next_number
        except (TimeoutError, LogError) as error:
            _log.warning("log drain of %s: lines from %d on were not sent: %s", self._stream, self._cursor, error)
        await self._driver.aclose()
        await asyncio.to_thread(self._state.unlink, missing_ok=True)

    async def _send(self, lines: Sequence[LogLine]) -> None:
        wait = _BACKOFF_FIRST
        while lines:
            try:
                await self._driver.send(self._stream, lines)
                self.sent += len(lines)
                break
            except DriverRefused as error:
                self.refused += len(lines)
                _log.warning("log drain of %s: %d lines are left out: %s", self._stream, len(lines), error)
                break
            except DriverAway as error:
                _log.info("log drain of %s: %s; trying again", self._stream, error)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, not a secret)
            wait = min(wait * 2, _BACKOFF_MOST)
        if lines:
            self._cursor = lines[-1].next_number
            await asyncio.to_thread(self._save)

    def _load(self) -> int:
        try:
            return int(self._state.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 1

    def _save(self) -> None:
        self._state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._state.with_suffix(".draft")
        draft.write_text(str(self._cursor), "ascii")
        draft.replace(self._state)
