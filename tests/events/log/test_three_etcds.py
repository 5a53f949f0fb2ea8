"""The etcd adapter keeps the contract on a cluster of three, and so does one client after its member is gone."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from tests.etcd_cluster import EtcdCluster
from tests.events.log.contract import EventLogContract, event, offsets, read_all

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three members for this module, whose network lives on a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="etcd-cluster")
    thread.start()
    kept = EtcdCluster(tmp_path_factory.mktemp("three"))
    try:
        asyncio.run_coroutine_threadsafe(kept.__aenter__(), loop).result(120)
        yield kept
    finally:
        asyncio.run_coroutine_threadsafe(kept.__aexit__(None, None, None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def settings(cluster: EtcdCluster) -> EtcdSettings:
    return cluster.settings(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
async def log(settings: EtcdSettings) -> AsyncIterator[EtcdEventLog]:
    opened = EtcdEventLog(settings)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def other_log(cluster: EtcdCluster, settings: EtcdSettings) -> AsyncIterator[EtcdEventLog]:
    """By way of another member than the first's."""
    opened = EtcdEventLog(cluster.settings(settings.namespace, only=2))
    await opened.open()
    yield opened
    await opened.close()


class TestThreeEtcds(EventLogContract):
    pass


@pytest.mark.long
async def test_a_member_that_dies_costs_no_event(cluster: EtcdCluster, log: EtcdEventLog) -> None:
    writer = await log.claim(0, "a")
    for n in range(1, 11):
        await writer.append(f"c{n}", [event("s/1", n)])
    cluster.kill(0)
    try:
        for n in range(11, 21):
            await writer.append(f"c{n}", [event("s/1", n)])
        assert offsets(await read_all(log, 0)) == list(range(20))
    finally:
        cluster.start(0)
        await cluster.answers()
