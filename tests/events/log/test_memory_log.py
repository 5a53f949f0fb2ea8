"""The in-memory adapter keeps the contract."""

from collections.abc import AsyncIterator

import pytest

from events.log.errors import Overloaded
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.writer import WriterLimits
from tests.events.log.contract import EventLogContract, event


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(16)


@pytest.fixture
async def log(store: MemoryStore) -> AsyncIterator[MemoryEventLog]:
    opened = MemoryEventLog(store=store)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def other_log(store: MemoryStore) -> AsyncIterator[MemoryEventLog]:
    opened = MemoryEventLog(store=store)
    await opened.open()
    yield opened
    await opened.close()


class TestMemoryEventLog(EventLogContract):
    pass


async def test_a_full_queue_refuses_and_what_it_took_commits() -> None:
    log = MemoryEventLog(limits=WriterLimits(queued_commands=10))
    writer = await log.claim(0, "a")
    futures = [writer.submit(f"c{n}", [event("s/1", n)]) for n in range(1, 11)]
    with pytest.raises(Overloaded):
        writer.submit("c11", [event("s/1", 11)])
    assert [(await future).first.offset for future in futures] == list(range(10))
    assert (await writer.append("c11", [event("s/1", 11)])).first.offset == 10


async def test_the_ledger_window_is_bounded_and_rebuilt_to_the_same_bound(store: MemoryStore) -> None:
    log = MemoryEventLog(store=store, ledger_window=100)
    writer = await log.claim(0, "a")
    for n in range(1, 1001):
        await writer.append(f"c{n}", [event("s/1", n)])
    assert writer.committed("c900") is None
    assert writer.committed("c901") is not None
    successor = await log.claim(0, "a")
    assert successor.next_offset == 1000
    assert successor.committed("c900") is None
    assert successor.committed("c901") == writer.committed("c901")
