"""ApiServer: the Ray actor that serves the HTTP interface. Holds no state; only wires the app to the platform."""

import asyncio
from collections.abc import Sequence

import grpc.aio
import structlog

from actors.archiver import ARCHIVER, LogReport
from actors.builder.retention import SWEEPER, Swept
from actors.cluster.directory import ActorUnreachable, Directory
from actors.cluster.event_log import make_event_log
from actors.cluster.pools import RECONCILER
from actors.cluster.rates import Rate
from actors.cluster.router import make_router
from actors.cluster.shell import WORK, ActorShell, Health
from actors.cluster.sizes import PoolReport
from actors.logs.client import LogClient
from api import VERSION
from api.grpc.server import STOP_SECONDS, serve_queue
from api.http.app import CONTEXT, create_app, end_gently, requests_of, serve
from api.http.schema_platform import CheckView
from api.http.services import PlatformAway, Services
from events.log.archive.manifest import SegmentManifest
from events.log.backup.source import EtcdLogSource
from events.log.blobs import open_blobs
from events.log.etcd_log import LogLayout
from events.model.parked import ParkedState
from events.queue.etcd_queue import EtcdTaskQueue
from events.secrets.keyring import Keyring
from events.secrets.table import EtcdKeyTable
from projections.database import Database
from projections.errors import CheckpointMoved, UnknownProjection

log = structlog.get_logger("api")

REBUILD_SECONDS = 600.0
ARCHIVE_SECONDS = 600.0
SWEEP_SECONDS = 60.0
REPORT_SECONDS = 30.0  # the first report after a start reads every hot batch


class ClusterPlatform:
    """What the API asks of the platform, answered by the reconciler and the projector."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def checks(self) -> Sequence[CheckView]:
        """One check for each actor, and one for the reconciler itself."""
        try:
            report: list[Health] = await self._directory.call(RECONCILER, "report")
        except ActorUnreachable as error:
            fix = "rayfold up brings it back"
            return [CheckView(name=RECONCILER, ok=False, found=str(error), fix=fix)]
        return [_check(health) for health in report]

    async def pools(self) -> Sequence[PoolReport]:
        """Every pool, as the reconciler keeps it."""
        try:
            report: list[PoolReport] = await self._directory.call(RECONCILER, "pools")
        except ActorUnreachable as error:
            raise PlatformAway(str(error)) from error
        return report

    async def parked(self) -> Sequence[ParkedState]:
        """What each supervisor has set aside."""
        try:
            names = await self._directory.names("supervisor")
            told = await asyncio.gather(*(self._directory.call(name, "parked") for name in names))
        except ActorUnreachable as error:
            raise PlatformAway(str(error)) from error
        return [state for found in told for state in found]

    async def log_report(self) -> LogReport:
        """From the archiver, which measures it."""
        try:
            report: LogReport = await self._directory.call(ARCHIVER, "report", seconds=REPORT_SECONDS)
        except ActorUnreachable as error:
            raise PlatformAway(str(error)) from error
        return report

    async def archive_log(
        self, partitions: Sequence[int], *, everything: bool
    ) -> Sequence[tuple[int, SegmentManifest]]:
        """Have the archiver do it now."""
        try:
            made: list[tuple[int, SegmentManifest]] = await self._directory.call(
                ARCHIVER, "archive", list(partitions), everything, seconds=ARCHIVE_SECONDS
            )
        except ActorUnreachable as error:
            raise PlatformAway(str(error)) from error
        return made

    async def sweep_artifacts(self) -> Swept:
        """Have a builder do it now."""
        try:
            swept: Swept = await self._directory.call(SWEEPER, "sweep", seconds=SWEEP_SECONDS)
        except ActorUnreachable as error:
            raise PlatformAway(str(error)) from error
        return swept

    async def rebuild_projection(self, name: str) -> bool:
        """Have every projector empty a read model, as far as it folds it, and fold it again."""
        try:
            projectors = await self._directory.names("projector")
            rebuilding = (self._directory.call(p, "rebuild", name, seconds=REBUILD_SECONDS) for p in projectors)
            await asyncio.gather(*rebuilding)
        except UnknownProjection:
            return False
        except ActorUnreachable as error:
            raise PlatformAway(str(error)) from error
        return True

    async def retry_projection(self, name: str, stream: str) -> str | None:
        """Have the projector that folds the stream fold what waits in it."""
        try:
            projectors = await self._directory.names("projector")
            calls = (self._directory.call(p, "retry_parked", name, stream, seconds=REBUILD_SECONDS) for p in projectors)
            told: list[str | None] = await asyncio.gather(*calls)
        except (UnknownProjection, CheckpointMoved):
            return None
        except ActorUnreachable as error:
            raise PlatformAway(str(error)) from error
        return next((error for error in told if error is not None), None)


def _check(health: Health) -> CheckView:
    found = health.detail or ("ready" if health.ready else "away")
    waiting = not health.ready and health.pid > 0  # it answered, and says what it lacks
    return CheckView(name=health.name, ok=health.ready, found=found, fix=health.fix if waiting else "", waiting=waiting)


class ApiServer(ActorShell):
    """One of a pool."""

    async def open(self) -> None:
        """Listen on the API's port; loopback unless the platform was told otherwise."""
        settings = self.settings
        event_log = make_event_log(settings)
        await event_log.open()
        blobs = open_blobs(settings.log_settings.archive)
        directory = Directory()
        log_token = settings.log_token_file.read_text().strip()
        queue = EtcdTaskQueue(event_log.client, name=self.name)
        await queue.open()
        services = Services(
            commands=make_router(settings, event_log, directory),
            log=event_log,
            stored=EtcdLogSource(event_log.client, blobs, LogLayout(partitions=settings.partitions)),
            database=Database(settings.database_url),
            logs=LogClient(settings.eventlog_addresses, log_token, node=settings.node),
            keyring=Keyring(table=EtcdKeyTable(event_log.client), master_file=settings.master_key_file),
            master_key_file=settings.master_key_file,
            platform=ClusterPlatform(directory),
            queue=queue,
            uploads=settings.uploads,
            artifacts=settings.artifacts,
            repositories=settings.repositories,
            admin_token=settings.admin_token_file.read_text().strip(),
            gateway_port=lambda: settings.gateway_port,
            version=VERSION,
            registry=settings.containers.registry,
        )
        self._rate = Rate()
        self._queue_server: grpc.aio.Server | None = None
        self._app = create_app(services)
        self._runner, _ = await serve(self._app, settings.bind, settings.api_port, shared=True)
        try:
            gate = self._app[CONTEXT].gatekeeper.principal
            self._queue_server, _ = await serve_queue(queue, gate, settings.bind, settings.grpc_port)
        except OSError as error:
            # Whoever took the port between two starts must not keep the API from answering.
            log.error("the task queue is not served over gRPC", error=str(error))

    async def detail(self) -> str:
        return f"http://{self.settings.bind}:{self.settings.api_port}"

    async def gauges(self) -> dict[str, float]:
        """Requests per second are what the pool is scaled by."""
        answered, running = requests_of(self._app)
        rate = self._rate.of(answered)
        return {WORK: rate, "requests_per_second": rate, "requests_total": answered, "requests_running": running}

    async def drained(self) -> bool:
        """Take no new connection; those that are there end with their request, streams are cut and begin anew."""
        if self._queue_server is not None:
            await self._queue_server.stop(STOP_SECONDS)  # what open subscriptions hold is given back
        return await end_gently(self._app, self._runner)
