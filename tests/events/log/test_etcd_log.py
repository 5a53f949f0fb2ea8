"""The etcd adapter keeps the contract, on a real etcd."""

from collections.abc import AsyncIterator

import pytest

from events.log.errors import LayoutMismatch
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from tests.events.log.contract import EventLogContract

pytestmark = pytest.mark.servers


@pytest.fixture
async def other_log(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdEventLog]:
    opened = EtcdEventLog(etcd_settings)
    await opened.open()
    yield opened
    await opened.close()


class TestEtcdEventLog(EventLogContract):
    pass


async def test_another_partition_count_is_refused(log: EtcdEventLog, etcd_settings: EtcdSettings) -> None:
    other = EtcdEventLog(etcd_settings, partitions=32)
    with pytest.raises(LayoutMismatch, match="32"):
        await other.open()
    await other.close()
