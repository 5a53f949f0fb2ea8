"""A real Envoy, real upstream servers and a steady load, for the gateway's tests."""

import asyncio
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from actors.gateway.gateway import Gateway, GatewaySettings
from actors.gateway.table import ComponentRouting, EndpointSpec, RouteSpec
from events.log.records import Position


class Upstream:
    """An instance of an application: answers with its name, can hold its answers back, and can crash."""

    def __init__(self, name: str, requests_per_connection: int = 0) -> None:
        self.name = name
        self.requests = 0
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self._per_connection = requests_per_connection
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> "Upstream":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def endpoint(self, state: str = "active") -> EndpointSpec:
        return EndpointSpec(instance_id=self.name, host="127.0.0.1", port=self.port, state=state)

    def crash(self) -> None:
        """Gone at once: the port refuses, every connection is reset."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        served = 0
        try:
            while not self._per_connection or served < self._per_connection:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self._answer(head, reader, writer)
                served += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        self.bodies.append(await reader.readexactly(int(fields.get("content-length", "0"))))
        self.heads.append(head.lower())
        self.requests += 1
        self.entered.set()
        if fields.get("upgrade") == "websocket":
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
            writer.write(await reader.readexactly(4))
            await writer.drain()
            return
        await self.go_on.wait()
        body = self.name.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nserver: app\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()


@dataclass
class Answer:
    status: int
    body: str
    headers: dict[str, str]


@dataclass
class Load:
    """What came back under a steady load: how many of each status (0: no answer at all) and from whom."""

    statuses: Counter[int] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)


class Site:
    """A gateway on a free port with the means to ask it."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.settings = GatewaySettings(
            run_dir=directory / "run",
            envoy_log=directory / "envoy.log",
            access_log=directory / "access.log",
            port=self.port,
            concurrency=1,
        )
        self.gateway = Gateway(self.settings)
        self.offset = 0
        self.http = aiohttp.ClientSession()

    def component(
        self,
        name: str,
        *upstreams: Upstream | EndpointSpec,
        routes: tuple[RouteSpec, ...] | None = None,
        available: bool = True,
    ) -> ComponentRouting:
        """A snapshot at the next offset of partition 0; its address is {name}.localhost unless `routes` says."""
        self.offset += 1
        return ComponentRouting(
            service_id=name,
            team="acme",
            app=name,
            component="web",
            position=Position(0, self.offset),
            routes=(RouteSpec(host=f"{name}.localhost"),) if routes is None else routes,
            endpoints=tuple(one.endpoint() if isinstance(one, Upstream) else one for one in upstreams),
            available=available,
        )

    async def drained(self, service_id: str, instance_id: str) -> None:
        """Return once nothing is in flight there, twice in a row: a worker may choose just before it hears."""
        quiet = 0
        async with asyncio.timeout(10):
            while quiet < 2:
                active = await self.gateway.active_requests({service_id: [instance_id]})
                quiet = 0 if active[instance_id] else quiet + 1
                await asyncio.sleep(0.05)

    async def serve(self, *snapshots: ComponentRouting) -> None:
        """Apply and wait until Envoy has it."""
        self.gateway.apply(snapshots)
        await self.gateway.wait_applied(snapshots[-1].position, 20)

    async def open(self, *snapshots: ComponentRouting) -> None:
        """Start, with these snapshots as the whole log."""
        await self.gateway.start()
        self.gateway.apply(snapshots)
        self.gateway.ready()
        await self.gateway.wait_applied(Position(0, self.offset), 20)

    async def ask(self, host: str, path: str = "/", method: str = "GET", **options: object) -> Answer:
        headers = {"host": host} | dict(options.pop("headers", {}))
        url = f"http://127.0.0.1:{self.port}{path}"
        timeout = aiohttp.ClientTimeout(total=15)
        async with self.http.request(method, url, headers=headers, timeout=timeout, **options) as response:
            return Answer(response.status, await response.text(), {k.lower(): v for k, v in response.headers.items()})

    async def load(self, host: str, until: asyncio.Event, per_second: int = 200, method: str = "GET") -> Load:
        """Ask steadily until told to stop; every answer is counted, also those under way at the end."""
        load = Load()

        async def one() -> None:
            try:
                answer = await self.ask(host, method=method)
            except (aiohttp.ClientError, TimeoutError):
                load.statuses[0] += 1
                return
            load.statuses[answer.status] += 1
            load.names[answer.body if answer.status == 200 else answer.headers.get("x-rayfold-error", "?")] += 1

        begin, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                while sent < (time.monotonic() - begin) * per_second:
                    group.create_task(one())
                    sent += 1
                await asyncio.sleep(1 / per_second)
        return load

    async def close(self) -> None:
        await self.gateway.stop()
        await self.http.close()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 15.0) -> None:
    """Return once the condition holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: unix socket paths have 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="rf-gw-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def site(directory: Path) -> AsyncIterator[Site]:
    site = Site(directory)
    yield site
    await site.close()


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Awaitable[None]]:
    return eventually


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[..., Awaitable[Upstream]]]:
    """Makes upstream servers, which end with the test."""
    made: list[Upstream] = []

    async def make(name: str, **options: int) -> Upstream:
        made.append(await Upstream(name, **options).start())
        return made[-1]

    yield make
    for one in made:
        one.go_on.set()
        one.crash()
