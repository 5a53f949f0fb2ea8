"""A whole platform in this process behind the real HTTP server: the real supervisor and effects over a memory log, the
real projector on SQLite, the real log server. Only the world's hands (nodes, builders, gateways) do as told."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from actors.builder.slots import NodeSlots
from actors.builder.worker import BuildWorker
from actors.logs.client import LogClient
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.supervisor.effects import Effects
from actors.supervisor.supervisor import Supervisor
from api.http.app import create_app, serve
from api.http.services import Services
from events.log.memory import MemoryEventLog, MemoryStore
from events.secrets.keyring import Keyring
from events.secrets.master import ensure_master_file
from events.secrets.table import MemoryKeyTable
from projections.database import Database
from projections.projector import Projector
from tests.api.http.world import PARTITIONS, Parts, World
from tests.events.log.filled import MemorySource

ADMIN = "rfa_" + "0123456789abcdef" * 4
MIB = 1024 * 1024
DEADLINE_S = 20.0


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer; `json` is None where it is none."""

    status: int
    json: Any
    headers: dict[str, str]
    text: str


class House:
    """The running platform and a client of it."""

    def __init__(self, *, url: str, session: aiohttp.ClientSession, world: World, parts: Parts, data: Path) -> None:
        self.url = url
        self.session = session
        self.world = world
        self.parts = parts
        self.data = data
        self.log: MemoryEventLog
        self.store: MemoryStore
        self.logs: LogClient
        self.stop_server: Callable[[], Awaitable[None]]

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = ADMIN,
        data: Any = None,
        **headers: str,
    ) -> Answer:
        """Header names are given with _ for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None:
            data = msgspec.json.encode(body)
            sent.setdefault("Content-Type", "application/json")
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=sent) as response:
            text = await response.text()
            json = msgspec.json.decode(text) if response.content_type.endswith("json") and text else None
            answer = Answer(
                status=response.status,
                json=json,
                headers={k.lower(): v for k, v in response.headers.items()},
                text=text,
            )
        if answer.status >= 400 and method != "HEAD":
            assert response.content_type == "application/problem+json", text[:500]
            assert {"code", "request_id", "detail", "status", "title"} <= answer.json.keys()
            assert "Traceback" not in text
            assert 'File "' not in text
        return answer

    async def get(self, path: str, *, token: str | None = ADMIN, **headers: str) -> Answer:
        return await self.call("GET", path, token=token, **headers)

    async def post(self, path: str, body: object = None, *, token: str | None = ADMIN, **headers: str) -> Answer:
        return await self.call("POST", path, {} if body is None else body, token=token, **headers)

    async def team(self, name: str) -> str:
        """Make a team; returns its token."""
        made = await self.post("/v1/teams", {"name": name})
        assert made.status == 201, made.text
        await self.settled(made.json["position"])
        return str(made.json["token"])

    async def settled(self, position: str) -> None:
        """Wait until the read models have seen a position."""
        found = await self.get(f"/v1/teams?min_position={position}")
        assert found.status == 200, found.text

    async def deploy(self, path: str, *, ref: str = "main", token: str = ADMIN, **headers: str) -> Answer:
        source = {"kind": "git", "url": "https://example.com/shop.git", "ref": ref}
        return await self.post(path + "/deploys", {"source": source}, token=token, **headers)

    async def until(self, path: str, holds: Callable[[Any], bool], *, token: str = ADMIN) -> Any:
        """Ask again until the answer's JSON satisfies `holds`; fails after 20 s."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            answer = await self.get(path, token=token)
            if answer.status == 200 and holds(answer.json):
                return answer.json
            assert time.monotonic() < deadline, f"{path} stayed {answer.status} {answer.text[:2000]}"
            await asyncio.sleep(0.01)

    async def gone(self, path: str) -> None:
        """Ask again until it is a 404."""
        deadline = time.monotonic() + DEADLINE_S
        while (await self.get(path)).status != 404:
            assert time.monotonic() < deadline, f"{path} is still there"
            await asyncio.sleep(0.01)

    async def ended(self, operation: str) -> Any:
        """The operation once it has ended."""
        return await self.until(f"/v1/operations/{operation}", lambda o: o["status"] != "running")

    async def sse(self, path: str, *, token: str = ADMIN, **headers: str) -> AsyncIterator[dict[str, str]]:
        """Server-sent events as dicts of id, event, data; comments as {"comment": …}."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        async with self.session.get(self.url + path, headers=sent) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            fields: dict[str, str] = {}
            async for raw in response.content:
                line = raw.decode().rstrip("\n")
                if line.startswith(":"):
                    fields["comment"] = line[1:].strip()
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    yield fields
                    fields = {}

    async def collect(
        self, path: str, enough: Callable[[list[dict[str, str]]], bool], **headers: str
    ) -> list[dict[str, str]]:
        """Events until there are enough or the stream ends."""
        found: list[dict[str, str]] = []
        async with asyncio.timeout(DEADLINE_S), aclosing(self.sse(path, **headers)) as stream:  # type: ignore[type-var]
            async for event in stream:
                found.append(event)
                if enough(found):
                    break
        return found


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """The platform with a team `default` that has nothing yet."""
    store = MemoryStore(PARTITIONS)
    log, world, parts = MemoryEventLog(partitions=PARTITIONS, store=store), World(), Parts()
    await log.open()
    supervisor = Supervisor(name="s1", event_log=log, nodes=world)
    world.supervisor = supervisor
    ensure_master_file(tmp_path / "master.key")
    keyring = Keyring(table=MemoryKeyTable(), master_file=tmp_path / "master.key")
    supervisor.use(Effects(commands=supervisor, nodes=world, builders=world, gateways=world, keys=keyring))
    await supervisor.assign(range(PARTITIONS))
    await world.queue.open()
    worker = BuildWorker(
        name="builder-0",
        queue=world.queue,
        commands=supervisor,
        build=world.build,
        slots=NodeSlots(tmp_path / "slots", 8),
    )
    building = asyncio.create_task(worker.run())
    database = Database(f"sqlite:///{tmp_path / 'sql' / 'rayfold.db'}")
    await asyncio.to_thread(database.migrate)
    projector = Projector(database, log)
    projecting = asyncio.create_task(projector.run())
    lines, server = await _log_server(tmp_path)
    services = Services(
        commands=supervisor,
        log=log,
        stored=MemorySource(store),
        database=database,
        logs=lines,
        keyring=keyring,
        master_key_file=tmp_path / "master.key",
        platform=parts,
        queue=world.queue,
        uploads=tmp_path / "uploads",
        artifacts=tmp_path / "artifacts",
        repositories=tmp_path / "git",
        admin_token=ADMIN,
        gateway_port=lambda: 8080,
        version="0.1.0",
        upload_bytes=2 * MIB,
    )
    runner, port = await serve(create_app(services), "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            running = House(url=f"http://127.0.0.1:{port}", session=session, world=world, parts=parts, data=tmp_path)
            running.log, running.store, running.logs, running.stop_server = log, store, lines, runner.cleanup
            await running.team("default")
            yield running
    finally:
        await runner.cleanup()
        projecting.cancel()
        building.cancel()
        await asyncio.gather(projecting, building, *world.tasks, return_exceptions=True)
        await projector.close()
        await supervisor.close()
        await lines.aclose()
        await server.aclose()
        await log.close()
        database.close()


async def _log_server(tmp_path: Path) -> tuple[LogClient, EventlogServer]:
    store = LogStore(tmp_path / "logs")
    await store.start()
    server = EventlogServer(store, "a-token-of-the-log-server", port_file=tmp_path / "eventlog.addr")
    await server.start()
    return LogClient(tmp_path / "eventlog.addr", "a-token-of-the-log-server"), server
