"""A log is one platform's, which has one name on Ray wherever its data directory goes; no other serves it meanwhile."""

import asyncio

import pytest

from actors.cluster.identity import Identity, OtherPlatform, identify
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings

pytestmark = pytest.mark.servers
FIRST = Identity(data="/first", ray_namespace="rayfold-1")
SECOND = Identity(data="/second", ray_namespace="rayfold-2")


async def test_the_first_to_take_a_log_keeps_its_name(etcd_settings: EtcdSettings) -> None:
    async with EtcdClient(etcd_settings) as client:
        assert await identify(client, FIRST, runs=False) == FIRST
        assert await identify(client, FIRST, runs=True) == FIRST


async def test_a_log_that_is_served_is_refused_to_another_data_directory(etcd_settings: EtcdSettings) -> None:
    async with EtcdClient(etcd_settings) as client:
        await identify(client, FIRST, runs=False)
        for other in (SECOND, Identity(data="/copy", ray_namespace=FIRST.ray_namespace)):
            with pytest.raises(OtherPlatform, match=r"the platform at /first, which is running.*down --data /first"):
                await identify(client, other, runs=True)
        assert await identify(client, FIRST, runs=True) == FIRST


async def test_a_log_at_rest_follows_its_data_directory_and_keeps_the_name(etcd_settings: EtcdSettings) -> None:
    async with EtcdClient(etcd_settings) as client:
        await identify(client, FIRST, runs=False)
        moved = await identify(client, SECOND, runs=False)
        assert moved == Identity(data="/second", ray_namespace="rayfold-1")
        assert await identify(client, moved, runs=True) == moved


async def test_two_that_start_at_once_agree_on_the_name(etcd_settings: EtcdSettings) -> None:
    async with EtcdClient(etcd_settings) as client:
        found = await asyncio.gather(*(identify(client, each, runs=False) for each in (FIRST, SECOND)))
    assert len({each.ray_namespace for each in found}) == 1
