"""The gateway engine: folds routing snapshots into a table, keeps Envoy in step with it, and says how far it is.

Plain asyncio. Must not know of Ray, of the event log's storage, or of what the events look like.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from actors.gateway.access_log import AccessLogFile
from actors.gateway.catalog import CDS, EDS, LDS, ROUTES, Resource
from actors.gateway.envoy import DRAIN_SECONDS, EnvoyProcess, EnvoySettings
from actors.gateway.errors import EnvoyAdminError, GatewaySettingsError, NotAppliedError
from actors.gateway.listener import LISTENER, ListenerSettings, listener
from actors.gateway.resources import cluster, endpoints, scope
from actors.gateway.rundir import RunDirectory, check_socket_path
from actors.gateway.session import Rejection
from actors.gateway.table import ComponentRouting, Conflict, RoutingTable, TableChange, normal_host
from actors.gateway.xds import XdsServer
from events.failpoints import failpoint
from events.log.records import Position

_log = structlog.get_logger(__name__)

_OPEN_POLL_SECONDS = 0.005
_LISTENER_RETRY_SECONDS = 2.0
_DRAIN_POLL_SECONDS = 0.05
_DRAIN_QUIET_POLLS = 3  # a worker may take a request from a connection it had just before it hears


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How one gateway runs.

    `run_dir` is made 0700 and must be short (its unix sockets' paths have 107 bytes); it must stay the same over
    restarts, since a running Envoy is found there. `access_log` is rotated at `access_log_bytes`, `access_log_keep`
    older files are kept. `stream_idle` (seconds) ends a connection or stream on which nothing has moved either way.
    `drain_seconds`: requests in flight have this long to end once the port is shut.
    """

    run_dir: Path
    envoy_log: Path
    access_log: Path
    bind: str = "127.0.0.1"
    port: int = 8080
    node_id: str = "gateway"
    concurrency: int = 2
    stream_idle: float = 300.0
    drain_seconds: float = DRAIN_SECONDS
    access_log_bytes: int = 64 * 1024 * 1024
    access_log_keep: int = 3
    envoy_binary: Path | None = None


class GatewayHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How the gateway is. `serving`: Envoy lives and has its listener; it may serve while `connected` is false."""

    envoy_pid: int | None
    serving: bool
    connected: bool
    ready: bool
    restarts: int
    components: int
    hosts: int
    applied: dict[int, int]
    conflicts: tuple[Conflict, ...]
    rejections: tuple[Rejection, ...]


class Gateway:
    """One Envoy and the table it serves. Start, apply until caught up with the log, `ready`, then apply as it grows."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._table = RoutingTable()
        self._envoy = EnvoyProcess(
            EnvoySettings(
                run_dir=settings.run_dir,
                log_file=settings.envoy_log,
                node_id=settings.node_id,
                concurrency=settings.concurrency,
                drain_seconds=settings.drain_seconds,
                binary=settings.envoy_binary,
            )
        )
        self._check()
        self._directory = RunDirectory(settings.run_dir)
        self._xds = XdsServer(self._envoy.xds_socket)
        self._is_ready = False
        self._doubtful: frozenset[int] = frozenset()
        self._open = False
        self._draining = False
        self._tasks: asyncio.Task[None] | None = None

    async def start(self) -> bool:
        """Listen for Envoy and have one running; True when one was adopted. Nothing is answered until `ready`.

        Raises GatewaySettingsError, EnvoyNotFoundError, EnvoyStartError.
        """
        self._directory.take()
        try:
            for file in (self._settings.envoy_log, self._settings.access_log):
                file.parent.mkdir(parents=True, exist_ok=True)
            await self._xds.start()
            self._xds.update({LDS: {LISTENER: self._listener()}})
            if self._envoy.pid is None:
                self._check_port()
            adopted = await self._envoy.ensure()
        except BaseException:
            await self._xds.stop()
            self._directory.release()
            raise
        self._tasks = asyncio.create_task(self._keep())
        self._tasks.add_done_callback(_report)
        return adopted

    async def close(self) -> None:
        """Let go: Envoy goes on serving what it has, and the next gateway adopts it."""
        if self._tasks is not None:
            self._tasks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tasks
            self._tasks = None
        await self._xds.stop()
        self._directory.release()

    async def stop(self) -> None:
        """Let go and end Envoy: nothing is served afterwards."""
        await self.close()
        await self._envoy.stop()

    async def drain(self) -> None:
        """Shut the port, and wait until nothing is in flight any more; what has not ended after `drain_seconds` Envoy
        cuts. The table is kept up meanwhile. A gateway that starts anew is to be told again: that the port is shut
        reaches Envoy over xDS as everything else does, and a gateway that is not told opens it."""
        self._draining = True
        self._xds.update({LDS: {LISTENER: None}})
        failpoint("gateway.shut")
        quiet = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                while quiet < _DRAIN_QUIET_POLLS:
                    quiet = 0 if await self._busy() else quiet + 1
                    await asyncio.sleep(_DRAIN_POLL_SECONDS)

    async def _busy(self) -> bool:
        if await _accepts(self._settings.bind, self._settings.port):
            return True
        try:
            return await self._envoy.admin.requests_in_flight(LISTENER) > 0
        except EnvoyAdminError:
            return self._envoy.pid is not None

    def apply(self, snapshots: Sequence[ComponentRouting]) -> None:
        """Fold snapshots into the table and have the differences sent. Cheaper with many in one call."""
        change = self._table.apply(snapshots)
        self._xds.update(self._resources(change))
        for snapshot in snapshots:
            self._xds.advance(snapshot.position.partition, snapshot.position.offset)

    def remove(self, service_id: str, position: Position) -> None:
        """Forget a component, by the event at `position`."""
        self._xds.update(self._resources(self._table.remove(service_id)))
        self.advance(position.partition, position.offset)

    def advance(self, partition: int, offset: int) -> None:
        """Note events that do not concern routing, so that waiting for their positions ends as well."""
        self._table.advance(partition, offset)
        self._xds.advance(partition, offset)

    def ready(self, doubtful: Collection[int] = ()) -> None:
        """The table has caught up with the log: from now on Envoy is answered.

        Of `doubtful` partitions it could not read everything. What an adopted Envoy holds of their components, or
        beyond the table, is newer than the table or all there is: it is left as it is.
        """
        self._is_ready = True
        self._doubtful = frozenset(doubtful)
        if self._doubtful:
            routings = (self._table.component(service_id) for service_id in self._table.services)
            of_them = [r for r in routings if r is not None and r.position.partition in self._doubtful]
            hosts = {normal_host(spec.host) for routing in of_them for spec in routing.routes}
            self._xds.leave(frozenset(hosts | {routing.service_id for routing in of_them}))
        self._xds.ready()

    @property
    def is_ready(self) -> bool:
        """Whether Envoy is answered."""
        return self._is_ready

    def doubts(self, partition: int) -> bool:
        """Whether the table had not all of this partition when it was `ready`."""
        return partition in self._doubtful

    def applied(self) -> dict[int, int]:
        """Offset by partition up to which Envoy holds everything; what it refused is in `rejections` instead."""
        return self._xds.applied

    def rejections(self) -> tuple[Rejection, ...]:
        """What Envoy refused, with its words; gone when a later version is taken."""
        return self._xds.rejections()

    async def wait_applied(self, position: Position, timeout: float, service_id: str | None = None) -> None:
        """Return once Envoy has applied `position`.

        Raises NotAppliedError after `timeout` seconds, and RejectedByEnvoyError if Envoy cannot listen, or has refused
        endpoints or a host of the component whose snapshot has this position, or of `service_id`.
        """
        try:
            await self._xds.wait_applied(position, timeout)
        except NotAppliedError:
            self._xds.raise_rejected(frozenset({LISTENER}))
            raise
        await self._wait_open(timeout)
        if self._xds.rejections():
            self._xds.raise_rejected(self._resource_names(position, service_id))

    def _resource_names(self, position: Position, service_id: str | None) -> frozenset[str]:
        """What Envoy calls the component of this position or id, and its hosts."""
        names: set[str] = set()
        for known in self._table.services:
            routing = self._table.component(known)
            if routing is not None and (known == service_id or routing.position == position):
                names |= {known} | {normal_host(spec.host) for spec in routing.routes}
        return frozenset(names)

    async def _wait_open(self, timeout: float) -> None:
        """Envoy acknowledges its first routes some milliseconds before its workers accept connections."""
        if self._open or self._draining:
            return
        try:
            async with asyncio.timeout(timeout):
                while not await _accepts(self._settings.bind, self._settings.port):  # noqa: ASYNC110
                    await asyncio.sleep(_OPEN_POLL_SECONDS)
        except TimeoutError as error:
            raise NotAppliedError(
                f"expected port {self._settings.port} to open within {timeout:g} s, found it shut"
            ) from error
        self._open = True

    async def active_requests(self, instances: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Requests in flight by instance id, for `instances` (service_id -> instance ids).

        An instance that Envoy no longer knows counts 0. Raises EnvoyAdminError when Envoy does not answer.
        """
        active = await self._envoy.admin.active_requests(set(instances))
        result: dict[str, int] = {}
        for service_id, wanted in instances.items():
            routing = self._table.component(service_id)
            specs = {spec.instance_id: spec for spec in routing.endpoints} if routing else {}
            for instance_id in wanted:
                spec = specs.get(instance_id)
                result[instance_id] = active.get((service_id, spec.host, spec.port), 0) if spec else 0
        return result

    async def health(self) -> GatewayHealth:
        """A picture of now; asks Envoy, and does not raise when it is away."""
        try:
            serving = await self._envoy.admin.live()
        except EnvoyAdminError:
            serving = False
        return GatewayHealth(
            envoy_pid=self._envoy.pid,
            serving=serving,
            connected=self._xds.connected,
            ready=self._is_ready,
            restarts=self._envoy.restarts,
            components=len(self._table.services),
            hosts=len(self._table.hosts),
            applied=self._xds.applied,
            conflicts=self._table.conflicts(),
            rejections=self._xds.rejections(),
        )

    @property
    def sent(self) -> tuple[int, int]:
        """Responses and resources sent to Envoy on the present connection."""
        return self._xds.sent

    def _resources(self, change: TableChange) -> dict[str, dict[str, Resource | None]]:
        """What the touched components and hosts look like now; unchanged ones fall out by their versions."""
        clusters: dict[str, Resource | None] = {}
        loads: dict[str, Resource | None] = {}
        for service_id in change.services:
            routing = self._table.component(service_id)
            routed = routing is not None and bool(routing.routes)
            clusters[service_id] = cluster(service_id) if routed else None
            loads[service_id] = endpoints(routing) if routing and routed else None
        scopes = {host: scope(host, self._table, self._settings.stream_idle) for host in change.hosts}
        return {CDS: clusters, EDS: loads, ROUTES: scopes}

    def _listener(self) -> Resource:
        settings = self._settings
        return listener(
            ListenerSettings(
                bind=settings.bind,
                port=settings.port,
                access_log=str(settings.access_log),
                stream_idle=settings.stream_idle,
            )
        )

    def _check(self) -> None:
        settings = self._settings
        try:
            ipaddress.ip_address(settings.bind)
        except ValueError as error:
            raise GatewaySettingsError(
                f"expected an IP address to bind the gateway to, found {settings.bind!r}; 127.0.0.1 is this machine"
            ) from error
        check_socket_path(self._envoy.admin_socket)

    def _check_port(self) -> None:
        """A new Envoy opens the port only later; what stands in its way is better said now."""
        address = (self._settings.bind, self._settings.port)
        family = socket.AF_INET6 if ":" in self._settings.bind else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise GatewaySettingsError(
                    f"expected port {address[1]} on {address[0]} to be free for the gateway, found: {error.strerror}; "
                    "choose another with --gateway-port, or stop what uses it"
                ) from error

    async def _keep(self) -> None:
        settings = self._settings
        log = AccessLogFile(settings.access_log, settings.access_log_bytes, settings.access_log_keep, self._envoy.admin)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._envoy.supervise())
            group.create_task(log.watch())
            group.create_task(self._retry_listener())

    async def _retry_listener(self) -> None:
        """The port may have been taken when Envoy came up; what took it may go."""
        while True:
            await asyncio.sleep(_LISTENER_RETRY_SECONDS)
            self._xds.retry(LDS)


async def _accepts(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        _, writer = await asyncio.open_connection(_reachable(host), port)
    except OSError:
        return False
    writer.close()
    return True


def _reachable(bind: str) -> str:
    """The address under which this machine reaches what is bound to `bind`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104 - compared, not bound


def _report(task: asyncio.Task[None]) -> None:
    """The gateway's own tasks end by cancellation alone; anything else is a defect that must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("gateway.task_failed", exc_info=error)
