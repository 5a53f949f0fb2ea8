"""A platform without Ray in one process: real owners over a log in memory, a real node agent over real processes.

Builders and gateways are as simple as their ports allow; how often a message arrives is the test's to say.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar, cast

import psutil

from actors.builder.orders import BUILDS, build_task
from actors.builder.slots import NodeSlots
from actors.builder.worker import BuildWorker
from actors.node.agent import Agent, Prepared
from actors.runtime.port import InstanceState
from actors.runtime.processes import ProcessRuntime
from actors.supervisor.effects import Effects
from actors.supervisor.engine import EffectRunner
from actors.supervisor.orders import BuildOrder, Ended, Known, Started, StartOrder
from actors.supervisor.supervisor import Supervisor
from events.log.codec import decode_header
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import Position, StoredEvent
from events.log.writer import BatchingWriter
from events.model.base import Command, Envelope, Reply, service_id_of
from events.model.build import Artifact, BuildStatus, FinishBuild
from events.model.component_parts import ComponentState, InstanceStatus
from events.model.placement import Room
from events.model.registry import encode_command
from events.queue.memory import MemoryTaskQueue, MemoryTopics
from events.secrets.keyring import Keyring
from events.secrets.master import ensure_master_file
from events.secrets.table import MemoryKeyTable

PARTITION = 0
DEADLINE_SECONDS = 30.0
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else "python3"
SERVER = """
import os, socket
open(f"started/{os.environ['RAYFOLD_INSTANCE_ID']}.{os.getpid()}", "w").close()
listening = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    listening.accept()[0].close()
"""
WORKER = ": > started/$RAYFOLD_INSTANCE_ID.$$\nexec sleep 600\n"
COMMANDS = {"web": f"{PYTHON} -I -S server.py", "worker": "sh worker.sh"}
T = TypeVar("T")
Around = Callable[[Callable[[], Awaitable[T]]], Awaitable[T]]


class TakingLog(MemoryEventLog):
    """Claims whoever else owns the partition, who is not told: it learns of it when it writes."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(partitions=len(store.partitions), store=store)
        self._kept_store = store

    async def claim(self, partition: int, owner: str, *, force: bool = False) -> BatchingWriter:
        self._kept_store.partitions[partition].writer = None
        return await super().claim(partition, owner, force=True)


