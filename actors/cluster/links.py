"""The supervisor's ports over Ray calls and small keys in etcd.

Knows where things are (names and registry keys), not what they do.
"""

import asyncio
from collections.abc import Collection, Sequence

import msgspec
import structlog

from actors.builder.orders import BUILDS, build_task
from actors.cluster.directory import ActorUnreachable, Directory
from actors.supervisor.orders import BuildOrder, Ended, Known, SourceAccess, Started, StartOrder
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient
from events.log.port import EventLog
from events.log.records import partition_of
from events.model.base import partition_key
from events.model.placement import Room
from events.model.team_credentials import where_of
from events.queue.port import TaskQueue

log = structlog.get_logger("links")

AWAY_SECONDS = 0.25  # before a gateway, or a supervisor, that is away is asked again
ACCESS_SECONDS = 60.0  # a partition has a new owner by then, also where the old one's lease must lapse first
APPLY_SECONDS = 5.0
DRAIN_CALL_SECONDS = 2.0
STOP_MARGIN_SECONDS = 30.0
START_SECONDS = 120.0


def node_prefix(namespace: str) -> str:
    """Where live nodes register, on their lease."""
    return f"/{namespace}/nodes/"


def gone_prefix(namespace: str) -> str:
    """Where it stands which nodes were removed for good."""
    return f"/{namespace}/gone/"


def gateway_prefix(namespace: str) -> str:
    """Where gateways register. Not on a lease: while a gateway's agent is away its proxy goes on serving what it has,
    so a rollout must wait for it until it is back, was taken away on purpose, or its machine has been gone for long
    (`GatewayRegister`)."""
    return f"/{namespace}/gateways/"


class Registry:
    """The names under one prefix of etcd, as of a moment ago. `run` it as one long task."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self.values: dict[str, bytes] = {}

    async def run(self) -> None:
        """Keep `values` up to date, for ever."""
        async for keys in self._client.mirror_prefix(self._prefix):
            self.values = {key.removeprefix(self._prefix): keys[key].value for key in sorted(keys)}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self.values)

    async def now(self) -> tuple[str, ...]:
        """The names as etcd has them at this moment."""
        listing = await self._client.get_prefix(self._prefix)
        return tuple(sorted(item.key.removeprefix(self._prefix) for item in listing))


def _room(name: str, value: bytes) -> Room:
    try:
        return msgspec.structs.replace(msgspec.json.decode(value, type=Room), name=name)
    except msgspec.MsgspecError:
        return Room(name=name)  # an agent of an earlier version, which says nothing of itself


class NodeLinks:
    """A NodePort over the NodeAgent actors, each named `node-{node}`. `run` it as one long task."""

    def __init__(self, *, directory: Directory, client: EtcdClient, namespace: str) -> None:
        self._directory = directory
        self._client = client
        self._gone_prefix = gone_prefix(namespace)
        self._live = Registry(client, node_prefix(namespace))
        self._gone = Registry(client, self._gone_prefix)
        self._rooms: tuple[dict[str, bytes], list[Room]] = ({}, [])

    async def run(self) -> None:
        """Keep up with which nodes there are, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._live.run())
            group.create_task(self._gone.run())

    def nodes(self) -> Sequence[Room]:
        # Asked for with every command; the registry gives another dictionary whenever something has changed.
        if self._rooms[0] is not self._live.values:
            self._rooms = (self._live.values, [_room(name, value) for name, value in self._live.values.items()])
        return self._rooms[1]

    def gone(self) -> Collection[str]:
        return self._gone.names

    async def settle(self, node: str, known: Sequence[Known]) -> list[str]:
        stopping: list[str] = await self._directory.call(f"node-{node}", "settle", list(known))
        return stopping

    async def tell(self, node: str, *, leaving: bool) -> None:
        await self._directory.call(f"node-{node}", "leave", leaving)

    async def strike(self, node: str, *, gone: bool) -> None:
        key = self._gone_prefix + node
        await (self._client.put(key, b"{}") if gone else self._client.delete(key))

    async def start(self, node: str, order: StartOrder) -> Started:
        started: Started = await self._directory.call(f"node-{node}", "start", order, seconds=START_SECONDS)
        return started

    async def stop(self, node: str, instance: str, grace_seconds: int) -> Ended:
        seconds = grace_seconds + STOP_MARGIN_SECONDS
        ended: Ended = await self._directory.call(f"node-{node}", "stop", instance, grace_seconds, seconds=seconds)
        return ended

    async def unknown(self, node: str, instances: Sequence[str]) -> list[str]:
        found: list[str] = await self._directory.call(f"node-{node}", "unknown", list(instances))
        return found


class BuilderLinks:
    """A BuilderPort: orders go through the queue, and only a cancellation is a call."""

    def __init__(self, *, directory: Directory, queue: TaskQueue) -> None:
        self._directory = directory
        self._queue = queue

    async def request(self, order: BuildOrder) -> None:
        await self._queue.publish(BUILDS, [build_task(order)])

    async def cancel(self, builder: str, build_id: str) -> None:
        await self._directory.call(builder, "cancel", build_id)


class AccessLinks:
    """Asks the supervisor that serves a team's stream what the team reads a URL with."""

    def __init__(self, *, directory: Directory, event_log: EventLog) -> None:
        self._directory = directory
        self._log = event_log

    async def source_access(self, team: str, url: str) -> SourceAccess:
        """Until somebody answers, while the stream moves from one supervisor to another. Raises ActorUnreachable."""
        if where_of(url) is None:
            return SourceAccess()
        partition = partition_of(partition_key(f"team/{team}"), self._log.partitions)
        until = asyncio.get_running_loop().time() + ACCESS_SECONDS
        while True:
            why = f"nobody serves the stream of team {team}"
            try:
                record = await self._log.owner_of(partition)
                found: SourceAccess | None = None
                if record is not None:
                    found = await self._directory.call(record.owner, "source_access", team, url)
                if found is not None:
                    return found
            except (ActorUnreachable, LogError) as error:
                why = str(error)
            if asyncio.get_running_loop().time() > until:
                raise ActorUnreachable(f"expected the credentials of team {team}: {why}")
            await asyncio.sleep(AWAY_SECONDS)


class GatewayLinks:
    """A GatewayPort over every registered gateway."""

    def __init__(self, *, directory: Directory, registry: Registry) -> None:
        self._directory = directory
        self._registry = registry

    async def wait_applied(self, partition: int, offset: int, service_id: str) -> tuple[str, ...]:
        gateways = await self._registry.now()
        applied = await asyncio.gather(*(self._wait_one(g, partition, offset, service_id) for g in gateways))
        return tuple(gateway for gateway, has in zip(gateways, applied, strict=True) if has)

    async def _wait_one(self, gateway: str, partition: int, offset: int, service_id: str) -> bool:
        """False when it is not registered any more."""
        while True:
            try:
                applied = await self._directory.call(
                    gateway, "wait_applied", partition, offset, service_id, APPLY_SECONDS
                )
                if applied:
                    return True
            except ActorUnreachable as error:
                log.info("gateway is away, the rollout waits for it", gateway=gateway, error=str(error))
                await asyncio.sleep(AWAY_SECONDS)
                if gateway not in await self._registry.now():
                    return False

    async def active_requests(self, service_id: str, instances: Sequence[str]) -> int:
        counts = await asyncio.gather(
            *(
                self._directory.call(g, "active_requests", service_id, list(instances), seconds=DRAIN_CALL_SECONDS)
                for g in await self._registry.now()
            )
        )
        return sum(counts)
