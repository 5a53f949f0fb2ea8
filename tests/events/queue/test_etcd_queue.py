"""The etcd adapter keeps the contract, on a real etcd."""

from collections.abc import AsyncIterator

import pytest

from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.queue.etcd_queue import EtcdTaskQueue
from tests.events.queue.contract import TaskQueueContract

pytestmark = pytest.mark.servers


@pytest.fixture
async def queue(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdTaskQueue]:
    async with EtcdClient(etcd_settings) as client:
        member = EtcdTaskQueue(client, name="queue")
        await member.open()
        yield member
        await member.close()


@pytest.fixture
async def other(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdTaskQueue]:
    async with EtcdClient(etcd_settings) as client:
        member = EtcdTaskQueue(client, name="other")
        await member.open()
        yield member
        await member.close()


class TestEtcdTaskQueue(TaskQueueContract):
    pass
