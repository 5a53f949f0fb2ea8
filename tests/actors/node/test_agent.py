"""The node agent over real processes: what it tells the supervisors of instances whose agent died at a bad moment."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from actors.node import agent as agents
from actors.node.agent import Agent, Prepared
from actors.runtime.port import InstanceState, InstanceStatus
from actors.runtime.processes import ProcessRuntime
from actors.supervisor.orders import StartOrder
from events import failpoints
from events.model.base import Command, Envelope, Reply
from events.model.component_commands import ReportExited, ReportReady
from events.model.registry import decode_command
from tests.actors.runtime.instances import eventually

ORDER = StartOrder(
    instance="one",
    service_id="0123456789abcdef",
    team="default",
    app="shop",
    component="worker",
    release=1,
    slot=1,
    kind="service",
    command="exec sleep 600",
    artifact="sha256:1",
    config={},
    http=False,
    probe_path="/",
    start_timeout_seconds=60,
    grace_seconds=5,
    memory_bytes=2**28,
    open_files=256,
    processes=32,
    operation="",
)
ASKED_OFTEN = 5  # looks at an instance, far more than a probe needs that is content with the first


class WatchedRuntime(ProcessRuntime):
    """Counts how often it was asked for an instance's status."""

    def __init__(self, *, node_root: Path, run_dir: Path) -> None:
        super().__init__(node_root=node_root, run_dir=run_dir)
        self.asked: Counter[str] = Counter()

    async def status(self, instance_id: str) -> InstanceStatus:
        self.asked[instance_id] += 1
        return await super().status(instance_id)


class Machine:
    """A machine on which agents come and go, and the supervisors' ear."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.told: list[Command] = []
        self.runtime: WatchedRuntime
        self._agent: Agent | None = None

    async def prepare(self, digest: str, team: str, app: str) -> Prepared:
        return Prepared(path=str(self.base / "app"), env={})

    async def submit(self, envelopes: Sequence[Envelope]) -> list[Reply]:
        self.told += [decode_command(envelope.stream, envelope.command) for envelope in envelopes]
        return [Reply(command_id=envelope.command_id) for envelope in envelopes]

    async def agent(self) -> Agent:
        """An agent that takes up what the one before it left."""
        await self.leave()
        self.runtime = WatchedRuntime(node_root=self.base / "node", run_dir=self.base / "run")
        self._agent = Agent(name="n1", runtime=self.runtime, artifacts=self, commands=self, orders=self.base / "orders")
        await self._agent.open()
        return self._agent

    async def leave(self) -> None:
        if self._agent is not None:
            await self._agent.close()

    async def hears(self, kind: type[Command]) -> Command:
        async def look() -> Command | None:
            return next((command for command in self.told if isinstance(command, kind)), None)

        return await eventually(look, f"a {kind.__name__}")


@pytest.fixture
async def machine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    monkeypatch.setattr(agents, "ALIVE_SECONDS", 0.0)
    # Not pytest's own directory: other users must be able to pass through, and socket paths are short.
    base = Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp"))
    base.chmod(0o711)
    (base / "app").mkdir(mode=0o755)
    machine = Machine(base)
    yield machine
    for status in await machine.runtime.list():
        await machine.runtime.stop(status.instance_id, 0.0)
    await machine.leave()
    shutil.rmtree(base)


async def test_an_instance_whose_start_was_cut_off_is_ready_only_once_it_runs(machine: Machine) -> None:
    before = await machine.agent()
    failpoints.arm("runtime.spec", "once-error")  # described on disk, and nothing runs yet
    with pytest.raises(failpoints.FailpointError):
        await before.start(ORDER)

    after = await machine.agent()

    async def looked() -> bool | None:
        return machine.runtime.asked["one"] >= ASKED_OFTEN or None

    await eventually(looked, "the agent to look at the instance again and again")
    assert machine.told == []  # told ready, it would be owed no start any more
    started = await after.start(ORDER)
    assert await machine.hears(ReportReady) == ReportReady(
        instance="one", host=started.host, port=started.port, pid=started.pid
    )
    os.kill(started.pid, 0)


async def test_an_exit_while_the_agent_is_still_opening_is_reported(machine: Machine) -> None:
    first = await machine.agent()
    pid = (await first.start(ORDER)).pid
    second = await machine.agent()  # has looked at what runs here, and does not listen yet
    heard = machine.runtime.watch()

    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        async for statuses in heard:
            if any(status.state is InstanceState.EXITED for status in statuses):
                break

    listening = asyncio.create_task(second.run())
    try:
        exited = await machine.hears(ReportExited)
    finally:
        listening.cancel()
    assert isinstance(exited, ReportExited)
    assert exited.signal == signal.SIGKILL
