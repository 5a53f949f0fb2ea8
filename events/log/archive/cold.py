"""Archived segments as readers want them: found by offset, fetched and checked once, the latest few kept in memory.

Knows manifests and blobs; nothing of events. One per process is enough: its memory is bounded.
"""

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from events.log.archive.manifest import SegmentManifest
from events.log.archive.segment import Segment, decode_segment
from events.log.blobs import BlobStore
from events.log.errors import BlobMissing, LogBroken
from events.log.records import Position

KEPT_BYTES = 64 << 20
"""Some segments at their usual 8 MiB: a few readers at different places do not throw out each other's."""

LoadManifests = Callable[[int, int], Awaitable[list[SegmentManifest]]]
"""(partition, base) -> a page of manifests with that base or more, ascending."""


class ColdSegments:
    """`blobs` None: this process was given no archive, and says so when it needs it."""

    def __init__(self, manifests: LoadManifests, blobs: BlobStore | None, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._load = manifests
        self._blobs = blobs
        self._kept_bytes = kept_bytes
        self._manifests: dict[int, list[SegmentManifest]] = {}
        self._kept: OrderedDict[str, Segment] = OrderedDict()
        self._opening: dict[str, asyncio.Task[Segment]] = {}

    async def find(self, partition: int, offset: int) -> SegmentManifest | None:
        """The segment that holds `offset`; None if none does. Manifests never change, so they are read once."""
        known = self._manifests.setdefault(partition, [])
        while not known or known[-1].end <= offset:
            base = known[-1].end if known else 0
            page = [manifest for manifest in await self._load(partition, base) if manifest.base >= base]
            if not page:
                return None
            # Another reader may have loaded the same page meanwhile.
            if (known[-1].end if known else 0) == base:
                known += page
        at = bisect_right(known, offset, key=lambda manifest: manifest.base) - 1
        return known[at] if at >= 0 and known[at].end > offset else None

    async def open(self, partition: int, manifest: SegmentManifest) -> Segment:
        """The checked segment. Raises ArchiveUnavailable, BlobMissing, CorruptSegment."""
        name = manifest.location
        if (kept := self._kept.get(name)) is not None:
            self._kept.move_to_end(name)
            return kept
        if (opening := self._opening.get(name)) is None:
            opening = self._opening[name] = asyncio.create_task(self._fetch(partition, manifest))
            opening.add_done_callback(lambda done: self._opened(name, done))
        # Shielded: one reader that gives up must not take the segment from the others that wait for it.
        return await asyncio.shield(opening)

    async def _fetch(self, partition: int, manifest: SegmentManifest) -> Segment:
        if self._blobs is None:
            raise LogBroken(
                f"expected an archive to read {manifest.location} from, found none configured; "
                "set [log] archive as the platform has it"
            )
        try:
            data = await self._blobs.get(manifest.location)
        except BlobMissing as error:
            raise BlobMissing(manifest.location, Position(partition, manifest.base)) from error
        return await asyncio.to_thread(decode_segment, partition, manifest, data)

    def _opened(self, name: str, done: "asyncio.Task[Segment]") -> None:
        self._opening.pop(name, None)
        # `exception()` marks it as seen, also where every reader has gone away.
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[name] = done.result()
        size = sum(segment.manifest.bytes for segment in self._kept.values())
        while size > self._kept_bytes and len(self._kept) > 1:
            size -= self._kept.popitem(last=False)[1].manifest.bytes
