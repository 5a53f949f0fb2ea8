"""The gateway's actor is asked to go and dies at every line of it: what follows comes to the same end. Real Envoy and
etcd, the actor in a process of its own, without Ray."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from actors.cluster.links import gateway_prefix
from actors.cluster.settings import PlatformSettings
from actors.gateway.envoy import EnvoyProcess, EnvoySettings
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[3]
NAME = "gateway-at-m1"
SECONDS = 60.0
ACTOR = """
import asyncio, os, sys
from actors.gateway.actor import GatewayNode

async def main():
    actor = GatewayNode(sys.argv[1], sys.argv[2].encode())
    for ask in sys.argv[3:]:
        if ask == "wait":
            print("waiting", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        elif ask == "drain":
            while not await actor.drain():
                pass
            print("drained", flush=True)
        else:
            health = await actor.health()
            print("going" if health.going else "staying", flush=True)
    # As Ray ends an actor. To leave the loop would free what the listening gRPC server still writes to when Envoy
    # comes again, and the interpreter then falls over it on its way out.
    os._exit(0)

asyncio.run(main())
"""


class Machine:
    """Where the actor runs: started anew again and again, as Ray does it."""

    def __init__(self, directory: Path, etcd: EtcdSettings, client: EtcdClient) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.mark = directory / "mark"
        self.settings = PlatformSettings(
            data=str(directory), run=str(directory / "run"), node_root=str(directory / "node"), node="m1", etcd=etcd,
            database_url="sqlite://", partitions=2, gateway_port=self.port, node_home=str(directory / "nodes" / "m1"),
        )  # fmt: skip
        self.settings.platform_logs.mkdir()
        self.envoy = EnvoyProcess(EnvoySettings(run_dir=self.settings.gateway_dir, log_file=self.settings.envoy_log))
        self._client = client
        self._key = gateway_prefix(etcd.namespace) + NAME

    async def started(self, *asked: str, dies_at: str = "") -> asyncio.subprocess.Process:
        environment = {**os.environ, "RAYFOLD_FAILPOINTS": f"{dies_at}=once-exit:{self.mark}" if dies_at else ""}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", ACTOR, NAME, msgspec.json.encode(self.settings).decode(), *asked,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment,
        )  # fmt: skip

    async def actor(self, *asked: str, dies_at: str = "") -> list[str]:
        """What one process of the actor says to what it is asked."""
        child = await self.started(*asked, dies_at=dies_at)
        async with asyncio.timeout(SECONDS):
            out, _ = await child.communicate()
        assert (child.returncode != 0) == bool(dies_at), "it died where it was to, and nowhere else"
        return out.decode().split()

    async def register(self) -> None:
        """As a later process of the actor does."""
        await self._client.put(self._key, b"{}")

    async def registered(self) -> bool:
        return await self._client.get(self._key) is not None

    def open(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
async def machine(directory: Path, etcd_settings: EtcdSettings) -> AsyncIterator[Machine]:
    async with EtcdClient(etcd_settings) as client:
        found = Machine(directory, etcd_settings, client)
        yield found
        await found.envoy.stop()


async def test_a_gateway_that_dies_by_itself_stays_registered_and_its_envoy_is_adopted(machine) -> None:
    assert await machine.actor("health") == ["staying"]
    pid = machine.envoy.pid
    assert pid is not None and await machine.registered()
    assert await machine.actor("health") == ["staying"]
    assert machine.envoy.pid == pid and await machine.registered()


async def test_one_that_was_asked_to_go_says_so_and_leaves_nothing(machine) -> None:
    assert await machine.actor("health", "drain", "health", "drain") == ["staying", "drained", "going", "drained"]
    assert not await machine.registered()
    assert machine.envoy.pid is None and not machine.open()


@pytest.mark.parametrize("line", ["gateway.shut", "gateway.drained", "gateway.unregistered", "gateway.left"])
async def test_whatever_line_it_dies_at_while_it_goes_the_next_one_goes_to_the_end(machine, line: str) -> None:
    assert await machine.actor("health", "drain", dies_at=line) == ["staying"]
    assert await machine.registered() == (line in ("gateway.shut", "gateway.drained"))
    assert await machine.actor("drain") == ["drained"]
    assert not await machine.registered()
    assert machine.envoy.pid is None and not machine.open()


@pytest.mark.parametrize("line", ["gateway.shut", "gateway.unregistered", "gateway.left"])
async def test_whatever_line_it_dies_at_while_it_goes_it_serves_again_if_it_is_wanted_again(
    machine, eventually, line: str
) -> None:
    assert await machine.actor("health", "drain", dies_at=line) == ["staying"]
    assert await machine.actor("health") == ["staying"]
    assert machine.envoy.pid is not None and await machine.registered()


async def test_who_dies_as_it_has_registered_is_followed_by_one_that_serves(machine) -> None:
    assert await machine.actor("health", dies_at="gateway.registered") == []
    assert await machine.registered()
    assert await machine.actor("health") == ["staying"]


async def test_one_that_goes_late_takes_nobody_off_the_register_who_came_after_it(machine) -> None:
    child = await machine.started("health", "wait", "drain")
    async with asyncio.timeout(SECONDS):
        while b"waiting" not in await child.stdout.readline():
            assert child.returncode is None
        await machine.register()
        out, _ = await child.communicate(b"\n")
    assert out.split() == [b"drained"]
    assert await machine.registered()
