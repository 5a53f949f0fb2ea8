"""Segments and hot batches as one store, so that nobody who walks the log has to ask where a batch is kept.

Knows the low mark and which tier answers; nothing of what walks there, nor of how either tier keeps its batches.
"""

from collections.abc import AsyncIterator, Iterable, Sequence

from events.log.archive.cold import ColdSegments
from events.log.archive.segment import Segment
from events.log.codec import MAX_BATCH_RECORDS
from events.log.errors import LogHole
from events.log.reader import LogReader
from events.log.records import Position
from events.log.runs import Runs
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS, HotStore, SeenLow, StoredBatch, Subscription


class TieredStore:
    """A `BatchStore` of a whole log."""

    def __init__(self, hot: HotStore, cold: ColdSegments) -> None:
        self._hot = hot
        self._cold = cold
        self._low: dict[int, int] = {}
        """The newest mark seen, a lower bound of the present one: below it only segments are asked."""

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        """As `BatchStore.page`, of both tiers: an empty or short page means the tail here too."""
        batches: list[StoredBatch] = []
        at, end = base, base + PAGE_OFFSETS
        while at < end and len(batches) < PAGE_BATCHES:
            if at < self._low.get(partition, 0):
                at = await self._from_segment(partition, at, end, batches)
                continue
            page = await self._hot.page(partition, at)
            # A batch that begins at `at` shows that no segment holds it; a page is contiguous. Without one, these
            # offsets may have been archived before the page was read, and the mark, read later, tells.
            if (page and page[0].base == at) or at >= (await self.low(partition)).first_hot:
                batches += (batch for batch in page if batch.base < end)
                break
        return batches[:PAGE_BATCHES]

    async def batch(self, partition: int, base: int) -> StoredBatch | None:
        """The batch that begins at `base`, whichever tier keeps it."""
        page = await self.page(partition, base)
        return page[0] if page and page[0].base == base else None

    async def tail_hint(self, partition: int) -> int:
        return await self._hot.tail_hint(partition)

    async def subscribe(self, partitions: Iterable[int]) -> Subscription:
        return await self._hot.subscribe(partitions)

    def unsubscribe(self, subscription: Subscription) -> None:
        self._hot.unsubscribe(subscription)

    async def low(self, partition: int) -> SeenLow:
        seen = await self._hot.low(partition)
        self._low[partition] = max(seen.first_hot, self._low.get(partition, 0))
        return seen

    async def read_to_fold(
        self, reader: LogReader, partition: int, from_offset: int
    ) -> AsyncIterator[Sequence[StoredBatch] | Runs]:
        """See `EventLog.read_to_fold`; `reader` is one of this store."""
        offset = from_offset
        while offset < self._low.get(partition, 0) or offset < (await self.low(partition)).first_hot:
            segment = await self._segment(partition, offset)
            base, end = segment.manifest.base, segment.manifest.end
            if offset == base and (runs := segment.runs()) is not None:
                yield runs
            else:
                base = max(base, offset - MAX_BATCH_RECORDS)  # the batch that holds `offset` begins behind that
                while batches := segment.batches(base, end, PAGE_BATCHES):
                    base = batches[-1].base + 1
                    yield batches
            offset = end
        async for page in reader.read_batches(partition, offset):
            yield page

    async def _from_segment(self, partition: int, at: int, end: int, batches: list[StoredBatch]) -> int:
        """Add the batches of the segment that holds `at`; returns where to go on."""
        segment = await self._segment(partition, at)
        batches += segment.batches(at, end, PAGE_BATCHES - len(batches))
        return segment.manifest.end

    async def _segment(self, partition: int, offset: int) -> Segment:
        """The one that holds `offset`, which is below the mark."""
        manifest = await self._cold.find(partition, offset)
        if manifest is None:
            raise LogHole(Position(partition, offset), self._low[partition])
        return await self._cold.open(partition, manifest)
