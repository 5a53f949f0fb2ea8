"""Moves the oldest hot batches of a partition into a segment, one at a time, each step safe to repeat or to lose.

Decides nothing about when: its caller says how much may go. Knows blobs and the hot store, not etcd.
"""

import asyncio
from collections.abc import Callable

import msgspec

from events.clock import now_micros
from events.failpoints import failpoint
from events.log.archive.manifest import SegmentManifest
from events.log.archive.segment import encode_segment
from events.log.blobs import BlobStore
from events.log.codec import BatchHeader, decode_header
from events.log.errors import ArchiveUnavailable, LogHole
from events.log.records import Position
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS, HotStore, StoredBatch

SEGMENT_BYTES = 8 << 20
"""Of batches. A reader fetches and checks a whole segment: a second at 8 MiB/s, a tenth of one from a disk."""
LEAST_BYTES = 1 << 20
"""A segment is not worth a manifest and a blob below this, unless one is asked for."""
RETAIN_S = 24 * 3600


class ArchivePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`retain_s`: events younger than this stay hot. Sizes in bytes of stored batches."""

    retain_s: float = RETAIN_S
    segment_bytes: int = SEGMENT_BYTES
    least_bytes: int = LEAST_BYTES


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How far one step may go. `young`: also what is younger than `retain_s`, or not in a snapshot yet. `small`:
    also a segment below `least_bytes`."""

    young: bool = False
    small: bool = False


class Archiver:
    """Two of them over one partition, in one process or two, do no harm: the low mark is compared, one wins."""

    def __init__(
        self,
        *,
        hot: HotStore,
        blobs: BlobStore,
        policy: ArchivePolicy | None = None,
        clock: Callable[[], int] = now_micros,
    ) -> None:
        self._hot = hot
        self._blobs = blobs
        self._policy = policy or ArchivePolicy()
        self._clock = clock
        self._swept: dict[int, int] = {}
        """Per partition the base below which this process knows nothing to be hot: crashes before it left the rest."""

    async def step(self, partition: int, reach: Reach | None = None) -> SegmentManifest | None:
        """Archive one segment, if the policy lets one go; None if not, or if another archiver was first.

        Raises LogUnavailable or ArchiveUnavailable (repeat it later: what was done is found and gone on from), and
        LogBroken if what is hot is damaged, which is then left as it is.
        """
        await self.sweep(partition)
        seen = await self._hot.low(partition)
        batches = await self._choose(partition, seen.first_hot, reach or Reach())
        if not batches:
            return None
        failpoint("log.archive.chosen")
        manifest, data = await asyncio.to_thread(encode_segment, partition, batches)
        await self._blobs.put(manifest.location, data)
        failpoint("log.archive.written")
        # What is read back is what a reader will get. Nothing leaves etcd before that is known to be the same.
        if await self._blobs.get(manifest.location) != data:
            raise ArchiveUnavailable(
                f"expected {manifest.location} to read back as it was written, found other bytes; look at the archive"
            )
        failpoint("log.archive.verified")
        if not await self._hot.record(partition, seen, manifest):
            # Another archiver moved the mark. The blob may be its as well, or a twin's of this log: it stays.
            return None
        failpoint("log.archive.recorded")
        await self.sweep(partition)
        return manifest

    async def sweep(self, partition: int) -> int:
        """Delete hot batches that are in segments already; returns how many.

        Ascending: a batch's predecessor goes before it, so a request delayed for however long finds either its slot
        taken or its predecessor gone, and cannot bring an archived slot back.
        """
        deleted = 0
        while True:
            seen = await self._hot.low(partition)
            start = self._swept.get(partition, 0)
            bases = await self._hot.bases(partition, start, seen.first_hot)
            if not bases:
                self._swept[partition] = seen.first_hot
                return deleted
            failpoint("log.archive.deleting")
            if await self._hot.delete(partition, seen, bases):
                deleted += len(bases)
                self._swept[partition] = bases[-1] + 1
                failpoint("log.archive.deleted")

    async def _choose(self, partition: int, base: int, reach: Reach) -> list[StoredBatch]:
        """The next segment's batches, oldest first; none if it is not time. Never the last batch of the partition."""
        may_go = await self._gate(partition, reach)
        # One batch tells whether it is time at all, without a page of them.
        if (oldest := await self._hot.batch(partition, base)) is None or not may_go(self._header(partition, oldest)):
            return []
        chosen: list[StoredBatch] = []
        size, expected, ended = 0, base, False
        while not ended:
            start = expected
            page = await self._hot.page(partition, start)
            if not (page and page[0].base == start) and (await self._hot.low(partition)).first_hot > base:
                # No hole: another archiver recorded and deleted them since the mark was read.
                return []
            for batch in page:
                if batch.base != expected:
                    raise LogHole(Position(partition, expected), batch.base)
                header = self._header(partition, batch)
                # The batch that stays shows that those before it are not the last.
                if ended := size >= self._policy.segment_bytes or not may_go(header):
                    break
                chosen.append(batch)
                size += len(batch.value)
                expected = header.end
            if not ended and len(page) < PAGE_BATCHES and expected < start + PAGE_OFFSETS:
                size -= len(chosen.pop().value)
                ended = True
        return chosen if reach.small or size >= self._policy.least_bytes else []

    @staticmethod
    def _header(partition: int, batch: StoredBatch) -> BatchHeader:
        return decode_header(batch.value, Position(partition, batch.base))

    async def _gate(self, partition: int, reach: Reach) -> Callable[[BatchHeader], bool]:
        """Whether the batch of this header may leave. Oldest first, so the first that may not ends it."""
        if reach.young:
            return lambda header: True
        oldest_kept = self._clock() - int(self._policy.retain_s * 1e6)
        covered = await self._hot.snapshot_offset(partition)
        return lambda header: header.t_max <= oldest_kept and (covered is None or header.end <= covered)
