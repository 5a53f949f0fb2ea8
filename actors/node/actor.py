"""NodeAgent: the Ray actor of one machine: its instances through the `Agent`, their output through the collector."""

import asyncio
import os
import secrets
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import msgspec
import psutil
import structlog

from actors.builder.artifacts import DirectoryArtifactStore
from actors.builder.unpack import ImageOnly, run_env, unpack_artifact
from actors.cluster.directory import Directory
from actors.cluster.event_log import make_event_log
from actors.cluster.links import gateway_prefix, node_prefix
from actors.cluster.machines import actor_at
from actors.cluster.router import Router, make_router
from actors.cluster.settings import PlatformSettings
from actors.cluster.shell import ActorShell
from actors.containers.engine import ContainerEngine
from actors.containers.errors import EngineMissing
from actors.containers.reference import parse_reference
from actors.gateway.leftover import LeftEnvoy
from actors.logs.access import AccessTail
from actors.logs.client import LogClient
from actors.logs.collector import Collector
from actors.logs.drivers.port import Origin as Whose
from actors.logs.followed import Followed
from actors.node.agent import Agent, Prepared
from actors.node.runtime import process_runtime
from actors.runtime.containers import Containers
from actors.runtime.processes import ProcessRuntime
from actors.runtime.users import UserBook
from actors.supervisor.orders import Ended, Known, Started, StartOrder
from events.log.errors import LogError
from events.log.etcd_client import EtcdClient
from events.log.etcd_lease import KeptLease
from events.log.etcd_log import EtcdEventLog
from events.model.base import Envelope
from events.model.node import JoinNode
from events.model.placement import Room
from events.model.registry import encode_command

log = structlog.get_logger("node")

LEASE_SECONDS = 10
ROOM_SECONDS = 5.0  # how often a node looks how much memory it has
ROOM_STEP = 0.02  # of what is free: a smaller change is not worth telling
RETRY_SECONDS = 1.0
LOG_FILES = "LOG_FILES"
MAX_LOG_FILES = 16
LOG_DRAINS = "LOG_DRAINS"
MAX_LOG_DRAINS = 4
COLLECT_SECONDS = 60.0  # how long an ended instance's directory waits for its output to be collected


def log_files(config: Mapping[str, str]) -> tuple[str, ...]:
    """Files of its own that an application asks to be collected: `LOG_FILES`, relative to its HOME, with colons."""
    names = (PurePosixPath(name) for name in config.get(LOG_FILES, "").split(":") if name)
    return tuple(str(name) for name in names if not name.is_absolute() and ".." not in name.parts)[:MAX_LOG_FILES]


def _prepare(settings: PlatformSettings) -> None:
    """Make the directories of a machine that joins. Applications, which have users of their own, pass through some."""
    home = settings.node_home_dir
    for directory in (home.parent, home, settings.node_root_dir):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)
    for directory in (settings.node_run_dir, home / "orders"):
        directory.mkdir(mode=0o700, exist_ok=True)


def _tells_more(room: Room, said: Room) -> bool:
    alike = msgspec.structs.replace(room, free_bytes=said.free_bytes) == said
    return not alike or abs(room.free_bytes - said.free_bytes) > ROOM_STEP * said.free_bytes


class NodeArtifacts:
    """Unpacks artifacts for this node's instances, readable only for the application they belong to; pulls images."""

    def __init__(
        self, *, store: DirectoryArtifactStore, root: Path, users: UserBook, engine: ContainerEngine | None = None
    ) -> None:
        self._engine = engine
        self._store = store
        self._root = root
        self._users = users

    async def prepare(self, digest: str, team: str, app: str) -> Prepared:
        """See actors.node.agent.Artifacts."""
        owner = await asyncio.to_thread(self._users.owner_of, team, app)
        gid = owner.gid if os.geteuid() == 0 else None
        try:
            directory = await unpack_artifact(self._store, digest, self._root, gid)
        except ImageOnly as error:
            if error.image is None:
                raise
            await self._have(error.image.reference)
            return Prepared(path=str(self._root), env={}, image=error.image)
        env = await asyncio.to_thread(run_env, directory)
        return Prepared(path=str(directory / "app"), env=env)

    async def _have(self, reference: str) -> None:
        """Have the image here. Raises `ContainerFault`."""
        if self._engine is None:
            raise EngineMissing(
                f"Expected a container engine on this node for the image {reference}, found none. Set containers."
                "engine in the platform's config.toml and start the platform again."
            )
        if reference.startswith("sha256:"):
            await self._engine.image(reference)  # no registry has it: only the engine that built it
        else:
            await self._engine.pull(parse_reference(reference))


