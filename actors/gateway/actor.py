"""GatewayNode: the Ray actor that folds the log into a gateway's table and says which position its proxy has applied.

Routes and endpoints come from the log alone, so a gateway that starts anew comes to the same table.
"""

import asyncio
from collections.abc import Sequence
from typing import cast

import structlog

from actors.cluster.event_log import make_event_log
from actors.cluster.links import gateway_prefix
from actors.cluster.shell import ActorShell
from actors.gateway.errors import NotAppliedError, RejectedByEnvoyError
from actors.gateway.gateway import Gateway, GatewaySettings
from actors.gateway.table import ComponentRouting, EndpointSpec, RouteSpec
from events.failpoints import failpoint
from events.log.errors import LogDamaged
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_wire import Delete, ModRevisionIs
from events.log.records import Position, StoredEvent
from events.model.component_events import ComponentCreated, EndpointsChanged
from events.model.registry import decode_event

log = structlog.get_logger("gateway")

LEAVE_POLL_SECONDS = 1.0


class DamageMended(Exception):
    """A part of the log that could not be read when the gateway started can be now."""


class RoutingFold:
    """Turns component events into routing snapshots; remembers names and which event first claimed an address."""

    TYPES = frozenset({ComponentCreated.__name__, EndpointsChanged.__name__})

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, str, str, str]] = {}
        self._claimed: dict[tuple[str, str, str], Position] = {}

    def fold(self, batch: Sequence[StoredEvent]) -> list[ComponentRouting]:
        """The newest snapshot of each component that `batch` touches."""
        snapshots: dict[str, ComponentRouting] = {}
        for stored in batch:
            kind, _, service_id = stored.record.stream.partition("/")
            if kind != "component" or stored.record.type not in self.TYPES:
                continue
            event = decode_event(stored.record)
            if isinstance(event, ComponentCreated):
                self._names[service_id] = (event.team, event.app, event.name, event.spec.auto_host)
            else:
                snapshots[service_id] = self._snapshot(service_id, stored.position, cast("EndpointsChanged", event))
        return list(snapshots.values())

    def _snapshot(self, service_id: str, position: Position, event: EndpointsChanged) -> ComponentRouting:
        team, app, name, auto_host = self._names[service_id]
        routes = tuple(
            RouteSpec(
                host=r.host,
                path_prefix=r.path,
                automatic=r.host == auto_host and r.path == "/",
                claimed=self._claimed.setdefault((service_id, r.host, r.path), position),
            )
            for r in event.routes
        )
        kept = {(service_id, r.host, r.path) for r in event.routes}
        for key in [k for k in self._claimed if k[0] == service_id and k not in kept]:
            del self._claimed[key]
        return ComponentRouting(
            service_id=service_id,
            team=team,
            app=app,
            component=name,
            position=position,
            routes=routes,
            endpoints=tuple(
                EndpointSpec(
                    instance_id=e.instance, host=e.host, port=e.port, state="draining" if e.draining else "active"
                )
                for e in event.endpoints
            ),
            available=any(not e.draining for e in event.endpoints),
        )


