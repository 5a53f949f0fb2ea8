"""Instances that are containers, on a real engine: what the port promises of them, and that none is ever left over."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from actors.containers.engine import INSTANCE_LABEL, SERVICE_LABEL, ContainerEngine
from actors.runtime.containers import Containers
from actors.runtime.errors import InvalidSpec
from actors.runtime.port import (
    ExitCause,
    ImageSpec,
    InstanceKind,
    InstanceSpec,
    InstanceState,
    InstanceStatus,
    Limits,
)
from actors.runtime.probe import HttpProbe, TcpProbe, wait_ready
from actors.runtime.processes import ProcessRuntime
from tests.actors.runtime.instances import MIB, Instances, eventually
from tests.container_engine import BUSYBOX, Engine

pytestmark = [pytest.mark.servers, pytest.mark.root]

OBEYS = "trap 'echo tidied; exit 0' TERM; echo ready; while true; do sleep 0.1; done"
SERVES = "trap 'exit 0' TERM; echo hello > /tmp/index.html; httpd -f -h /tmp -p $PORT & wait"


class ContainerNode:
    """A node on which platforms come and go while containers stay."""

    def __init__(self, base: Path, engine: Engine) -> None:
        self.base = base
        self.engine = engine
        self.containers = Containers(engine.address, base / "node")
        self._current: ProcessRuntime | None = None

    async def platform(self) -> ProcessRuntime:
        await self.leave()
        self._current = ProcessRuntime(
            node_root=self.base / "node", run_dir=self.base / "run", containers=self.containers
        )
        await self._current.open()
        return self._current

    async def leave(self) -> None:
        if self._current is not None:
            await self._current.close()
            self._current = None

    async def there(self) -> list[str]:
        """Instances whose container exists."""
        found = await ContainerEngine(self.engine.address).containers({INSTANCE_LABEL: ""})
        return sorted(each.labels[INSTANCE_LABEL] for each in found)

    def spec(
        self,
        command: str,
        *,
        instance_id: str = "one",
        kind: InstanceKind = InstanceKind.SERVICE,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        wants_port: bool = False,
        limits: Limits | None = None,
        secrets: tuple[str, ...] = (),
        reference: str = "",
    ) -> InstanceSpec:
        return InstanceSpec(
            instance_id=instance_id,
            service_id="0123456789abcdef",
            team="acme",
            app="shop",
            component="web",
            release=1,
            kind=kind,
            command=command or "as the image says",
            artifact_path=str(self.base),
            image=ImageSpec(reference=reference or f"{self.engine.registry}/{BUSYBOX}", port=port, as_is=not command),
            env=env or {},
            secrets=secrets,
            wants_port=wants_port,
            limits=limits or Limits(),
            grace_seconds=5.0,
        )


@pytest.fixture
async def node(base: Path, container_engine: Engine) -> AsyncIterator[ContainerNode]:
    node = ContainerNode(base, container_engine)
    yield node
    runtime = await node.platform()
    for status in await runtime.list():
        await runtime.stop(status.instance_id, 0.0)
    assert await node.there() == []
    await runtime.close()


@pytest.fixture
async def runtime(node: ContainerNode) -> ProcessRuntime:
    return await node.platform()


def attendant(base: Path, instance_id: str = "one") -> int:
    """The process that attends to the instance's container."""
    wanted = str(base / "node" / "instances" / instance_id).encode()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in words and any(word.endswith(b"runtime/attend.py") for word in words):
                return int(path.name)
    raise AssertionError("nobody attends to it")


async def test_it_serves_on_its_port_and_stops_when_asked(node: ContainerNode, runtime: ProcessRuntime) -> None:
    first = await runtime.start(node.spec(SERVES, wants_port=True, port=8000))
    again = await runtime.start(node.spec(SERVES, wants_port=True, port=8000))
    assert (again.pid, again.port) == (first.pid, first.port)

    assert (await wait_ready(runtime, "one", TcpProbe(), timeout_seconds=20)).ready
    assert (await wait_ready(runtime, "one", HttpProbe(path="/index.html"), timeout_seconds=20)).ready
    assert await node.there() == ["one"]
    ended = await runtime.stop("one")

    assert (ended.state, ended.cause) == (InstanceState.EXITED, ExitCause.STOPPED)
    assert await node.there() == []