class NodeAgent(ActorShell):
    """One per machine. What it starts are the applications: the platform gives way to them."""

    gives_way = False

    _agent: Agent
    _collector: Collector
    _runtime: ProcessRuntime
    _commands: Router

    def __init__(self, name: str, settings: bytes) -> None:
        super().__init__(name, settings)
        self._leaving = False
        self._changed = asyncio.Event()

    async def open(self) -> None:
        """Adopt what runs here, go on collecting its output, and say that this node is there."""
        settings = self.settings
        event_log = make_event_log(settings)
        await event_log.open()
        root, home = settings.node_root_dir, settings.node_home_dir
        if settings.node_home:
            await asyncio.to_thread(_prepare, settings)
        containers = Containers(settings.containers.engine, root) if settings.containers.engine else None
        self._runtime = process_runtime(settings, containers)
        users = UserBook(root / "uids.json")
        store = DirectoryArtifactStore(settings.data_dir / "artifacts")
        unpacked = root / "unpacked"
        unpacked.mkdir(parents=True, exist_ok=True)
        unpacked.chmod(0o711)  # applications pass through it to what is theirs
        self._commands = make_router(settings, event_log, Directory())
        self._agent = Agent(
            name=settings.node,
            runtime=self._runtime,
            artifacts=NodeArtifacts(
                store=store, root=unpacked, users=users, engine=containers.engine if containers else None
            ),
            commands=self._commands,
            orders=home / "orders",
        )
        token = settings.log_token_file.read_text().strip()
        client = LogClient(settings.eventlog_addresses, token, node=settings.node)
        self._collector = Collector(client, home / "collector")
        await self._collector.start()
        await self._agent.open()
        for order in self._agent.running():
            await self._collect(order)
        access = AccessTail(client, settings.access_log, home / "collector" / "access.position")
        await access.start()  # whether or not this machine has a gateway: it may get one
        if settings.node_home:  # at home there always is one
            self.keep(self._left_envoy(event_log.client).watch(), "left envoy")
        self.keep(self._agent.run(), "watch")
        self.keep(self._clean_up(), "clean up")
        self.keep(self._register(event_log), "register")

    async def detail(self) -> str:
        return f"{len(self._agent.running())} instances"

    async def start(self, order: StartOrder) -> Started:
        """Start an instance; idempotent by its id."""
        await self.opened()
        started = await self._agent.start(order)
        await self._collect(order)
        return started

    async def stop(self, instance: str, grace_seconds: float) -> Ended:
        """Stop an instance; returns when nothing of it runs any more."""
        await self.opened()
        return await self._agent.stop(instance, grace_seconds)

    async def settle(self, known: list[Known]) -> list[str]:
        """Stop what the log holds for over; returns which instances that are."""
        await self.opened()
        return await self._agent.settle(known)

    async def leave(self, leaving: bool) -> None:
        """Say from now on whether this node is being drained."""
        await self.opened()
        self._leaving = leaving
        self._changed.set()

    async def unknown(self, instances: list[str]) -> list[str]:
        """Those of `instances` that this node knows nothing of."""
        await self.opened()
        return await self._agent.unknown(instances)

    async def _collect(self, order: StartOrder) -> None:
        followed = Followed(
            instance_id=order.instance,
            stream=order.service_id,
            release=order.release,
            directory=str(self._runtime.log_directory(order.instance).parent),
            files=log_files(order.config),
            drains=(
                *order.config.get(LOG_DRAINS, "").split()[:MAX_LOG_DRAINS],
                *self.settings.lines.drains_of(order.team),
            ),
            whose=Whose(team=order.team, app=order.app, component=order.component, node=self.settings.node),
        )
        await self._collector.follow(followed)

    def _left_envoy(self, client: EtcdClient) -> LeftEnvoy:
        settings = self.settings
        key = gateway_prefix(settings.etcd.namespace) + actor_at("gateway", settings.node)

        async def registered() -> bool:
            return await client.get(key) is not None

        return LeftEnvoy(settings.gateway_dir, settings.envoy_log, registered)

    async def _clean_up(self) -> None:
        """Remove ended instances once their output is stored; one whose output cannot be stored yet waits."""
        while True:
            instance = await self._agent.finished.get()
            if await self._collector.drained(instance, COLLECT_SECONDS):
                try:
                    await self._agent.forget(instance)
                except Exception as error:
                    log.warning("could not remove an instance", instance=instance, error=str(error))
            else:
                self._agent.finished.put_nowait(instance)

    async def _register(self, event_log: EtcdEventLog) -> None:
        settings = self.settings
        key = node_prefix(settings.etcd.namespace) + settings.node
        told = False
        while True:
            try:
                async with event_log.client.lease(LEASE_SECONDS) as lease:
                    room = self._room()
                    await event_log.client.put(key, msgspec.json.encode(room), lease=lease.id)
                    if not told:
                        told = await self._join()
                    await self._keep_telling(event_log.client, key, lease, said=room)
                    told = False  # somebody may have counted it as lost meanwhile
            except LogError as error:
                log.info("could not register the node", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _keep_telling(self, client: EtcdClient, key: str, lease: KeptLease, *, said: Room) -> None:
        """Say how much room there is, and whether this node is being drained, until the lease is lost."""
        lost = asyncio.create_task(lease.lost())
        try:
            while not lost.done():
                self._changed.clear()
                room = self._room()
                if _tells_more(room, said):
                    await client.put(key, msgspec.json.encode(room), lease=lease.id)
                    said = room
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({lost, changed}, timeout=ROOM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            lost.cancel()

    def _room(self) -> Room:
        memory = psutil.virtual_memory()
        promised = sum(order.memory_bytes for order in self._agent.running())
        free = max(0, min(memory.available, memory.total - promised))
        return Room(name=self.settings.node, free_bytes=free, labels=self.settings.node_labels, leaving=self._leaving)

    async def _join(self) -> bool:
        settings = self.settings
        join = JoinNode(
            name=settings.node,
            address=settings.reached_at,
            cpus=os.cpu_count() or 1,
            memory_bytes=psutil.virtual_memory().total,
            runtime="processes",
        )
        envelope = Envelope(
            stream=f"node/{settings.node}",
            command=encode_command(join),
            command_id=f"join.{secrets.token_hex(8)}",
            actor=f"node:{settings.node}",
        )
        [reply] = await self._commands.submit([envelope])
        return not reply.error