class GatewayNode(ActorShell):
    """One per gateway machine."""

    fix = "rayfold log verify; docs/operations.md, What is damaged"
    _gateway: Gateway
    _log: EtcdEventLog
    _key: str
    _registered: int
    _leaving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Adopt or start the proxy; from then on follow the log."""
        settings = self.settings
        self._log = make_event_log(settings)
        await self._log.open()
        self._damaged: dict[int, str] = {}
        self._gateway = Gateway(
            GatewaySettings(
                run_dir=settings.gateway_dir,
                envoy_log=settings.envoy_log,
                access_log=settings.access_log,
                bind=settings.bind,
                port=settings.gateway_port,
                node_id=self.name,
            )
        )
        await self._gateway.start()
        self._key = gateway_prefix(settings.etcd.namespace) + self.name
        # Before it looks how long the log is: whatever is appended later, a rollout waits for it here.
        self._registered = await self._register()
        failpoint("gateway.registered")
        self.keep(self._follow(), "follow")

    async def _register(self) -> int:
        """The revision of the registration; one that is to go makes none, and leaves by that of the process before."""
        if not self.going:
            return await self._log.client.put(self._key, b"{}")
        found = await self._log.client.get(self._key)
        return found.mod_revision if found else 0

    async def detail(self) -> str:
        health = await self._gateway.health()
        contested = f"addresses wanted twice: {len(health.conflicts)}, " if health.conflicts else ""
        served = f"{health.hosts} hosts, {health.components} components, {contested}envoy {health.envoy_pid}"
        return "; ".join((served, *self._damaged.values()))

    async def fine(self) -> bool:
        """False while a part of the log cannot be read: what it would say of components is not known."""
        return not self._damaged

    async def drained(self) -> bool:
        """The port is shut, what is in flight ends, and the proxy with it; a gateway that died meanwhile does it again.
        Nobody waits for it from when it serves nothing: until then its requests count as those of others do."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave(), name="leave")
        await asyncio.wait({self._leaving}, timeout=LEAVE_POLL_SECONDS)
        if not self._leaving.done():
            return False
        left, self._leaving = self._leaving, None
        if (error := left.exception()) is not None:
            log.warning("the gateway could not leave, tries again", gateway=self.name, error=str(error))
        return error is None

    async def _leave(self) -> None:
        await self._gateway.drain()
        failpoint("gateway.drained")
        # This registration only: a process that was cut off and is told late takes nobody off who came after it.
        await self._log.client.txn(when=[ModRevisionIs(self._key, self._registered)], then=[Delete(self._key)])
        failpoint("gateway.unregistered")
        await self._gateway.stop()
        failpoint("gateway.left")

    async def wait_applied(self, partition: int, offset: int, service_id: str, seconds: float) -> bool:
        """Whether the proxy serves what the log said at that position, waiting up to `seconds`. What the proxy refuses
        is not applied: the old instances keep serving until the rollout's own deadline ends it."""
        await self.opened()
        try:
            await self._gateway.wait_applied(Position(partition, offset), seconds, service_id)
        except NotAppliedError:
            return False
        except RejectedByEnvoyError as error:
            log.error("the proxy refused a component's routing", service_id=service_id, error=str(error))
            await asyncio.sleep(seconds / 5)
            return False
        return True

    async def active_requests(self, service_id: str, instances: Sequence[str]) -> int:
        """Requests in flight on these instances of a component."""
        await self.opened()
        counts = await self._gateway.active_requests({service_id: instances})
        return sum(counts.values())

    async def applied(self) -> dict[int, int]:
        """Offset by partition that the proxy has applied."""
        await self.opened()
        return self._gateway.applied()

    async def _follow(self) -> None:
        tails = {p: await self._log.tail(p) for p in range(self._log.partitions)}
        behind = {p for p, tail in tails.items() if tail > 0}
        fold = RoutingFold()

        def reached(partition: int) -> None:
            behind.discard(partition)
            if not behind and not self._gateway.is_ready:
                self._gateway.ready(doubtful=set(self._damaged))
                log.info("caught up with the log", gateway=self.name)

        def damaged(partition: int, error: LogDamaged | None) -> None:
            if error is not None:
                self._damaged[partition] = str(error)
                log.error("a partition cannot be read on", gateway=self.name, partition=partition, error=str(error))
                reached(partition)  # the others are not to wait for it
            elif self._gateway.doubts(partition):
                # What was kept from Envoy for it is sorted out by a gateway that starts anew.
                raise DamageMended(f"partition {partition} can be read again: the gateway begins anew")
            else:
                self._damaged.pop(partition, None)

        if not behind:
            self._gateway.ready()
        following = self._log.follow_types(dict.fromkeys(tails, 0), RoutingFold.TYPES, damaged)
        async for partition, end, events in following:
            if snapshots := fold.fold(events):
                self._gateway.apply(snapshots)
                failpoint("gateway.folded")
            self._gateway.advance(partition, end - 1)
            if partition in behind and end >= tails[partition]:
                reached(partition)
