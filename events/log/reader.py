"""Reading: pages up to the tail, then live, joined without a gap. Offsets are the proof, arrival is only a hint.

Knows bases and offsets; which store the batches come from is the adapter's (`BatchStore`), and which tier of it they
are kept in is archive/tiers.py's.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing

from events.failpoints import failpoint
from events.log.codec import (
    MAX_BATCH_RECORDS,
    BatchHeader,
    batch_hash,
    decode_batch,
    decode_end,
    decode_header,
    decode_types,
)
from events.log.errors import BeyondTail, LogDamaged, LogHole, LogRewritten, LogUnavailable
from events.log.port import Followed, OnDamage
from events.log.records import EventRecord, Position, StoredEvent
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS, BatchStore, StoredBatch

RECHECK_S = 10.0
"""A follower pages its partitions this often even when all seems well: a watch that lost an event costs this delay."""
DECODE_INLINE_BYTES = 128 * 1024
"""Of stored batches; about 2 ms to decode. More goes to a thread."""
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0


class _Cursor:
    """Where one reader is in one partition: `expected` is the next offset to hand out, `base` the next batch to see."""

    def __init__(
        self,
        partition: int,
        from_offset: int,
        stream: str | None = None,
        types: Collection[str] | None = None,
    ) -> None:
        self.partition = partition
        self._stream = stream
        self._types = None if types is None else frozenset(types)
        self.expected = from_offset
        # The batch that holds or ends at `from_offset` begins at most this far before it.
        self.base = max(0, from_offset - MAX_BATCH_RECORDS)
        self._aligned = self.base == 0
        self._last: StoredBatch | None = None
        """The newest batch seen here: what comes next must continue it, and not a log that was put in its place."""

    async def advance(self, store: BatchStore) -> tuple[list[StoredEvent], bool]:
        """The next page's events and whether it ended at the tail."""
        if not self._aligned:
            # A batch begins at the mark: what is read from there on needs no segment, for which it may have to wait.
            first_hot = (await store.low(self.partition)).first_hot
            if self.base < first_hot <= self.expected:
                self._aligned, self.base = True, first_hot
        start = self.base
        page = await store.page(self.partition, start)
        if page and page[0].base == self.base:
            self._check_link(decode_header(page[0].value, Position(self.partition, self.base)))
        elif not page:
            await self._expect_last(store)
        if sum(len(batch.value) for batch in page) > DECODE_INLINE_BYTES:
            # Decoding a whole page takes long enough to hold up everything else on this loop.
            events, whole = await asyncio.to_thread(self._take_all, page)
        else:
            events, whole = self._take_all(page)
        at_tail = whole and len(page) < PAGE_BATCHES and self.base < start + PAGE_OFFSETS
        if at_tail and self.base < self.expected:
            raise BeyondTail(Position(self.partition, self.expected), self.base)
        self._aligned = True
        return events, at_tail

    def live(self, batch: StoredBatch) -> list[StoredEvent]:
        """`take` for a batch that `follows` and has just arrived."""
        if batch.base != self.base:
            return self.take(batch)
        header, events = self._decode(batch)
        self._check_link(header)
        self._last = batch
        return events

    def _check_link(self, header: BatchHeader) -> None:
        """Raises LogRewritten if this batch, next by its offset, names another predecessor than the one seen here."""
        if self._last is not None and header.previous and header.previous != batch_hash(self._last.value):
            raise LogRewritten(Position(self.partition, self._last.base))

    async def _expect_last(self, store: BatchStore) -> None:
        """At the tail the last batch is still what it was, unless the log went back in time under this reader."""
        if self._last is not None:
            page = await store.page(self.partition, self._last.base)
            if not page or (page[0].base, page[0].value) != (self._last.base, self._last.value):
                raise LogRewritten(Position(self.partition, self._last.base))

    def _take_all(self, page: Sequence[StoredBatch]) -> tuple[list[StoredEvent], bool]:
        """The page's events, and False where they end before damage: it is met, and raised, at the next page."""
        events: list[StoredEvent] = []
        for batch in page:
            try:
                if not self.follows(batch):
                    raise LogHole(Position(self.partition, self.base), batch.base)
                events += self.take(batch)
            except LogDamaged:
                if events:
                    return events, False
                raise
            self._last = batch
        return events, True

    def follows(self, batch: StoredBatch) -> bool:
        """Whether the batch is the very next one, or an older one that `take` drops."""
        return batch.base <= (self.base if self._aligned else self.expected)

    def take(self, batch: StoredBatch) -> list[StoredEvent]:
        """The batch's events not handed out before."""
        if self._aligned and batch.base < self.base:
            return []
        return self._decode(batch)[1]

    def _decode(self, batch: StoredBatch) -> tuple[BatchHeader, list[StoredEvent]]:
        """Header, and what of the batch is to be handed out; the cursor is behind it then."""
        at = Position(self.partition, batch.base)
        # Only before the first event handed out can a batch lie wholly below `expected`.
        if self.base < self.expected and (header := decode_header(batch.value, at)).end <= self.expected:
            self._aligned, self.base = True, header.end
            return header, []
        header, records = self._wanted(batch.value, at)
        start, self._aligned, self.base, self.expected = self.expected, True, header.end, header.end
        partition, revision = self.partition, batch.revision
        if self._stream is None and self._types is None:
            skip = start - batch.base
            return header, [
                StoredEvent(Position(partition, offset), revision, record)
                for offset, record in enumerate(records[skip:] if skip else records, start)
            ]
        return header, [
            StoredEvent(Position(partition, offset), revision, record)
            for offset, record in enumerate(records, batch.base)
            if offset >= start and self._is_wanted(record)
        ]

    def _wanted(self, value: bytes, at: Position) -> tuple[BatchHeader, list[EventRecord]]:
        """As `decode_batch`; without records where the batch says that it holds none that is wanted."""
        if self._stream is not None:
            header = decode_header(value, at)
            if all(span.stream != self._stream for span in header.streams):
                return header, []
        elif self._types is not None:
            header, types = decode_types(value, at)
            if self._types.isdisjoint(types):
                return header, []
        return decode_batch(value, at)

    def _is_wanted(self, record: EventRecord) -> bool:
        if self._stream is not None:
            return record.stream == self._stream
        return self._types is None or record.type in self._types


