"""Who follows several partitions goes on with the others where one is damaged, and with it once it is mended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from events.log.errors import CorruptBatch, LogDamaged
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.port import Followed
from events.log.reader import LogReader
from events.log.records import Position
from tests.events.log.contract import event
from tests.events.log.flipped import flip

BATCHES = 4
DAMAGED, WHOLE = 0, 1


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    """Two partitions of four batches of one event each."""
    store = MemoryStore(2)
    log = MemoryEventLog(partitions=2, store=store)
    await log.open()
    for partition in (DAMAGED, WHOLE):
        writer = await log.claim(partition, "owner")
        for number in range(BATCHES):
            await writer.append(f"c{partition}-{number}", [event(f"thing/{partition}", number + 1)])
        await writer.release()
    yield store
    await log.close()


async def test_the_others_go_on_and_so_does_it_once_it_is_mended(store: MemoryStore) -> None:
    flip(store, DAMAGED, 2)
    told: list[tuple[int, LogDamaged | None]] = []
    seen: list[tuple[int, int]] = []

    def mend(partition: int, damage: LogDamaged | None) -> None:
        told.append((partition, damage))
        if damage is not None:
            assert sorted(seen) == [(DAMAGED, 0), (DAMAGED, 1), *((WHOLE, n) for n in range(len(seen) - 2))]
            flip(store, DAMAGED, 2)

    following = LogReader(store, recheck_s=0.05).follow_all({DAMAGED: 0, WHOLE: 0}, mend)
    async with asyncio.timeout(10), aclosing(following) as events:  # type: ignore[type-var]
        async for part in events:
            seen += [(e.position.partition, e.position.offset) for e in part]
            if len(seen) == 2 * BATCHES:
                break
    [(partition, damage), mended] = told
    assert partition == DAMAGED and damage is not None and damage.position == Position(DAMAGED, 2)
    assert mended == (DAMAGED, None)
    assert seen[-2:] == [(DAMAGED, 2), (DAMAGED, 3)], "nothing is missed and nothing comes twice"


async def test_so_does_who_follows_some_types(store: MemoryStore) -> None:
    flip(store, DAMAGED, 2)
    told: list[int] = []
    reader = LogReader(store, recheck_s=0.05)
    wanted = {event("thing/1", 1).type}
    ends: dict[int, int] = {}
    following = reader.follow_types({DAMAGED: 0, WHOLE: 0}, wanted, lambda partition, _: told.append(partition))
    async with asyncio.timeout(10), aclosing(following) as steps:  # type: ignore[type-var]
        step: Followed
        async for step in steps:
            ends[step.partition] = step.end
            if ends.get(WHOLE) == BATCHES and told:
                break
    assert (ends, told) == ({DAMAGED: 2, WHOLE: BATCHES}, [DAMAGED])


async def test_without_anybody_to_tell_it_is_raised(store: MemoryStore) -> None:
    flip(store, DAMAGED, 2)
    with pytest.raises(CorruptBatch, match="0:2"):
        async with asyncio.timeout(10):
            async for _ in LogReader(store).follow_all({DAMAGED: 0, WHOLE: 0}):
                pass