async def test_an_image_that_exposes_no_port_is_told_one(node: ContainerNode, runtime: ProcessRuntime) -> None:
    await runtime.start(node.spec(SERVES, wants_port=True))

    assert (await wait_ready(runtime, "one", HttpProbe(path="/index.html"), timeout_seconds=20)).ready


async def test_its_output_is_kept_whole_and_its_exit_code_told(node: ContainerNode, runtime: ProcessRuntime) -> None:
    command = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; exit 7"
    await runtime.start(node.spec(command, kind=InstanceKind.TASK))
    ended = await Instances.over(runtime)

    lines = await runtime.last_lines("one", 30_000)
    assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(20_000)]
    assert "oops" in lines
    assert (ended.state, ended.cause, ended.exit_code) == (InstanceState.EXITED, ExitCause.EXITED, 7)


async def test_the_environment_holds_what_was_given_and_secrets_are_hidden(
    node: ContainerNode, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_SECRET", "hidden")
    env = {"GREETING": "hello; $HOME `id`", "KEY": "swordfish-swordfish"}
    await runtime.start(node.spec("env", env=env, kind=InstanceKind.TASK, secrets=("KEY",)))
    await Instances.over(runtime)

    text = "\n".join(await runtime.last_lines("one", 100))
    assert "GREETING=hello; $HOME `id`" in text
    assert "KEY=" in text and "swordfish" not in text
    assert "PLATFORM_SECRET" not in text and "RAYFOLD_HOME" not in text
    words = Path(f"/proc/{os.getpid()}/cmdline").read_bytes()
    assert b"swordfish" not in words


async def test_the_image_runs_as_it_is(node: ContainerNode, runtime: ProcessRuntime) -> None:
    await runtime.start(node.spec("", kind=InstanceKind.TASK))  # busybox: /bin/sh without input

    assert (await Instances.over(runtime)).exit_code == 0


async def test_over_its_memory_it_is_killed_and_the_reason_told(node: ContainerNode, runtime: ProcessRuntime) -> None:
    hog = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo survived"
    await runtime.start(node.spec(hog, kind=InstanceKind.TASK, limits=Limits(memory_bytes=16 * MIB)))
    ended = await Instances.over(runtime)

    # Whether the engine says that it was memory depends on what it may see of cgroups.
    assert ended.cause is ExitCause.MEMORY_LIMIT or ended.signal == signal.SIGKILL, ended
    assert "memory limit of 16 MiB" in ended.reason
    assert await runtime.last_lines("one") == []


async def test_processes_are_limited(node: ContainerNode, runtime: ProcessRuntime) -> None:
    command = "for i in 1 2 3 4 5 6 7 8 9; do sleep 60 & done; echo all of them"
    await runtime.start(node.spec(command, kind=InstanceKind.TASK, limits=Limits(processes=5)))
    await Instances.over(runtime)

    lines = await runtime.last_lines("one")
    assert "all of them" not in lines and any("fork" in line for line in lines), lines


async def test_a_restarted_platform_adopts_what_runs(node: ContainerNode, runtime: ProcessRuntime) -> None:
    before = await runtime.start(node.spec(OBEYS))
    await Instances.says(runtime, "ready")
    fresh = await node.platform()

    assert await fresh.list() == [before]
    assert await node.there() == ["one"]
    ended = await fresh.stop("one")
    assert (ended.cause, ended.exit_code) == (ExitCause.STOPPED, 0)
    assert (await fresh.last_lines("one"))[-1] == "tidied"


async def test_deaf_to_the_signal_it_is_killed_after_its_grace(node: ContainerNode, runtime: ProcessRuntime) -> None:
    await runtime.start(node.spec("trap '' TERM; echo ready; while true; do sleep 1; done"))
    await Instances.says(runtime, "ready")
    ended = await runtime.stop("one", 0.3)

    assert (ended.cause, ended.signal) == (ExitCause.STOPPED, signal.SIGKILL)
    assert await node.there() == []


async def test_its_attendant_killed_the_container_goes_too(node: ContainerNode, runtime: ProcessRuntime) -> None:
    watch = runtime.watch()
    await runtime.start(node.spec(OBEYS))
    await Instances.says(runtime, "ready")

    os.kill(attendant(node.base), signal.SIGKILL)

    async with asyncio.timeout(20):
        async for statuses in watch:
            if any(each.state is InstanceState.EXITED for each in statuses):
                break
    assert await node.there() == []


async def test_what_was_left_while_no_platform_was_there_is_swept(node: ContainerNode, runtime: ProcessRuntime) -> None:
    for name in ("one", "two"):
        await runtime.start(node.spec(OBEYS, instance_id=name))
        await Instances.says(runtime, "ready", name)
    await node.leave()
    os.kill(attendant(node.base, "one"), signal.SIGKILL)
    with node.engine.client() as client:  # another platform's, on the same engine
        other = client.create_container(
            f"{node.engine.registry}/{BUSYBOX}", labels={"rayfold.home": "/elsewhere", INSTANCE_LABEL: "other"}
        )
    try:
        fresh = await node.platform()

        async def swept() -> bool | None:
            return await node.there() == ["other", "two"] or None

        await eventually(swept, "the container that nobody attends to is gone, and no other")
        assert (await fresh.status("two")).state is InstanceState.RUNNING
    finally:
        await ContainerEngine(node.engine.address).remove(other["Id"])


async def test_the_container_bears_its_labels_and_no_more_rights_than_it_needs(
    node: ContainerNode, runtime: ProcessRuntime
) -> None:
    await runtime.start(node.spec(OBEYS, limits=Limits(memory_bytes=32 * MIB, open_files=100, processes=20)))
    await Instances.says(runtime, "ready")
    with node.engine.client() as client:
        found = client.inspect_container(node.containers.name_of("one"))

    assert found["Config"]["Labels"][SERVICE_LABEL] == "0123456789abcdef"
    host = found["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["Privileged"]) == (32 * MIB, 20, False)
    assert "no-new-privileges" in " ".join(host["SecurityOpt"])


async def test_an_engine_that_is_restarted_does_not_end_what_runs(
    node: ContainerNode, runtime: ProcessRuntime, container_engine: Engine
) -> None:
    await runtime.start(node.spec(SERVES, wants_port=True, port=8000))
    assert (await wait_ready(runtime, "one", HttpProbe(path="/index.html"), timeout_seconds=20)).ready

    await asyncio.to_thread(container_engine.kill)
    try:
        status = await runtime.status("one")
        assert status.state is InstanceState.RUNNING
        assert (await wait_ready(runtime, "one", HttpProbe(path="/index.html"), timeout_seconds=20)).ready
    finally:
        await asyncio.to_thread(container_engine.start)
    await Instances.says(runtime, "the container engine was away")
    ended = await runtime.stop("one")

    assert (ended.cause, ended.exit_code) == (ExitCause.STOPPED, 0)


async def test_what_cannot_start_says_why_in_its_own_log(node: ContainerNode, runtime: ProcessRuntime) -> None:
    await runtime.start(node.spec("true", reference=f"sha256:{'0' * 64}"))
    ended: InstanceStatus = await Instances.over(runtime)

    assert ended.exit_code == 125
    assert any("cannot be made" in line for line in await runtime.last_lines("one"))


async def test_without_an_engine_an_image_is_refused(base: Path, node: ContainerNode) -> None:
    plain = ProcessRuntime(node_root=base / "plain", run_dir=base / "run2")
    await plain.open()
    with pytest.raises(InvalidSpec, match=r"containers\.engine"):
        await plain.start(node.spec("true"))
    await plain.close()
