"""The three etcds that other tests build on do what their names say, by namespaces and by proxies alike."""

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from events.log.errors import LogError, LogUnavailable
from events.log.etcd_wire import Put
from tests.etcd_cluster import EtcdCluster
from tests.etcd_network import NamespaceNetwork, Network, ProxyNetwork

pytestmark = [pytest.mark.servers, pytest.mark.long]
NO_NAMESPACES = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip")


@pytest.mark.parametrize("network", [pytest.param(NamespaceNetwork, marks=NO_NAMESPACES), ProxyNetwork])
async def test_a_leader_cut_off_is_replaced_and_comes_back(tmp_path: Path, network: Callable[[], Network]) -> None:
    async with EtcdCluster(tmp_path, network=network()) as cluster:
        before = await cluster.leader()
        async with cluster.client(before) as client:
            await client.put("/k", b"1")

        await cluster.cut(before)
        after = await cluster.leader(apart_from=before)
        assert after != before
        async with cluster.client(before) as cut_off, cluster.client(after) as client:
            with pytest.raises(LogUnavailable):
                await cut_off.put("/k", b"lost")
            await client.put("/k", b"2")

        await cluster.heal(before)
        await cluster.all_agree()
        async with cluster.client(before) as client:
            found = await client.get("/k")
        assert found is not None and found.value == b"2"


@pytest.mark.parametrize("network", [pytest.param(NamespaceNetwork, marks=NO_NAMESPACES), ProxyNetwork])
async def test_clients_cut_off_from_all_cost_the_members_nothing(
    tmp_path: Path, network: Callable[[], Network]
) -> None:
    async with EtcdCluster(tmp_path, network=network()) as cluster:
        leader = await cluster.leader()
        await cluster.network.cut_clients()
        async with cluster.client(leader) as client:
            with pytest.raises(LogUnavailable):
                await client.put("/k", b"lost")
        await cluster.network.heal_clients()

        await cluster.all_agree()
        assert await cluster.leader() == leader


async def test_members_and_clusters_come_back_from_nothing(tmp_path: Path) -> None:
    async with EtcdCluster(tmp_path) as cluster:
        async with cluster.client(0) as client:
            await client.put("/k", b"1")

        await cluster.wipe(1)
        await cluster.all_agree()
        await cluster.move_leader(1)
        assert await cluster.leader() == 1
        async with cluster.client(1) as client:
            found = await client.get("/k")
        assert found is not None and found.value == b"1"

        await cluster.restore_from_snapshot()
        await cluster.all_agree()
        async with cluster.client(2) as client:
            assert await client.get("/k") == found


ROUNDS = 12
WRITERS = 12


async def _put_until(cluster: EtcdCluster, member: int, prefix: str, over: asyncio.Event) -> None:
    async with cluster.client(member) as client:
        number = 0
        while not over.is_set():
            number += 1
            with contextlib.suppress(LogError):
                await client.txn(then=[Put(f"{prefix}{number}", bytes(300))], timeout_s=1.0)


async def test_members_that_were_killed_under_load_hold_the_same(tmp_path: Path) -> None:
    """An etcd from 3.5.0 to 3.5.2 without `flags_against_loss` fails this after ten rounds or thirty."""
    dice = random.Random(3)
    async with EtcdCluster(tmp_path) as cluster:
        for number in range(ROUNDS):
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for member in cluster.members:
                    for writer in range(WRITERS):
                        group.create_task(_put_until(cluster, member, f"/{number}/{member}/{writer}/", over))
                await asyncio.sleep(dice.uniform(0.5, 1.5))
                for member in cluster.members:
                    cluster.kill(member)
                over.set()
            for member in cluster.members:
                cluster.start(member)
            await cluster.answers()
            await cluster.all_agree()
            assert len(set((await cluster.hashes()).values())) == 1
