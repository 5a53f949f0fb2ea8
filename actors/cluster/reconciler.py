"""Reconciler: the one Ray actor that keeps every pool at its size and gives each partition to one owner.

It holds nothing that cannot be asked for again; two of them would only do the same thing twice.
"""

import asyncio
import secrets
import time

import msgspec
import structlog
from ray.exceptions import RayError

from actors.cluster.directory import ActorUnreachable, Directory
from actors.cluster.event_log import make_event_log
from actors.cluster.machines import Machine, live_machines
from actors.cluster.pools import Pool, actor_names, end_actor, ensure_actor, present_actors
from actors.cluster.register import GatewayRegister
from actors.cluster.router import make_router
from actors.cluster.shares import Shares
from actors.cluster.shell import ActorShell, Health
from actors.cluster.sizes import PoolReport, Sizes
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient
from events.model.base import Command, Envelope
from events.model.pool import FollowWork, pool_stream
from events.model.registry import encode_command
from events.model.team import CreateTeam

log = structlog.get_logger("reconciler")

ROUND_SECONDS = 1.0
HEALTH_SECONDS = 15.0
SILENT_SECONDS = 2.0  # for one that did not answer in time before
REPLACE_SECONDS = 60.0  # of silence: paused, or stuck; longer than anything here takes to open
HEARTBEAT_TTL_SECONDS = 5
SCALING_SECONDS = 5.0  # between looks at whether pools should have another size
STARTING_SECONDS = 60.0  # what a new actor may take to answer; until then it is starting, not away
DEFAULT_TEAM = "default"
SUPERVISOR = "supervisor"
AUTOSCALER = "autoscaler"


def heartbeat_key(namespace: str) -> str:
    """Lives while the reconciler does; `rayfold up` starts another when it is gone."""
    return f"/{namespace}/reconciler"


