"""A whole platform in this process behind the real HTTP server: the real supervisor and effects over a memory log, the
real projector on SQLite, the real log server. Only the world's hands (nodes, builders, gateways) do as told."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from actors.archiver import LogReport
from actors.builder.orders import BUILDS, build_task
from actors.builder.retention import Swept
from actors.builder.slots import NodeSlots
from actors.builder.worker import BuildWorker
from actors.cluster.shell import Health
from actors.cluster.sizes import PoolReport
from actors.logs.client import LogClient
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.supervisor.effects import Effects
from actors.supervisor.orders import BuildOrder, Ended, Known, Started, StartOrder
from actors.supervisor.supervisor import Supervisor
from api.http.app import create_app, serve
from api.http.identity import fresh_id
from api.http.schema_platform import CheckView
from api.http.services import Services
from events.log.archive.keeper import KeeperStatus
from events.log.archive.manifest import SegmentManifest
from events.log.archive.meter import PartitionUse
from events.log.archive.space import Budget, Space
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import partition_of
from events.model.base import Envelope, partition_key
from events.model.build import Artifact, BuildStatus, FinishBuild
from events.model.component_commands import ReportExited, ReportReady
from events.model.component_parts import InstanceStatus
from events.model.parked import ParkedState
from events.model.placement import Room
from events.model.pool import PoolState
from events.model.registry import encode_command
from events.queue.memory import MemoryTaskQueue, MemoryTopics
from events.secrets.keyring import Keyring
from events.secrets.master import ensure_master_file
from events.secrets.table import MemoryKeyTable
from projections.database import Database
from projections.projector import Projector
from tests.events.log.filled import MemorySource

PARTITIONS = 4
ADMIN = "rfa_" + "0123456789abcdef" * 4
MIB = 1024 * 1024
DEADLINE_S = 20.0


class World:
    """Nodes whose instances get ready at once, builders that build when they may, gateways that have applied all."""

    def __init__(self) -> None:
        self.supervisor: Supervisor
        self.may_build = asyncio.Event()
        self.may_build.set()
        self.cancelled: set[str] = set()
        self.wake = asyncio.Event()
        self.fails = ""
        self.makes = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self.queue = MemoryTaskQueue(MemoryTopics())
        self.ordered: list[StartOrder] = []
        self.stopped: list[str] = []

    def nodes(self) -> Sequence[Room]:
        return [Room(name="n1")]

    def gone(self) -> Sequence[str]:
        return ()

    async def start(self, node: str, order: StartOrder) -> Started:
        self.ordered.append(order)
        task = asyncio.create_task(self._go_on(f"component/{order.service_id}", order))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return Started(host="127.0.0.1", port=20000, pid=1)

    async def _go_on(self, stream: str, order: StartOrder) -> None:
        """A service gets ready; a task ends at once."""
        instance = order.instance
        engine = self.supervisor.engines[partition_of(partition_key(stream), PARTITIONS)]

        def started(state: Any) -> bool:
            found = state.instances.get(instance)
            return found is None or found.status is not InstanceStatus.STARTING

        await engine.until(stream, started)
        ended = ReportExited(instance=instance, exit_code=0)
        report = encode_command(ReportReady(instance=instance) if order.kind == "service" else ended)
        await self.supervisor.submit([Envelope(stream=stream, command=report, command_id=fresh_id())])

    async def stop(self, node: str, instance: str, grace_seconds: int) -> Ended:
        self.stopped.append(instance)
        return Ended(exit_code=0)

    async def settle(self, node: str, known: Sequence[Known]) -> list[str]:
        return []

    async def tell(self, node: str, *, leaving: bool) -> None:
        self.leaving = leaving

    async def strike(self, node: str, *, gone: bool) -> None:
        self.struck = gone

    async def unknown(self, node: str, instances: Sequence[str]) -> list[str]:
        return []

    async def request(self, order: BuildOrder) -> None:
        await self.queue.publish(BUILDS, [build_task(order)])

    async def build(self, order: BuildOrder, attempt: int) -> FinishBuild:
        while not self.may_build.is_set() and order.build_id not in self.cancelled:
            self.wake.clear()
            await self.wake.wait()
        if order.build_id in self.cancelled:
            return FinishBuild(attempt=attempt, status=BuildStatus.CANCELLED, reason="cancelled by user")
        if self.fails:
            return FinishBuild(
                attempt=attempt, status=BuildStatus.FAILED, code="step_failed", reason=self.fails, lines=("boom",)
            )
        artifact = Artifact(
            digest=self.makes or f"sha256:{order.source.digest or order.source.ref}",
            size_bytes=1,
            processes={"web": "run", "worker": "work"} if order.source.ref == "two" else {"web": "run"},
            detected="Python because of requirements.txt",
        )
        return FinishBuild(attempt=attempt, status=BuildStatus.SUCCEEDED, artifact=artifact, seconds=0.1)

    def release_builds(self) -> None:
        self.may_build.set()
        self.wake.set()

    async def cancel(self, builder: str, build_id: str) -> None:
        self.cancelled.add(build_id)
        self.wake.set()

    async def wait_applied(self, partition: int, offset: int, service_id: str) -> tuple[str, ...]:
        return ("gateway-0",)

    async def active_requests(self, service_id: str, instances: Sequence[str]) -> int:
        return 0


def report_of(name: str, *, most: int = 1, measured: bool = False, per_node: bool = False) -> PoolReport:
    """A pool of one actor that runs."""
    return PoolReport(
        name=name, size=1, most=most, why_most="one is enough", measured=measured, per_node=per_node,
        state=PoolState(name=name), actors=[Health(name=f"{name}-0", pid=1, ready=True)], draining=[],
        partitions={}, moving=0, work=0.5,
    )  # fmt: skip


class Parts:
    """What the API asks of the platform beyond the log."""

    def __init__(self) -> None:
        self.ok = True
        self.rebuilt: list[str] = []
        self.swept = 0
        self.set_aside: list[ParkedState] = []
        self.archived: list[tuple[tuple[int, ...], bool]] = []

    async def checks(self) -> Sequence[CheckView]:
        return [CheckView(name="reconciler", ok=self.ok, found="here" if self.ok else "away")]

    async def pools(self) -> Sequence[PoolReport]:
        named = {"builder": {"most": 8, "measured": True}, "node": {"per_node": True}, "gateway": {"most": 2}}
        return [report_of(name, **what) for name, what in named.items()]

    async def parked(self) -> Sequence[ParkedState]:
        return self.set_aside

    async def log_report(self) -> LogReport:
        space = Space(quota_bytes=1 << 31, in_use=1 << 30, file=1 << 30, no_space=False)
        use = PartitionUse(
            partition=0, tail=900, first_hot=800, hot_batches=10, hot_bytes=5000, hot_events=100, segments=2,
            segment_bytes=40_000, snapshot_offset=850,
        )  # fmt: skip
        return LogReport(
            budget=Budget(quota_bytes=1 << 31),
            status=KeeperStatus(space=space, refusing=False, warned=False, last_archived_at=1_700_000_000_000_000),
            members=[],
            uses=[use],
            owners=[("supervisor-0", 3)],
            archive="/archive",
        )

    async def archive_log(self, partitions: Sequence[int], *, everything: bool) -> list[tuple[int, SegmentManifest]]:
        self.archived.append((tuple(partitions), everything))
        manifest = SegmentManifest(
            base=0, end=800, location="segments/00/x", sha256="ab" * 32, bytes=40_000, events=800, t_min=1, t_max=2,
            first_previous="", last_hash="cd" * 32,
        )  # fmt: skip
        return [(partition, manifest) for partition in partitions]

    async def sweep_artifacts(self) -> Swept:
        self.swept += 1
        return Swept(removed=1, removed_bytes=5)

    async def rebuild_projection(self, name: str) -> bool:
        self.rebuilt.append(name)
        return name in ("all", "teams")


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
