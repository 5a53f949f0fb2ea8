"""A platform on several machines: each a network namespace, or an address of loopback where there are no namespaces.

Knows how the machines come to be, join, crash and are cut off; nothing of what a test does with them.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from tests.etcd_cluster import EtcdCluster
from tests.etcd_network import LocalNetwork, NamespaceNetwork
from tests.ray_cluster import RayCluster
from tests.system.platform import Platform

HAS_NAMESPACES = os.geteuid() == 0 and shutil.which("ip") is not None
MARKS = [
    pytest.mark.system,
    pytest.mark.servers,
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.skipif(not HAS_NAMESPACES, reason="network namespaces need root and Debian's iproute2"),
]
MOST = 3
"""How many machines may join."""
CONFIG = """
bind = "{here}"
ray_address = "{ray}"
partitions = 8
node_lost_seconds = 3
[etcd]
endpoints = ["{etcd}"]
"""


class Places(Protocol):
    """Where machines are, numbered from 0, beside the one where the platform is started."""

    here: str
    """The address of that one."""

    def close(self) -> None: ...

    def host(self, number: int) -> str:
        """The address of a machine."""
        ...

    def within(self, number: int) -> list[str]:
        """What to put before a command, to run it there."""
        ...

    def processes(self, number: int) -> list[psutil.Process]:
        """All that runs there."""
        ...

    def cut(self, number: int) -> None:
        """From now on nothing comes from there, and nothing that goes there is answered."""
        ...

    def heal(self, number: int) -> None: ...


class Namespaces:
    """A network namespace for each; a cut takes its link down. Needs root."""

    def __init__(self, base: Path) -> None:
        self._network = NamespaceNetwork()
        asyncio.run(self._network.open(MOST))
        self.here = self._network.here

    def close(self) -> None:
        asyncio.run(self._network.close())

    def host(self, number: int) -> str:
        return self._network.host(number)

    def within(self, number: int) -> list[str]:
        return self._network.run_in(number)

    def processes(self, number: int) -> list[psutil.Process]:
        space = self._network.run_in(number)[-1]
        told = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=True)
        return [psutil.Process(int(pid)) for pid in told.stdout.split() if psutil.pid_exists(int(pid))]

    def cut(self, number: int) -> None:
        asyncio.run(self._network.cut(number))

    def heal(self, number: int) -> None:
        asyncio.run(self._network.heal(number))


class Loopbacks:
    """An address of loopback for each. A cut stops all that runs there: connections stay, and nothing is said."""

    here = "127.0.0.10"  # not .1, which Ray replaces

    def __init__(self, base: Path) -> None:
        self._base = base

    def close(self) -> None:
        pass

    def host(self, number: int) -> str:
        return f"127.0.0.{11 + number}"

    def within(self, number: int) -> list[str]:
        return ["env", self._mark(number)]

    def _mark(self, number: int) -> str:
        return f"MACHINE={self._base}/{number}"

    def processes(self, number: int) -> list[psutil.Process]:
        """Those that inherited the mark or have the machine's directory, and what they started."""
        name, _, value = self._mark(number).partition("=")
        directory = f"{self._base}/data/nodes/{Machines.name(number)}/"
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                environment = process.environ()
                told = [*process.cmdline(), *environment.values()]
                if environment.get(name) == value or any(directory in text for text in told):
                    found |= {p.pid: p for p in (process, *process.children(recursive=True))}
        return list(found.values())

    def cut(self, number: int) -> None:
        for process in self.processes(number):
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def heal(self, number: int) -> None:
        for process in self.processes(number):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def best_places(base: Path) -> Places:
    """Namespaces where this process may make them, else addresses."""
    return Namespaces(base) if HAS_NAMESPACES else Loopbacks(base)


class Machines:
    """Those beside the one where the platform is started; none has joined yet."""

    def __init__(self, places: Places, cluster: RayCluster) -> None:
        self.cluster = cluster
        self.host = places.host
        self.processes = places.processes
        self.cut = places.cut
        self.heal = places.heal
        self._within = places.within

    def join(self, number: int) -> None:
        self.cluster.add(self.name(number), self.host(number), self._within(number))

    @staticmethod
    def name(number: int) -> str:
        return f"m{number}"

    def crash(self, number: int) -> None:
        """Every process of it ends at once, as when its power fails."""
        for process in self.processes(number):
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def house_in(places_in: Callable[[Path], Places]) -> Iterator[tuple[Platform, Machines]]:
    """A platform on a Ray cluster and an etcd that all machines reach."""
    base = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    base.chmod(0o711)
    platform = Platform(base / "data")
    places = places_in(base)
    etcd = EtcdCluster(base / "etcd", network=LocalNetwork(places.here), members=1)
    cluster = RayCluster(base, places.here)
    machines = Machines(places, cluster)
    try:
        asyncio.run(etcd.__aenter__())
        cluster.start_head()
        platform.data.mkdir()
        config = CONFIG.format(here=places.here, ray=cluster.address, etcd=etcd.endpoint(0))
        (platform.data / "config.toml").write_text(config)
        platform.host = places.here
        platform.up(environment=cluster.environment)
        yield platform, machines
    finally:
        for number in range(MOST):
            machines.heal(number)
        if (platform.data / "platform.json").exists():
            platform.down(environment=cluster.environment)
        for number in range(MOST):
            machines.crash(number)
        cluster.stop()
        asyncio.run(etcd.__aexit__())
        places.close()
    shutil.rmtree(base)


def status_of(platform: Platform) -> dict[str, str]:
    return {node["name"]: node["status"] for node in platform.get("/v1/nodes")["items"]}
