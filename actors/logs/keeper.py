"""Keeps a store in shape: seals segments, moves old ones to the archive, and drops what is too old or too much.

One at a time and at low priority, so that nothing it does is felt. Knows policies and files; nothing of lines.
"""

import asyncio
import logging
import time
from functools import partial

import msgspec

from actors.logs.archive import SegmentArchive
from actors.logs.background import Background
from actors.logs.errors import LogError, QueryTooCostly, StorageFailed, StreamMoved
from actors.logs.policy import Policies
from actors.logs.search import Seal, Searcher
from actors.logs.store import LogStore
from actors.logs.stream import StreamLog
from actors.logs.view import Extent
from events.log.errors import ArchiveUnavailable

_log = logging.getLogger(__name__)

SWEEP_SECONDS = 600.0
RETRY_SECONDS = 30.0


class KeepSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed segment moves to the archive when its newest line is older than `archive_seconds`, or when the stream
    has more than `local_bytes` of newer ones."""

    archive_seconds: float = 6 * 3600.0
    local_bytes: int = 128 * 1024 * 1024


class KeeperStats(msgspec.Struct, kw_only=True):
    """Counters since start."""

    sealed: int = 0
    archived: int = 0
    expired: int = 0
    failures: int = 0


class Keeper:
    """Use `start` before, `aclose` after; the store is somebody else's."""

    def __init__(
        self,
        store: LogStore,
        policies: Policies,
        archive: SegmentArchive | None = None,
        settings: KeepSettings | None = None,
    ) -> None:
        self.stats = KeeperStats()
        self._store = store
        self._policies = policies
        self._archive = archive
        self._settings = settings or KeepSettings()
        self._worker = Searcher(1, nice=15)
        self._tasks = Background("log keeper")

    def start(self) -> None:
        """Begin: with a sweep, for what an earlier life left, then as segments fill and time goes by."""
        self._tasks.start(self._run())

    async def aclose(self) -> None:
        """Stop; what was begun is begun again by the next one."""
        await self._tasks.aclose()
        await self._worker.aclose()

    async def _run(self) -> None:
        next_sweep = time.monotonic()
        while True:
            try:
                if time.monotonic() >= next_sweep:
                    await self.sweep()
                    next_sweep = time.monotonic() + SWEEP_SECONDS
                await self.seal_rolled(next_sweep - time.monotonic())
            except (LogError, OSError, ArchiveUnavailable) as error:
                self.stats.failures += 1
                _log.warning("log keeper: %s; trying again", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def seal_rolled(self, seconds: float) -> None:
        """Seal what fills within so many seconds."""
        try:
            async with asyncio.timeout(max(seconds, 0.1)):
                while True:
                    stream = await self._store.next_rolled()
                    try:
                        await self.tidy(stream)
                    except StreamMoved:
                        continue  # its new owner sees to it
        except TimeoutError:
            pass

    async def sweep(self, now: float | None = None) -> None:
        """Look after every stream once. `now`: unix seconds."""
        now = time.time() if now is None else now
        by_team: dict[str, list[str]] = {}
        for stream in await asyncio.to_thread(self._store.own_streams):
            try:
                await self.tidy(stream, now)
            except StreamMoved:
                continue
            by_team.setdefault(self._policies.of(stream).team, []).append(stream)
        for team, streams in by_team.items():
            await self._fit_team(team, streams)

    async def tidy(self, stream: str, now: float | None = None) -> None:
        """Seal, expire and archive what is due of one stream."""
        now = time.time() if now is None else now
        await self._seal(stream)
        keep = self._policies.of(stream).keep_seconds
        if keep:
            before = int((now - keep) * 1e6)
            dropped = await self._store.change(stream, lambda log: log.expire(before))
            self.stats.expired += dropped
            if dropped:
                await self._seal(stream)
        if self._archive is not None:
            await self._move(stream, self._archive, int((now - self._settings.archive_seconds) * 1e6))
            for index in await self._store.change(stream, lambda log: log.take_orphans()):
                await self._archive.forget(stream, index)

    async def _seal(self, stream: str) -> None:
        for extent in await self._store.change(stream, lambda log: log.unsealed()):
            try:
                await self._worker.seal(Seal(path=extent.path, size=extent.size))
            except QueryTooCostly as error:
                raise StorageFailed(f"stream {stream}: {extent.path} could not be sealed in time") from error
            await self._adopt(stream, extent)

    async def _adopt(self, stream: str, extent: Extent) -> None:
        self.stats.sealed += await self._store.change(stream, lambda log: log.adopt(extent))

    async def _move(self, stream: str, archive: SegmentArchive, before: int) -> None:
        """Archive from the oldest on, so that what is on this disk is always the newest."""
        local = await self._store.change(stream, lambda log: log.local_sealed())
        total = sum(extent.size for extent, _ in local)
        for extent, t_max in local:
            if t_max >= before and total <= self._settings.local_bytes:
                return
            await archive.put(stream, extent.path)
            self.stats.archived += await self._store.change(stream, partial(_let_go, extent=extent))
            total -= extent.size

    async def _fit_team(self, team: str, streams: list[str]) -> None:
        """Drop the team's oldest segments until all it has fits; the segment in use of each stream stays."""
        most = self._policies.of(streams[0]).team_bytes
        held: dict[str, list[tuple[int, Extent]]] = {}
        total = 0
        for stream in streams:
            size, held[stream] = await self._store.change(stream, lambda log: log.held())
            total += size
        while total > most and any(held.values()):
            stream = min((name for name in streams if held[name]), key=lambda name: held[name][0])
            _, extent = held[stream].pop(0)
            dropped = await self._store.change(stream, lambda log: log.drop_oldest())
            total -= dropped.size if dropped else extent.size
            self.stats.expired += dropped is not None
        if self._archive is not None:
            for stream in streams:
                for index in await self._store.change(stream, lambda log: log.take_orphans()):
                    await self._archive.forget(stream, index)


def _let_go(log: StreamLog, *, extent: Extent) -> bool:
    return log.let_go(extent)
