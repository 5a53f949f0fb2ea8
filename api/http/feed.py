"""The log's live events, fanned out: one follower for the whole process, a bounded queue for each client.

A client that is slow or joins late reads the log by itself from its cursor; nothing is missed and nothing comes twice.
Knows nothing of HTTP or of what events mean.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import cast

import structlog

from events.log.errors import LogDamaged, LogError
from events.log.port import EventLog, OnDamage
from events.log.records import Position, StoredEvent

log = structlog.get_logger("api.feed")

QUEUE_EVENTS = 2048  # per client; beyond that it reads from the log
RESTART_SECONDS = 1.0
SILENCE_SECONDS = 10.0  # between heartbeats
STRIDE = 2048  # events; nearer than this a search by time reads on
SKEW_MICROS = 60_000_000  # how far owners' clocks may be apart

Cursor = dict[int, int]
"""{partition: the next offset to see}."""


def format_cursor(cursor: Mapping[int, int], partitions: int) -> str:
    """`o0.o1.….oP-1`: for each partition the offset of the next event. It is a server-sent event's id."""
    return ".".join(str(cursor.get(partition, 0)) for partition in range(partitions))


def parse_cursor(text: str, partitions: int) -> Cursor:
    """Read `o0.o1.….oP-1`; raises ValueError saying what was expected."""
    parts = text.split(".")
    if len(parts) != partitions or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
        raise ValueError(f"expected a cursor of {partitions} offsets with dots between, found {text[:80]!r}")
    return {partition: int(part) for partition, part in enumerate(parts)}


