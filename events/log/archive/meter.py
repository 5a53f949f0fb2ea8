"""What each partition keeps hot and what is in segments, in bytes and events, for choosing and for showing.

Reads every hot batch once, whole, for etcd tells no sizes; then only what was appended since. Decides nothing.
"""

from collections import deque
from typing import NamedTuple

import msgspec

from events.log.codec import decode_header
from events.log.records import Position
from events.log.store import MANIFESTS_AT_ONCE, PAGE_BATCHES, PAGE_OFFSETS, HotStore


class PartitionUse(msgspec.Struct, frozen=True, kw_only=True):
    """One partition. Offsets below `first_hot` are in segments; `tail` is the next event's. Sizes in bytes, stored."""

    partition: int
    tail: int
    first_hot: int
    hot_batches: int
    hot_bytes: int
    hot_events: int
    segments: int
    segment_bytes: int
    snapshot_offset: int | None


class _Hot(NamedTuple):
    base: int
    size: int


class PartitionMeter:
    """Measures one partition again and again, each time only what is new."""

    def __init__(self, hot: HotStore, partition: int) -> None:
        self._hot = hot
        self._partition = partition
        self._batches: deque[_Hot] = deque()
        self._bytes = 0
        self._tail = 0
        self._segments = 0
        self._segment_bytes = 0
        self._segments_end = 0

    @property
    def hot_bytes(self) -> int:
        """As last measured."""
        return self._bytes

    async def measure(self) -> PartitionUse:
        """Raises LogUnavailable."""
        first_hot = (await self._hot.low(self._partition)).first_hot
        self._forget_below(first_hot)
        await self._extend(max(self._tail, first_hot))
        await self._count_segments(first_hot)
        return PartitionUse(
            partition=self._partition,
            tail=self._tail,
            first_hot=first_hot,
            hot_batches=len(self._batches),
            hot_bytes=self._bytes,
            hot_events=self._tail - first_hot,
            segments=self._segments,
            segment_bytes=self._segment_bytes,
            snapshot_offset=await self._hot.snapshot_offset(self._partition),
        )

    def _forget_below(self, first_hot: int) -> None:
        while self._batches and self._batches[0].base < first_hot:
            self._bytes -= self._batches.popleft().size

    async def _extend(self, start: int) -> None:
        at_tail = False
        while not at_tail:
            page = await self._hot.page(self._partition, start)
            for batch in page:
                self._batches.append(_Hot(batch.base, len(batch.value)))
                self._bytes += len(batch.value)
            end = start
            if page:
                end = decode_header(page[-1].value, Position(self._partition, page[-1].base)).end
            at_tail = len(page) < PAGE_BATCHES and end < start + PAGE_OFFSETS
            start = self._tail = end

    async def _count_segments(self, first_hot: int) -> None:
        while self._segments_end < first_hot:
            page = await self._hot.manifests(self._partition, self._segments_end)
            for manifest in page:
                self._segments += 1
                self._segment_bytes += manifest.bytes
                self._segments_end = manifest.end
            if len(page) < MANIFESTS_AT_ONCE:
                return