class Place:
    """Where artifacts are laid out: the one there is."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def prepare(self, digest: str, team: str, app: str) -> Prepared:
        return Prepared(path=str(self.directory), env={})


class World:
    """The node, the builders and the gateways, as the supervisors reach them, and the way back to the owner.

    A call outlives its caller, as a call of another process does. `delivered` is how often each message arrives.
    `answers_first`: the answer to a stop is there before the node's own word of the end, which otherwise race.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.delivered = 1
        self.answers_first = False
        self._stops: dict[str, asyncio.Event] = {}
        self.store = MemoryStore(1)
        self.supervisors: dict[str, Supervisor] = {}
        self.keys = Keyring(table=MemoryKeyTable(), master_file=base / "master.key")
        self.queue = MemoryTaskQueue(MemoryTopics())
        self.worker = BuildWorker(
            name="builder-0", queue=self.queue, commands=self, build=self._build, slots=NodeSlots(base / "slots", 2)
        )
        self.building = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.slow = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._watching: list[asyncio.Task[None]] = []
        self.runtime = ProcessRuntime(node_root=base / "node", run_dir=base / "run")
        self.place = Place(base / "app")
        self.agent = Agent(name="n1", runtime=self.runtime, artifacts=self.place, commands=self, orders=base / "orders")

    async def open(self) -> None:
        app = self.base / "app"
        ensure_master_file(self.base / "master.key")
        (app / "started").mkdir(parents=True)
        (app / "started").chmod(0o777)
        (app / "server.py").write_text(SERVER)
        (app / "worker.sh").write_text(WORKER)
        await self.agent.open()
        await self.queue.open()
        lives = (self.agent.run(), self._clean_up(), self.worker.run())
        self._watching = [asyncio.create_task(life) for life in lives]

    async def close(self) -> None:
        for supervisor in self.supervisors.values():
            await supervisor.close()
        tasks = (*self._watching, *self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.agent.close()
        for status in await self.runtime.list():
            await self.runtime.stop(status.instance_id, 0.0)
        await until("the shims to have gone", lambda: not self._shims())
        await asyncio.get_running_loop().shutdown_default_executor()  # a removal that was cut off goes on in its thread

    def _shims(self) -> list[int]:
        own = str(self.base / "node")
        listed = ((p.pid, p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
        return [pid for pid, line in listed if any(part.startswith(own) for part in line)]

    async def own(self, name: str, around: Callable[[EffectRunner], EffectRunner] = lambda runner: runner) -> None:
        """Let a supervisor of this name take the partition from whoever has it, and tend to it."""
        log = TakingLog(self.store)
        await log.open()
        supervisor = Supervisor(name=name, event_log=log, nodes=self)
        supervisor.use(around(Effects(commands=self, nodes=self, builders=self, gateways=self, keys=self.keys)))
        self.supervisors[name] = supervisor
        await supervisor.assign([PARTITION])

    def tend(self) -> None:
        """Let the owner look after what it owns, as it does on a platform."""
        self._watching.append(asyncio.create_task(self.owner.tend()))

    @property
    def owner(self) -> Supervisor:
        """The supervisor that the log names."""
        record = self.store.partitions[PARTITION].owner
        assert record is not None
        return self.supervisors[record.owner]

    async def _clean_up(self) -> None:
        while True:
            await self.agent.forget(await self.agent.finished.get())

    async def _deliver(self, call: Callable[[], Awaitable[T]]) -> T:
        tasks = [asyncio.ensure_future(call()) for _ in range(self.delivered)]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        found = [await asyncio.shield(task) for task in tasks]
        return found[-1]

    # --- CommandPort --------------------------------------------------------------------------------------------------

    async def submit(self, envelopes: Sequence[Envelope]) -> list[Reply]:
        if self.answers_first:
            for envelope in envelopes:
                answered = self._stops.get(envelope.command_id.removesuffix(".exited"))
                if answered is not None:
                    await answered.wait()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                try:
                    replies = await self._deliver(lambda: self.owner.submit(envelopes))
                except Exception as error:
                    replies = [Reply(command_id="", error="unavailable", error_message=str(error))]
                if not any(reply.error for reply in replies):
                    return replies
                await asyncio.sleep(0.02)

    # --- NodePort -----------------------------------------------------------------------------------------------------

    def nodes(self) -> Sequence[Room]:
        return [Room(name="n1")]

    def gone(self) -> Sequence[str]:
        return ()

    async def start(self, node: str, order: StartOrder) -> Started:
        return await self._deliver(lambda: self.agent.start(order))

    async def stop(self, node: str, instance: str, grace_seconds: int) -> Ended:
        answered = self._stops.setdefault(instance, asyncio.Event())
        try:
            return await self._deliver(lambda: self.agent.stop(instance, grace_seconds))
        finally:
            answered.set()

    async def settle(self, node: str, known: Sequence[Known]) -> list[str]:
        return await self._deliver(lambda: self.agent.settle(known))

    async def tell(self, node: str, *, leaving: bool) -> None:
        self.leaving = leaving

    async def strike(self, node: str, *, gone: bool) -> None:
        self.struck = gone

    async def unknown(self, node: str, instances: Sequence[str]) -> list[str]:
        return await self.agent.unknown(instances)

    # --- BuilderPort --------------------------------------------------------------------------------------------------

    async def request(self, order: BuildOrder) -> None:
        await self._deliver(lambda: self.queue.publish(BUILDS, [build_task(order)]))

    async def _build(self, order: BuildOrder, attempt: int) -> FinishBuild:
        if self.slow:
            self.building.set()
            await self.cancelled.wait()
            return FinishBuild(attempt=attempt, status=BuildStatus.CANCELLED, reason="cancelled")
        artifact = Artifact(digest=f"sha256:{order.source.digest}", size_bytes=1, processes=COMMANDS)
        return FinishBuild(attempt=attempt, status=BuildStatus.SUCCEEDED, artifact=artifact)

    async def cancel(self, builder: str, build_id: str) -> None:
        await asyncio.sleep(0)
        self.cancelled.set()

    # --- GatewayPort --------------------------------------------------------------------------------------------------

    async def wait_applied(self, partition: int, offset: int, service_id: str) -> tuple[str, ...]:
        await asyncio.sleep(0)
        return ("gateway-0",)

    async def active_requests(self, service_id: str, instances: Sequence[str]) -> int:
        await asyncio.sleep(0)
        return 0

    # --- looking ------------------------------------------------------------------------------------------------------

    async def ask(self, stream: str, command: Command, command_id: str) -> Reply:
        """Send a command as a user; it must not be refused."""
        envelope = Envelope(stream=stream, command=encode_command(command), command_id=command_id, actor="tester")
        [reply] = await self.submit([envelope])
        assert reply.refusal is None, reply
        return reply

    async def events(self) -> list[StoredEvent]:
        """The whole log."""
        log = MemoryEventLog(partitions=1, store=self.store)
        return [event async for batch in log.read(PARTITION, 0) for event in batch]

    def epochs(self) -> list[int]:
        """The epoch of each batch, in the order of the log."""
        kept = self.store.partitions[PARTITION]
        return [decode_header(kept.batches[base].value, Position(PARTITION, base)).epoch for base in kept.bases]

    def component(self, process: str) -> ComponentState:
        """A component as the owner has it."""
        engine = self.owner.engines.get(PARTITION)
        if engine is None or engine.closed:
            return ComponentState()
        entity = engine.entities.get(f"component/{service_id_of('default', 'shop', process)}")
        if entity is None or entity.pending:
            return ComponentState()
        return cast("ComponentState", entity.state)

    def ready(self, process: str) -> list[str]:
        """The instances of a component when all of them are ready and nothing is going on; else none."""
        state = self.component(process)
        settled = state.operation is None and all(i.status is InstanceStatus.READY for i in state.instances.values())
        return sorted(state.instances) if settled else []

    async def running(self) -> list[str]:
        """The instances that the runtime holds for running."""
        statuses = await self.runtime.list()
        return sorted(s.instance_id for s in statuses if s.state not in (InstanceState.EXITED, InstanceState.LOST))

    def processes(self) -> list[str]:
        """The instance of each process that runs below this world's directory, as the machine shows it."""
        found = []
        for process in psutil.process_iter():
            try:
                told = process.environ()
            except psutil.Error:
                continue
            if told.get("HOME", "").startswith(str(self.base)):
                found.append(told["RAYFOLD_INSTANCE_ID"])
        return sorted(found)

    def started(self) -> list[str]:
        """The instance of each process that ever began."""
        return sorted(path.name.rpartition(".")[0] for path in (self.base / "app" / "started").iterdir())


async def until(what: str, holds: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until `holds`; fails with `what` was awaited."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not holds():
        assert loop.time() < deadline, f"expected {what} within {seconds:.0f} s"
        await asyncio.sleep(0.01)
