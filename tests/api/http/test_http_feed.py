"""The live feed: whoever joins, whenever, however slow, gets every event once and in each partition's order."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from api.http.feed import Feed, Subscriber, format_cursor, parse_cursor
from events.log.errors import BeyondTail, LogUnavailable
from events.log.memory import MemoryEventLog
from events.log.port import PartitionWriter
from events.log.records import EventRecord, Position, StoredEvent
from events.model.registry import encode_event
from events.model.team import TeamCreated

PARTITIONS = 3


class Writing:
    """A log and the writers of all its partitions."""

    def __init__(self, log: MemoryEventLog, writers: list[PartitionWriter]) -> None:
        self.log = log
        self.writers = writers
        self.count = 0

    async def append(self, partition: int, *, at: int = 0) -> None:
        self.count += 1
        stream = f"team/t{self.count}"
        record = EventRecord(
            stream=stream,
            version=1,
            type="TeamCreated",
            schema_version=1,
            event_id=f"{stream}@1",
            at=at or self.count,
            command_id=f"c{self.count}",
            correlation_id="",
            causation_id="",
            actor="",
            reason="",
            traceparent="",
            body=encode_event(TeamCreated(name=f"t{self.count}")),
        )
        await self.writers[partition].append(f"c{self.count}", [record])


@pytest.fixture
async def writing() -> AsyncIterator[Writing]:
    log = MemoryEventLog(partitions=PARTITIONS)
    await log.open()
    yield Writing(log, [await log.claim(p, "w") for p in range(PARTITIONS)])
    await log.close()


async def _take(feed: Feed, cursor: dict[int, int], count: int, pause: float = 0.0) -> list[StoredEvent]:
    found: list[StoredEvent] = []
    async with asyncio.timeout(20), aclosing(feed.follow(cursor)) as following:
        async for event in following:
            if event is not None:
                found.append(event)
                await asyncio.sleep(pause)
            if len(found) == count:
                break
    return found


def _all_once(found: list[StoredEvent], count: int) -> bool:
    """Every event of the log once, each partition in its order."""
    places = [event.position for event in found]
    in_order = all(
        [p.offset for p in places if p.partition == partition]
        == list(range(sum(p.partition == partition for p in places)))
        for partition in range(PARTITIONS)
    )
    return len(set(places)) == len(places) == count and in_order


@pytest.mark.parametrize("capacity", [1, 3, 2048])
async def test_fast_slow_and_late_clients_all_get_everything_once(writing: Writing, capacity: int) -> None:
    feed, total, chance = Feed(writing.log, capacity), 300, random.Random(capacity)
    running = asyncio.create_task(feed.run())
    clients = [asyncio.create_task(_take(feed, dict.fromkeys(range(PARTITIONS), 0), total, p)) for p in (0.0, 0.001)]
    for number in range(total):
        await writing.append(chance.randrange(PARTITIONS))
        if number == total // 2:
            clients.append(asyncio.create_task(_take(feed, dict.fromkeys(range(PARTITIONS), 0), total)))
    for found in await asyncio.gather(*clients):
        assert _all_once(found, total)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert feed.clients == 0


async def test_the_log_is_read_while_somebody_listens_and_again_for_the_next_one(writing: Writing) -> None:
    feed = Feed(writing.log)
    running = asyncio.create_task(feed.run())
    for round_ in range(3):
        await writing.append(0)  # nobody listens
        client = asyncio.create_task(_take(feed, dict.fromkeys(range(PARTITIONS), 0), 3 * (round_ + 1)))
        await writing.append(1)
        await writing.append(2)
        assert _all_once(await client, 3 * (round_ + 1))
    await writing.append(0)
    async with asyncio.timeout(5):
        while feed.following:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_log_that_was_away_costs_delay_and_no_event(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.http.feed.RESTART_SECONDS", 0.01)
    feed = Feed(writing.log)
    real, failures = writing.log.tail, iter(range(3))

    async def failing(partition: int) -> int:
        if next(failures, None) is not None:
            raise LogUnavailable("away")
        return await real(partition)

    monkeypatch.setattr(writing.log, "tail", failing)
    running = asyncio.create_task(feed.run())
    client = asyncio.create_task(_take(feed, dict.fromkeys(range(PARTITIONS), 0), 20))
    for number in range(20):
        await writing.append(number % PARTITIONS)
    assert _all_once(await client, 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_pages_are_in_time_order_between_partitions(writing: Writing) -> None:
    for at, partition in ((5, 0), (1, 1), (3, 2), (9, 0), (7, 1)):
        await writing.append(partition, at=at)
    feed = Feed(writing.log)
    times = [event.record.at async for event in feed.page({0: 0, 1: 0, 2: 0})]

    assert times == [1, 3, 5, 7, 9]
    assert [e.record.at async for e in feed.page({0: 1, 1: 2})] == [9]
    with pytest.raises(BeyondTail):
        [e async for e in feed.page({0: 99})]


async def test_an_offset_is_found_by_time(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.http.feed.STRIDE", 4)
    monkeypatch.setattr("api.http.feed.SKEW_MICROS", 0)
    for number in range(100):
        await writing.append(0, at=1000 + number)
    feed = Feed(writing.log)
    for at in (0, 1000, 1050, 1099, 5000):
        offset = await feed.offset_at(0, at)
        first = min(max(at - 1000, 0), 100)
        assert first - 4 <= offset <= first
    assert (await feed.event_at(Position(0, 42))) is not None
    assert (await feed.event_at(Position(0, 100))) is None
    assert await feed.offset_at(1, 1000) == 0


def test_cursors_are_read_as_they_are_written() -> None:
    assert parse_cursor(format_cursor({0: 4, 2: 7}, 3), 3) == {0: 4, 1: 0, 2: 7}
    for bad in ("", "1.2", "1.2.3.4", "1.x.3", "1.-2.3", "1.2.9999999999999999999", "１.2.3"):
        with pytest.raises(ValueError, match="expected a cursor"):
            parse_cursor(bad, 3)


async def test_a_full_queue_is_emptied_and_says_so(writing: Writing) -> None:
    for _ in range(5):
        await writing.append(0)
    events = [event async for batch in writing.log.read(0, 0) for event in batch]
    subscriber = Subscriber(3)
    subscriber.offer(events[:2])
    assert await subscriber.take(1) == (events[:2], False)
    subscriber.offer(events)
    assert await subscriber.take(1) == ([], True)
    assert await subscriber.take(0.01) == ([], False)
