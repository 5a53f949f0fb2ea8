"""Reconciler: the one Ray actor that keeps every pool at its size and gives each partition to one supervisor.

It holds nothing that cannot be asked for again; two of them would only do the same thing twice.
"""

import asyncio

import msgspec
import structlog

from actors.cluster.directory import ActorUnreachable, Directory
from actors.cluster.event_log import make_event_log
from actors.cluster.links import Router
from actors.cluster.pools import Pool, actor_names, ensure_actor
from actors.cluster.rendezvous import ranked
from actors.cluster.shell import ActorShell, Health
from events.failpoints import failpoint
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient
from events.model.base import Envelope
from events.model.registry import encode_command
from events.model.team import CreateTeam

log = structlog.get_logger("reconciler")

ROUND_SECONDS = 1.0
HEALTH_SECONDS = 15.0
HEARTBEAT_TTL_SECONDS = 5
DEFAULT_TEAM = "default"


def heartbeat_key(namespace: str) -> str:
    """Lives while the reconciler does; `rayfold up` starts another when it is gone."""
    return f"/{namespace}/reconciler"


def assign(partitions: int, owners: list[str]) -> dict[str, list[int]]:
    """Rendezvous hashing with bounded load: each partition goes to the owner that hashes highest and has room.

    No owner gets more than ceil(partitions / owners); when the owners change, few partitions move.
    """
    shares: dict[str, list[int]] = {owner: [] for owner in owners}
    if not owners:
        return shares
    most = -(-partitions // len(owners))
    for partition in range(partitions):
        owner = next(o for o in ranked(str(partition), owners) if len(shares[o]) < most)
        shares[owner].append(partition)
    return shares


class Reconciler(ActorShell):
    """One, elected by its name."""

    def __init__(self, name: str, settings: bytes, pools: bytes) -> None:
        super().__init__(name, settings)
        self._pools = msgspec.json.decode(pools, type=list[Pool])
        self._directory = Directory()
        self._seen: dict[str, Health] = {}
        self._served: set[int] = set()
        self._has_team = False

    async def open(self) -> None:
        """Begin the rounds."""
        event_log = make_event_log(self.settings)
        await event_log.open()
        self._commands = Router(event_log=event_log, directory=self._directory)
        self.keep(self._rounds(), "rounds")
        self.keep(self._heartbeat(event_log.client), "heartbeat")

    async def ready(self) -> bool:
        """Whether every actor answered in the last round and every partition is served."""
        await self.opened()
        names = {name for pool in self._pools for name in actor_names(pool, self.settings)}
        return names <= self._seen.keys() and len(self._served) == self.settings.partitions and self._has_team

    async def report(self) -> list[Health]:
        """How every actor was when last asked; one that did not answer is not ready."""
        await self.opened()
        names = [name for pool in self._pools for name in actor_names(pool, self.settings)]
        absent = "did not answer"
        return [self._seen.get(n, Health(name=n, pid=0, ready=False, detail=absent)) for n in names]

    async def _rounds(self) -> None:
        while True:
            names = [(pool, name) for pool in self._pools for name in actor_names(pool, self.settings)]
            await asyncio.gather(*(self._see_to(pool, name) for pool, name in names))
            await self._assign()
            settled = len(self._served) == self.settings.partitions
            if settled and not self._has_team:
                self._has_team = await self._ensure_default_team()
            await asyncio.sleep(ROUND_SECONDS if settled else ROUND_SECONDS / 10)

    async def _see_to(self, pool: Pool, name: str) -> None:
        try:
            self._seen[name] = await self._directory.call(name, "health", seconds=HEALTH_SECONDS)
        except ActorUnreachable as error:
            self._seen.pop(name, None)
            log.warning("actor is away", actor=name, error=str(error))
            await asyncio.to_thread(ensure_actor, pool, name, self.settings)
        except Exception as error:
            self._seen.pop(name, None)
            log.warning("actor is not well", actor=name, error=f"{type(error).__name__}: {error}")

    async def _assign(self) -> None:
        supervisors = [n for p in self._pools if p.name == "supervisor" for n in actor_names(p, self.settings)]
        live = [name for name in supervisors if name in self._seen]
        shares = assign(self.settings.partitions, live)
        failpoint("reconciler.before-assign")
        served = await asyncio.gather(*(self._give(name, share) for name, share in shares.items()))
        failpoint("reconciler.assigned")
        self._served = {partition for share in served for partition in share}

    async def _give(self, name: str, share: list[int]) -> list[int]:
        try:
            served: list[int] = await self._directory.call(name, "assign", share, seconds=HEALTH_SECONDS)
        except ActorUnreachable as error:
            log.warning("supervisor is away", actor=name, error=str(error))
            return []
        return served

    async def _ensure_default_team(self) -> bool:
        """The first team is there from the start, so that the first deploy needs nothing else."""
        create = Envelope(
            stream=f"team/{DEFAULT_TEAM}",
            command=encode_command(CreateTeam(name=DEFAULT_TEAM)),
            command_id=f"{DEFAULT_TEAM}.team",
            reason="there from the start",
        )
        [reply] = await self._commands.submit([create])
        return not reply.error

    async def _heartbeat(self, client: EtcdClient) -> None:
        key = heartbeat_key(self.settings.etcd.namespace)
        while True:
            try:
                async with client.lease(HEARTBEAT_TTL_SECONDS) as lease:
                    await client.put(key, b"{}", lease=lease.id)
                    await lease.lost()
            except LogError as error:
                log.info("heartbeat could not be written", error=str(error))
                await asyncio.sleep(ROUND_SECONDS)