class Subscriber:
    """One client's queue. Overflow empties it: the client then reads what it missed from the log."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[StoredEvent] = deque()
        self._lagged = False
        self._wake = asyncio.Event()

    def offer(self, events: Iterable[StoredEvent]) -> None:
        """Live events arrived; never blocks."""
        if self._lagged:
            return
        self._items.extend(events)
        if len(self._items) > self._capacity:
            self.lag()
        self._wake.set()

    def lag(self) -> None:
        """Something may have been missed."""
        self._items.clear()
        self._lagged = True
        self._wake.set()

    async def take(self, timeout_s: float) -> tuple[list[StoredEvent], bool]:
        """What came, and whether something was missed; ([], False) after the timeout."""
        if not self._items and not self._lagged:
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return [], False
        events, lagged = list(self._items), self._lagged
        self._items.clear()
        self._lagged = False
        return events, lagged


class Feed:
    """The one follower. `run` must be kept running while clients follow."""

    def __init__(
        self,
        event_log: EventLog,
        capacity: int = QUEUE_EVENTS,
        on_damage: OnDamage = lambda partition, error: None,
    ) -> None:
        self._log = event_log
        self._on_damage = on_damage
        self._capacity = capacity
        self._subscribers: set[Subscriber] = set()
        self._wanted = asyncio.Event()

    @property
    def partitions(self) -> int:
        return self._log.partitions

    @property
    def clients(self) -> int:
        """How many follow now."""
        return len(self._subscribers)

    @property
    def following(self) -> bool:
        """Whether the log is read for somebody; for one append more after the last one left."""
        return self._wanted.is_set()

    async def run(self) -> None:
        """Follow every partition from its tail on while somebody listens, for ever; begins anew after an error of the
        log."""
        while True:
            await self._wanted.wait()
            try:
                tails = await self.tails()
                following = cast(
                    "AsyncGenerator[list[StoredEvent], None]", self._log.follow_all(tails, self._on_damage)
                )
                async with aclosing(following):
                    # Whoever joined before the tails were read may have missed what came in between.
                    self._lag_all()
                    async for events in following:
                        for subscriber in self._subscribers:
                            subscriber.offer(events)
                        if not self._subscribers:
                            self._wanted.clear()  # to read the log for nobody takes as much as to answer requests
                            break
            except LogError as error:
                log.warning("the live feed lost the log, begins anew", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(RESTART_SECONDS)

    def _lag_all(self) -> None:
        for subscriber in self._subscribers:
            subscriber.lag()

    async def tails(self) -> Cursor:
        """The tail of every partition."""
        found = await asyncio.gather(*(self._log.tail(partition) for partition in range(self.partitions)))
        return dict(enumerate(found))

    async def offset_at(self, partition: int, at: int) -> int:
        """An offset from which on every event of time `at` (microseconds UTC) and later lies; found by halving.

        Owners' clocks may differ, so it begins a little earlier: who reads on drops what is older.
        """
        low, high = 0, await self._log.tail(partition)
        while high - low > STRIDE:
            middle = (low + high) // 2
            event = await self.event_at(Position(partition, middle))
            if event is not None and event.record.at < at - SKEW_MICROS:
                low = middle
            else:
                high = middle
        return low

    async def event_at(self, position: Position) -> StoredEvent | None:
        """The event at a position; None at the tail."""
        async with aclosing(_flat(self._log, position.partition, position.offset)) as reader:
            return await anext(reader, None)

    async def page(self, cursor: Cursor, on_damage: OnDamage | None = None) -> AsyncGenerator[StoredEvent, None]:
        """From `cursor` to the tails: in order within a partition, and by time between partitions. With `on_damage` one
        that is damaged ends there; without it LogDamaged is raised."""
        heads: list[tuple[int, int, int, StoredEvent]] = []
        readers = {partition: _flat(self._log, partition, offset) for partition, offset in cursor.items()}

        async def push(partition: int) -> None:
            try:
                await _push(heads, partition, readers[partition])
            except LogDamaged as error:
                if on_damage is None:
                    raise
                on_damage(partition, error)

        try:
            for partition in readers:
                await push(partition)
            while heads:
                _, partition, _, event = heapq.heappop(heads)
                yield event
                await push(partition)
        finally:
            for reader in readers.values():
                await reader.aclose()

    async def follow(
        self, cursor: Cursor, on_damage: OnDamage = lambda partition, error: None
    ) -> AsyncGenerator[StoredEvent | None, None]:
        """From `cursor` on, for ever. A None says: nothing more now (once caught up, then at each heartbeat).

        The caller's `cursor` is advanced past every event before it is handed out. A partition that is damaged is told
        once and stands still, as its `cursor` does; the others go on.
        """
        still: set[int] = set()

        def stands(partition: int, error: LogDamaged | None) -> None:
            self._on_damage(partition, error)
            if partition not in still:
                still.add(partition)
                on_damage(partition, error)

        subscriber = Subscriber(self._capacity)
        self._subscribers.add(subscriber)
        self._wanted.set()
        try:
            behind = True
            while True:
                if behind:
                    moving = {partition: at for partition, at in cursor.items() if partition not in still}
                    async with aclosing(self.page(moving, stands)) as paged:
                        async for event in paged:
                            _advance(cursor, event.position)
                            yield event
                    yield None
                events, behind = await subscriber.take(SILENCE_SECONDS)
                if not events and not behind:
                    yield None
                for event in events:
                    expected = cursor.get(event.position.partition)
                    if expected is None or event.position.offset < expected or event.position.partition in still:
                        continue
                    if event.position.offset > expected:
                        behind = True
                        break
                    _advance(cursor, event.position)
                    yield event
        finally:
            self._subscribers.discard(subscriber)


def _advance(cursor: Cursor, position: Position) -> None:
    cursor[position.partition] = position.offset + 1


async def _flat(event_log: EventLog, partition: int, offset: int) -> AsyncGenerator[StoredEvent, None]:
    async for events in event_log.read(partition, offset):
        for event in events:
            yield event


async def _push(
    heads: list[tuple[int, int, int, StoredEvent]], partition: int, reader: AsyncGenerator[StoredEvent, None]
) -> None:
    event = await anext(reader, None)
    if event is not None:
        heapq.heappush(heads, (event.record.at, partition, event.position.offset, event))