class Reconciler(ActorShell):
    """One, elected by its name."""

    def __init__(self, name: str, settings: bytes, pools: bytes) -> None:
        super().__init__(name, settings)
        self._pools = msgspec.json.decode(pools, type=list[Pool])
        self._directory = Directory()
        self._seen: dict[str, Health] = {}
        self._wanted_since: dict[str, float] = {}
        self._silent_since: dict[str, float] = {}
        self._draining: dict[str, float] = {}
        self._has_team = False
        self._sizes = Sizes(self._pools)
        self._present: list[str] = []
        self._machines: list[Machine] = []
        streams = [pool_stream(pool.name) for pool in self._pools]
        self._shares = {
            pool.name: Shares(pool.name, self.settings.partitions, self._directory, streams)
            for pool in self._pools
            if pool.shares
        }

    async def open(self) -> None:
        """Begin the rounds."""
        event_log = make_event_log(self.settings)
        await event_log.open()
        self._commands = make_router(self.settings, event_log, self._directory)
        namespace = self.settings.etcd.namespace
        self._register = GatewayRegister(event_log.client, namespace, self.settings.node_lost_seconds)
        self.keep(self._rounds(), "rounds")
        self.keep(self._scaling(), "scaling")
        self.keep(self._heartbeat(event_log.client), "heartbeat")

    async def ready(self) -> bool:
        """Whether every actor answered in the last round and every partition is served, as far as it can be."""
        await self.opened()
        names = {name for pool in self._pools for name in self._names(pool)}
        return names <= self._seen.keys() and self._settled and self._has_team

    async def report(self) -> list[Health]:
        """How every actor was when last asked; one that did not answer is not ready, unless it is only starting."""
        await self.opened()
        found = []
        for name in (name for pool in self._pools for name in self._names(pool)):
            new = time.monotonic() - self._wanted_since.get(name, 0.0) < STARTING_SECONDS
            starting = self._has_team and new
            absent = Health(name=name, pid=0, ready=starting, detail="starting" if starting else "did not answer")
            health = self._seen.get(name, absent)
            # Heard while the partitions were given out, which may be later than its health.
            unserved = [why for shares in self._shares.values() for why in shares.unserved_by(name)]
            if unserved and health.ready:
                health = msgspec.structs.replace(health, ready=False, detail="; ".join(unserved))
            found.append(health)
        return found

    async def pools(self) -> list[PoolReport]:
        """Every pool: what is wanted, what there is, and what it does."""
        await self.opened()
        return [self._report_on(pool) for pool in self._pools]

    def _report_on(self, pool: Pool) -> PoolReport:
        names = set(self._names(pool))
        draining = sorted(name for name in self._draining if self._is_of(pool, name))
        actors = [self._seen[name] for name in sorted(names | set(draining)) if name in self._seen]
        shares = self._shares.get(pool.name)
        return self._sizes.report(
            pool,
            # Where there are fewer machines than that, the rest waits for more.
            size=self._sizes.of(pool) if pool.one_a_machine else len(names),
            machines=self._machines,
            actors=actors,
            draining=draining,
            partitions={} if shares is None else shares.owned(),
            moving=0 if shares is None else shares.yet_to_move(self._names(pool)),
        )

    @property
    def _settled(self) -> bool:
        return all(shares.settled for shares in self._shares.values())

    def _names(self, pool: Pool) -> list[str]:
        names = actor_names(pool, self.settings, self._sizes.of(pool), self._machines, self._present)
        if self._sizes.known:
            return names
        # What runs may be what the log wants: until it has been heard, all of it stays.
        return names + [name for name in self._present if self._is_of(pool, name) and name not in names]

    def _is_of(self, pool: Pool, name: str) -> bool:
        """Whether it is an actor of a pool that may have more or fewer; one whose machine has left is none any more."""
        here = not pool.bound or pool.machine_of(name, self._machines) is not None
        return pool.has(name) and here and not pool.per_node

    # --- rounds -------------------------------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        busy = True
        while True:
            await self._look_around()
            await self._look_for_machines()
            names = [(pool, name) for pool in self._pools for name in self._names(pool)]
            for _, name in names:
                self._wanted_since.setdefault(name, time.monotonic())
            # One after the other where there is time: if all woke at once, who works would feel it each second.
            apart = 0.0 if busy else ROUND_SECONDS / len(names)
            await asyncio.gather(*(self._see_to(*each, after=apart * turn) for turn, each in enumerate(names)))
            await self._share_out()
            await self._let_go()
            await self._tidy_register()
            if self._settled and not self._has_team:
                self._has_team = await self._ensure_default_team()
            moving = any(
                shares.yet_to_move(self._names(pool))
                for pool in self._pools
                if (shares := self._shares.get(pool.name)) is not None
            )
            busy = not self._settled or bool(self._draining) or moving
            await asyncio.sleep(ROUND_SECONDS / 10)

    async def _look_around(self) -> None:
        try:
            self._present = await asyncio.to_thread(present_actors)
        except RayError as error:
            log.warning("Ray does not say which actors there are", error=type(error).__name__)

    async def _look_for_machines(self) -> None:
        """Which machines there are; the agent and the gateway of one that has left the cluster are given up, so that
        their names are free for those of the same machine when it joins again."""
        try:
            found = await asyncio.to_thread(live_machines, self.settings)
        except RayError as error:
            log.warning("Ray does not say which machines there are", error=type(error).__name__)
            return
        if not any(machine.home for machine in found):
            return  # the cluster is coming back, and has not heard of everybody yet
        self._machines = found
        bound = [(pool, name) for pool in self._pools if pool.bound for name in self._present if pool.has(name)]
        for pool, name in bound:
            if pool.machine_of(name, found) is None:
                log.warning("a machine has left the cluster", actor=name)
                await asyncio.to_thread(end_actor, name)

    async def _see_to(self, pool: Pool, name: str, *, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        # Who was silent before must not hold up the round of those who answer.
        seconds = SILENT_SECONDS if name in self._silent_since else HEALTH_SECONDS
        try:
            health: Health = await self._directory.call(name, "health", seconds=seconds)
            self._silent_since.pop(name, None)
            if health.going:
                self._seen.pop(name, None)
                await self._retire(pool, name, for_good=False)
                return
            self._seen[name] = health
            self._draining.pop(name, None)
        except ActorUnreachable as error:
            self._seen.pop(name, None)
            self._draining.pop(name, None)
            log.warning("actor is away", actor=name, error=str(error))
            since = self._silent_since.setdefault(name, time.monotonic())
            if time.monotonic() - since > REPLACE_SECONDS:
                log.error("an actor that does not answer is ended, so that Ray starts another", actor=name)
                del self._silent_since[name]
                await asyncio.to_thread(end_actor, name, for_good=False)
            await asyncio.to_thread(ensure_actor, pool, name, self.settings, machines=self._machines)
        except Exception as error:
            self._seen.pop(name, None)
            log.warning("actor is not well", actor=name, error=f"{type(error).__name__}: {error}")

    async def _share_out(self) -> None:
        for pool in self._pools:
            shares = self._shares.get(pool.name)
            if shares is None:
                continue
            names = self._names(pool)
            staying = [name for name in names if name in self._seen]
            going = [name for name in self._present if self._is_of(pool, name) and name not in names]
            for state in await shares.round(staying=staying, going=going):
                self._sizes.learn(state)
        if (supervisors := self._shares.get(SUPERVISOR)) is not None and supervisors.complete:
            self._sizes.known = True  # whoever owns a pool's stream has told what the log says of it

    async def _let_go(self) -> None:
        """Drain, then end, the actors that no pool wants any more."""
        wanted = {name for pool in self._pools for name in self._names(pool)}
        surplus = [
            (pool, name)
            for name in self._present
            for pool in self._pools
            if self._is_of(pool, name) and name not in wanted
        ]
        await asyncio.gather(*(self._retire(pool, name) for pool, name in surplus))
        for name in self._draining.keys() - set(self._present):
            del self._draining[name]
        for name in self._seen.keys() - wanted - self._draining.keys():
            del self._seen[name]
            self._wanted_since.pop(name, None)

    async def _tidy_register(self) -> None:
        if not self._sizes.known or not self._machines:
            return
        pools = [pool for pool in self._pools if pool.one_a_machine]
        await self._register.tidy(
            needed={*self._present, *(name for pool in pools for name in self._names(pool))},
            at_hand={pool.actor_on(machine) for pool in pools for machine in self._machines},
            now=time.monotonic(),
        )

    async def _retire(self, pool: Pool, name: str, *, for_good: bool = True) -> None:
        """`for_good` False: it is wanted again, but has begun to go; it does, and Ray starts it anew."""
        since = self._draining.setdefault(name, time.monotonic())
        shares = self._shares.get(pool.name)
        if shares is not None and shares.holds(name):
            return  # its partitions move first, a few at a time
        late = time.monotonic() - since > pool.drain_seconds
        try:
            done = bool(await self._directory.call(name, "drain", seconds=HEALTH_SECONDS))
        except ActorUnreachable as error:
            log.info("an actor that is to go does not answer", actor=name, error=str(error))
            done = False
        if done or late:
            log.info("an actor is ended, as its pool was to be smaller", actor=name, drained=done)
            await asyncio.to_thread(end_actor, name, for_good=for_good)
            self._draining.pop(name, None)

    # --- scaling ------------------------------------------------------------------------------------------------------

    async def _scaling(self) -> None:
        while True:
            await asyncio.sleep(SCALING_SECONDS)
            for pool in self._pools:
                actors = [self._seen[name] for name in self._names(pool) if name in self._seen]
                wanted = self._sizes.resized(pool, actors, time.monotonic())
                if wanted is None:
                    continue
                before = len(self._names(pool))
                log.info("a pool follows its work", pool=pool.name, before=before, size=wanted.size, why=wanted.why)
                await self._send(pool_stream(pool.name), FollowWork(size=wanted.size, before=before), wanted.why)

    async def _send(self, stream: str, command: Command, reason: str) -> None:
        envelope = Envelope(
            stream=stream,
            command=encode_command(command),
            command_id=f"autoscale.{secrets.token_hex(8)}",
            actor=AUTOSCALER,
            reason=reason,
        )
        [reply] = await self._commands.submit([envelope])
        if reply.error or reply.refusal:
            log.info("a decision about a pool was not taken", stream=stream, error=reply.error_message)

    # --- what is there from the start ---------------------------------------------------------------------------------

    async def _ensure_default_team(self) -> bool:
        """The first team is there from the start, so that the first deploy needs nothing else."""
        create = Envelope(
            stream=f"team/{DEFAULT_TEAM}",
            command=encode_command(CreateTeam(name=DEFAULT_TEAM)),
            command_id=f"{DEFAULT_TEAM}.team",
            reason="there from the start",
        )
        [reply] = await self._commands.submit([create])
        return reply.error in ("", "unreadable")  # that cannot be helped, and the rest is to go on

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
