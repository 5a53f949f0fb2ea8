"""The in-memory adapter keeps the contract."""

from collections.abc import AsyncIterator

import pytest

from events.queue.memory import MemoryTaskQueue, MemoryTopics
from tests.events.queue.contract import TaskQueueContract


@pytest.fixture
async def topics() -> MemoryTopics:
    return MemoryTopics()


@pytest.fixture
async def queue(topics: MemoryTopics) -> AsyncIterator[MemoryTaskQueue]:
    member = MemoryTaskQueue(topics)
    await member.open()
    yield member
    await member.close()


@pytest.fixture
async def other(topics: MemoryTopics) -> AsyncIterator[MemoryTaskQueue]:
    member = MemoryTaskQueue(topics)
    await member.open()
    yield member
    await member.close()


class TestMemoryTaskQueue(TaskQueueContract):
    pass