class _Damage:
    """What one follower has met, and whom it tells: each change once. Without anybody to tell it is raised."""

    def __init__(self, tell: OnDamage | None) -> None:
        self._tell = tell
        self._met: dict[int, str] = {}

    def met(self, partition: int, error: LogDamaged) -> None:
        if self._tell is None:
            raise error
        if self._met.get(partition) != str(error):
            self._met[partition] = str(error)
            self._tell(partition, error)

    def passed(self, partition: int) -> None:
        if self._tell is not None and self._met.pop(partition, None) is not None:
            self._tell(partition, None)


class LogReader:
    """Reads and follows any adapter's partitions."""

    def __init__(self, store: BatchStore, *, recheck_s: float = RECHECK_S) -> None:
        self._store = store
        self._recheck_s = recheck_s

    async def read_batches(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredBatch]]:
        """Pages of batches as they are stored, up to the tail; see `EventLog.read_to_fold`."""
        # The batch that holds `from_offset` begins at most this far before it.
        base = max(0, from_offset - MAX_BATCH_RECORDS)
        while True:
            start = base
            page = await self._store.page(partition, start)
            if page:
                last = page[-1]
                base = decode_end(last.value, Position(partition, last.base))
            at_tail = len(page) < PAGE_BATCHES and base < start + PAGE_OFFSETS
            if at_tail and base < from_offset:
                raise BeyondTail(Position(partition, from_offset), base)
            if page:
                yield page
            if at_tail:
                return

    async def read(
        self, partition: int, from_offset: int, *, stream: str | None = None
    ) -> AsyncIterator[list[StoredEvent]]:
        """See `EventLog.read`."""
        cursor = _Cursor(partition, from_offset, stream)
        at_tail = False
        while not at_tail:
            events, at_tail = await cursor.advance(self._store)
            if events:
                yield events

    async def follow_all(
        self, from_offsets: Mapping[int, int], on_damage: OnDamage | None = None
    ) -> AsyncIterator[list[StoredEvent]]:
        """See `EventLog.follow_all`."""
        cursors = {partition: _Cursor(partition, offset) for partition, offset in from_offsets.items()}
        async with aclosing(self._follow(cursors, _Damage(on_damage))) as following:
            async for _, events in following:
                if events:
                    yield events

    async def follow_types(
        self, from_offsets: Mapping[int, int], types: Collection[str], on_damage: OnDamage | None = None
    ) -> AsyncIterator[Followed]:
        """See `EventLog.follow_types`."""
        cursors = {partition: _Cursor(partition, offset, types=types) for partition, offset in from_offsets.items()}
        async with aclosing(self._follow(cursors, _Damage(on_damage))) as following:
            async for cursor, events in following:
                yield Followed(cursor.partition, cursor.expected, events)

    async def _follow(
        self, cursors: Mapping[int, _Cursor], damage: _Damage
    ) -> AsyncGenerator[tuple[_Cursor, list[StoredEvent]], None]:
        """Each step of a cursor, also one without events.

        Subscribe first, page to the tail second: whatever is committed after a page was read arrives live, because the
        page is linearizable and the subscription older. From then on each batch must continue its partition, else
        the hole is paged.
        """
        subscription = await self._store.subscribe(cursors)
        loop = asyncio.get_running_loop()
        try:
            behind = set(cursors)
            recheck_at = loop.time() + self._recheck_s
            while True:
                async for step in self._catch_up(cursors, behind, damage):
                    yield step
                failpoint("log.follow.caught-up")
                item = await subscription.next(recheck_at - loop.time())
                if item is None:
                    behind = set(cursors)
                    recheck_at = loop.time() + self._recheck_s
                    continue
                partition, batch = item
                cursor = cursors[partition]
                if not cursor.follows(batch):
                    behind = {partition}
                    continue
                try:
                    events = cursor.live(batch)
                except LogDamaged as error:
                    damage.met(partition, error)
                else:
                    yield cursor, events
        finally:
            self._store.unsubscribe(subscription)

    async def _catch_up(
        self, cursors: Mapping[int, _Cursor], behind: set[int], damage: _Damage
    ) -> AsyncIterator[tuple[_Cursor, list[StoredEvent]]]:
        """Page each partition in `behind`, in turn, until it is at the tail or damaged; waits out an unavailable
        store."""
        pause = RETRY_FIRST_S
        while behind:
            for partition in sorted(behind):
                try:
                    events, at_tail = await cursors[partition].advance(self._store)
                except LogUnavailable:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, RETRY_MOST_S)
                    continue
                except LogDamaged as error:
                    damage.met(partition, error)
                    behind.discard(partition)  # until the next look at everything
                    continue
                pause = RETRY_FIRST_S
                damage.passed(partition)
                if at_tail:
                    behind.discard(partition)
                yield cursors[partition], events
