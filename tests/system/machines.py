"""A platform on several machines, each a network namespace. Needs root.

Knows how the machines come to be, join, crash and are cut off; nothing of what a test does with them.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.etcd_cluster import EtcdCluster
from tests.etcd_network import LocalNetwork, NamespaceNetwork
from tests.ray_cluster import RayCluster
from tests.system.platform import Platform

MARKS = [
    pytest.mark.system,
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root and Debian's iproute2"
    ),
]
CONFIG = """
bind = "{here}"
ray_address = "{ray}"
partitions = 8
node_lost_seconds = 3
[etcd]
endpoints = ["{etcd}"]
"""


class Machines:
    """Two machines beside the one where the platform is started."""

    def __init__(self, network: NamespaceNetwork, cluster: RayCluster) -> None:
        self.network = network
        self.cluster = cluster

    def join(self, number: int) -> None:
        self.cluster.add(self.name(number), self.network.host(number), self.network.run_in(number))

    @staticmethod
    def name(number: int) -> str:
        return f"m{number}"

    def crash(self, number: int) -> None:
        """Every process of it ends at once, as when its power fails."""
        for process in self.processes(number):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self, number: int) -> list[psutil.Process]:
        """All that runs on it."""
        space = self.network.run_in(number)[-1]
        told = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=True)
        return [psutil.Process(int(pid)) for pid in told.stdout.split() if psutil.pid_exists(int(pid))]


@contextmanager
def network_of(machines: int) -> Iterator[NamespaceNetwork]:
    network = NamespaceNetwork()
    asyncio.run(network.open(machines))
    try:
        yield network
    finally:
        asyncio.run(network.close())


@contextmanager
def house_of_three() -> Iterator[tuple[Platform, Machines]]:
    """A platform on a Ray cluster and an etcd in this namespace, and two machines that have not joined yet."""
    base = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    base.chmod(0o711)
    platform = Platform(base / "data")
    with network_of(2) as network:
        # etcd runs where the platform is started, on the bridge, so that every machine reaches it.
        etcd = EtcdCluster(base / "etcd", network=LocalNetwork(network.here), members=1)
        cluster = RayCluster(base, network.here)
        machines = Machines(network, cluster)
        try:
            asyncio.run(etcd.__aenter__())
            cluster.start_head()
            platform.data.mkdir()
            config = CONFIG.format(here=network.here, ray=cluster.address, etcd=etcd.endpoint(0))
            (platform.data / "config.toml").write_text(config)
            platform.host = network.here
            platform.up(environment=cluster.environment)
            yield platform, machines
        finally:
            for number in range(2):
                asyncio.run(network.heal(number))
            if (platform.data / "platform.json").exists():
                platform.down(environment=cluster.environment)
            for number in range(2):
                machines.crash(number)
            cluster.stop()
            asyncio.run(etcd.__aexit__())
    shutil.rmtree(base)


def status_of(platform: Platform) -> dict[str, str]:
    return {node["name"]: node["status"] for node in platform.get("/v1/nodes")["items"]}
