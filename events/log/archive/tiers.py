"""Segments and hot batches as one store, so that nobody who walks the log has to ask where a batch is kept.

Knows the low mark and which tier answers; nothing of what walks there, nor of how either tier keeps its batches.
"""

from collections.abc import Iterable

from events.log.archive.cold import ColdSegments
from events.log.errors import LogHole
from events.log.records import Position
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

    async def _from_segment(self, partition: int, at: int, end: int, batches: list[StoredBatch]) -> int:
        """Add the batches of the segment that holds `at`; returns where to go on."""
        manifest = await self._cold.find(partition, at)
        if manifest is None:
            raise LogHole(Position(partition, at), self._low[partition])
        segment = await self._cold.open(partition, manifest)
        batches += segment.batches(at, end, PAGE_BATCHES - len(batches))
        return manifest.end
