"""The supervisor's ports, and everybody's CommandPort, over Ray calls and small keys in etcd.

Knows where things are (names and registry keys), not what they do.
"""

import asyncio
import secrets
from collections.abc import Sequence

import msgspec
import structlog

from actors.cluster.directory import ActorUnreachable, Directory
from actors.supervisor.orders import BuildOrder, Ended, Started, StartOrder
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient
from events.log.etcd_log import EtcdEventLog
from events.log.records import partition_of
from events.model.base import Envelope, Reply, partition_key
from events.model.build import FinishBuild

log = structlog.get_logger("links")

SUBMIT_SECONDS = 15.0  # how long a command looks for an owner before it is refused as unavailable
RETRY_FIRST_SECONDS = 0.05
RETRY_MAX_SECONDS = 1.0
APPLY_SECONDS = 5.0
DRAIN_CALL_SECONDS = 2.0
STOP_MARGIN_SECONDS = 30.0
START_SECONDS = 120.0
_RETRYABLE = ("not_owner", "unavailable", "overloaded")


def node_prefix(namespace: str) -> str:
    """Where live nodes register, on their lease."""
    return f"/{namespace}/nodes/"


def gateway_prefix(namespace: str) -> str:
    """Where gateways register. Not on a lease: while a gateway's agent is away its proxy goes on serving what it has,
    so a rollout must wait for it until it is back or was taken away on purpose."""
    return f"/{namespace}/gateways/"


class Router:
    """A CommandPort: finds the supervisor that owns a stream's partition, and asks again while ownership moves."""

    def __init__(self, *, event_log: EtcdEventLog, directory: Directory) -> None:
        self._log = event_log
        self._directory = directory
        self._owners: dict[int, str] = {}

    async def submit(self, envelopes: Sequence[Envelope]) -> list[Reply]:
        """See CommandPort."""
        replies: dict[int, Reply] = {}
        waiting = dict(enumerate(envelopes))
        deadline = asyncio.get_running_loop().time() + SUBMIT_SECONDS
        wait = RETRY_FIRST_SECONDS
        while True:
            await self._round(waiting, replies)
            waiting = {i: envelopes[i] for i in waiting if replies[i].error in _RETRYABLE}
            if not waiting or asyncio.get_running_loop().time() >= deadline:
                return [self._final(replies[i]) for i in range(len(envelopes))]
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MAX_SECONDS)

    async def _round(self, waiting: dict[int, Envelope], replies: dict[int, Reply]) -> None:
        by_partition: dict[int, list[int]] = {}
        for index, envelope in waiting.items():
            partition = partition_of(partition_key(envelope.stream), self._log.partitions)
            by_partition.setdefault(partition, []).append(index)

        async def send(partition: int, indexes: list[int]) -> None:
            answers = await self._send(partition, [waiting[i] for i in indexes])
            replies.update(zip(indexes, answers, strict=True))

        await asyncio.gather(*(send(p, indexes) for p, indexes in by_partition.items()))

    async def _send(self, partition: int, envelopes: list[Envelope]) -> list[Reply]:
        try:
            owner = await self._owner(partition)
            found: list[Reply] = await self._directory.call(owner, "submit", envelopes, seconds=SUBMIT_SECONDS)
        except (ActorUnreachable, LogError) as error:
            self._owners.pop(partition, None)
            return [Reply(command_id=e.command_id, error="unavailable", error_message=str(error)) for e in envelopes]
        if any(reply.error == "not_owner" for reply in found):
            self._owners.pop(partition, None)
        return found

    async def _owner(self, partition: int) -> str:
        owner = self._owners.get(partition)
        if owner is None:
            record = await self._log.owner_of(partition)
            if record is None:
                raise ActorUnreachable(f"nobody serves partition {partition} yet")
            owner = self._owners[partition] = record.owner
        return owner

    @staticmethod
    def _final(reply: Reply) -> Reply:
        return msgspec.structs.replace(reply, error="unavailable") if reply.error == "not_owner" else reply


class Registry:
    """The names under one prefix of etcd, as of a moment ago. `run` it as one long task."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self.names: tuple[str, ...] = ()

    async def run(self) -> None:
        """Keep `names` up to date, for ever."""
        async for keys in self._client.mirror_prefix(self._prefix):
            self.names = tuple(sorted(key.removeprefix(self._prefix) for key in keys))

    async def now(self) -> tuple[str, ...]:
        """The names as etcd has them at this moment."""
        listing = await self._client.get_prefix(self._prefix)
        return tuple(sorted(item.key.removeprefix(self._prefix) for item in listing))


class NodeLinks:
    """A NodePort over the NodeAgent actors, each named `node-{node}`."""

    def __init__(self, *, directory: Directory, registry: Registry) -> None:
        self._directory = directory
        self._registry = registry

    def nodes(self) -> Sequence[str]:
        return self._registry.names

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
    """A BuilderPort over the Builder actors, `builder-0` to `builder-{n-1}`."""

    def __init__(self, *, directory: Directory, builders: int) -> None:
        self._directory = directory
        self._builders = [f"builder-{i}" for i in range(builders)]

    async def choose(self) -> str:
        loads: list[tuple[int, str]] = []
        for builder in self._builders:
            try:
                loads.append((await self._directory.call(builder, "load"), builder))
            except ActorUnreachable as error:
                log.info("builder is away", builder=builder, error=str(error))
        if not loads:
            raise ActorUnreachable("no builder answers")
        least = min(load for load, _ in loads)
        return secrets.choice([builder for load, builder in loads if load == least])

    async def build(self, builder: str, order: BuildOrder) -> FinishBuild:
        outcome: FinishBuild = await self._directory.call(builder, "build", order, seconds=None)
        return outcome

    async def join(self, builder: str, build_id: str, attempt: int) -> FinishBuild | None:
        try:
            outcome: FinishBuild | None = await self._directory.call(builder, "join", build_id, attempt, seconds=None)
        except ActorUnreachable:
            return None
        return outcome

    async def cancel(self, builder: str, build_id: str) -> None:
        await self._directory.call(builder, "cancel", build_id)


class GatewayLinks:
    """A GatewayPort over every registered gateway."""

    def __init__(self, *, directory: Directory, registry: Registry) -> None:
        self._directory = directory
        self._registry = registry

    async def wait_applied(self, partition: int, offset: int, service_id: str) -> tuple[str, ...]:
        gateways = await self._registry.now()
        await asyncio.gather(*(self._wait_one(gateway, partition, offset, service_id) for gateway in gateways))
        return gateways

    async def _wait_one(self, gateway: str, partition: int, offset: int, service_id: str) -> None:
        while True:
            try:
                applied = await self._directory.call(
                    gateway, "wait_applied", partition, offset, service_id, APPLY_SECONDS
                )
                if applied:
                    return
            except ActorUnreachable as error:
                log.info("gateway is away, the rollout waits for it", gateway=gateway, error=str(error))
                await asyncio.sleep(RETRY_MAX_SECONDS / 4)
                if gateway not in await self._registry.now():
                    return

    async def active_requests(self, service_id: str, instances: Sequence[str]) -> int:
        counts = await asyncio.gather(
            *(
                self._directory.call(g, "active_requests", service_id, list(instances), seconds=DRAIN_CALL_SECONDS)
                for g in await self._registry.now()
            )
        )
        return sum(counts)
