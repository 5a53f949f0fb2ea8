"""What the replay tools read: partitions of events, be they a live log's or an exported file's, and their total order.

Must not know what any event means, nor who writes the log.
"""

import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from typing import Protocol

from events.log.records import StoredEvent


class Past(Protocol):
    """The reading half of an `EventLog`. A file's offsets may have holes: it holds some streams, not all."""

    @property
    def partitions(self) -> int:
        """P, which places a stream."""
        ...

    def read(self, partition: int, from_offset: int, *, stream: str | None = None) -> AsyncIterator[list[StoredEvent]]:
        """Events of a partition, or of a stream in it, in order, in non-empty lists. Raises what the log or the file
        raises."""
        ...

    async def tail(self, partition: int) -> int:
        """The offset that the partition's next event will get; of a file, that after the last one which it holds.
        Raises what the log raises."""
        ...


async def in_total_order(past: Past, partitions: Collection[int] | None = None) -> AsyncGenerator[StoredEvent, None]:
    """Every event, or those of some partitions, by (revision, partition, offset).

    Holds one list of each partition at a time. Within a partition the log's order stands whatever the revisions say:
    an archived event may have none (0).
    """
    chosen = range(past.partitions) if partitions is None else sorted(partitions)
    readers = {partition: _flat(past, partition) for partition in chosen}
    heads: list[tuple[int, int, int, StoredEvent]] = []
    try:
        for reader in readers.values():
            await _push(heads, reader)
        while heads:
            stored = heapq.heappop(heads)[-1]
            yield stored
            await _push(heads, readers[stored.position.partition])
    finally:
        for reader in readers.values():
            await reader.aclose()


async def _flat(past: Past, partition: int) -> AsyncGenerator[StoredEvent, None]:
    async for events in past.read(partition, 0):
        for event in events:
            yield event


async def _push(heads: list[tuple[int, int, int, StoredEvent]], reader: AsyncGenerator[StoredEvent, None]) -> None:
    stored = await anext(reader, None)
    if stored is not None:
        heapq.heappush(heads, (stored.revision, *stored.position, stored))
