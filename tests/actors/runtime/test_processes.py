"""The process runtime: the contract, and what only it promises (shims, crashes half-way, users)."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from actors.runtime import output
from actors.runtime.errors import InstanceNotFound, InvalidSpec, NodeNotUsable, RuntimeFault
from actors.runtime.port import ExitCause, InstanceKind, InstanceSpec, InstanceState
from actors.runtime.processes import ProcessRuntime
from actors.runtime.users import UserBook
from events import failpoints
from tests.actors.runtime.contract import PYTHON, Node, RuntimeContract, eventually, runs, script

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives applications users of their own")


class ProcessNode(Node):
    """A node in a temporary directory that other users can reach."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.artifact = base / "artifact"
        self.artifact.mkdir()
        self.artifact.chmod(0o755)
        self._current: ProcessRuntime | None = None

    async def platform(self) -> ProcessRuntime:
        await self.leave()
        self._current = ProcessRuntime(node_root=self.base / "node", run_dir=self.base / "run")
        await self._current.open()
        return self._current

    async def leave(self) -> None:
        if self._current is not None:
            await self._current.close()

    async def end_all(self) -> None:
        runtime = await self.platform()
        for status in await runtime.list():
            await runtime.stop(status.instance_id, 0.0)
        await runtime.close()

    def instance(self, instance_id: str = "one") -> Path:
        return self.base / "node" / "instances" / instance_id

    def shim_pid(self, instance_id: str = "one") -> int | None:
        """The living shim, found by its command line."""
        wanted = str(self.instance(instance_id)).encode()
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in words and any(word.endswith(b"runtime/shim/__main__.py") for word in words):
                return int(path.name)
        return None

    async def new_shim(self, before: int | None) -> int:
        async def look() -> int | None:
            found = self.shim_pid()
            return found if found != before else None

        return await eventually(look, "a replacement shim")

    async def no_shim(self) -> None:
        async def look() -> bool | None:
            return self.shim_pid() is None or None

        await eventually(look, "the shim is gone")


@pytest.fixture
async def node(base: Path) -> AsyncIterator[ProcessNode]:
    node = ProcessNode(base)
    yield node
    await node.end_all()


class TestContract(RuntimeContract):
    """The process runtime keeps the port's promises."""


def spec(node: ProcessNode, command: str, **more: object) -> InstanceSpec:
    return RuntimeContract.spec(node, command, **more)  # type: ignore[arg-type]


COUNTER = """
import sys, time
for n in range(int(sys.argv[1])):
    print('n', n)
    if n % 50 == 0: time.sleep(0.005)
print('done')
time.sleep(600)
"""


async def test_a_killed_shim_is_replaced_and_no_line_is_lost(node: ProcessNode) -> None:
    runtime = await node.platform()
    before = await runtime.start(spec(node, script(node.artifact, "count.py", COUNTER) + " 20000"))
    shim = node.shim_pid()
    for _ in range(4):
        assert shim is not None
        os.kill(shim, signal.SIGKILL)
        shim = await node.new_shim(shim)
    lines = await RuntimeContract.says(runtime, "done")
    lines = await runtime.last_lines("one", 100_000)

    numbers = [int(line.split()[1]) for line in lines if line.startswith("n ")]
    assert sorted(set(numbers)) == list(range(20_000))  # at most a batch twice, none never
    assert (await runtime.status("one")) == before


async def test_the_exit_after_the_shim_was_replaced_is_noticed(node: ProcessNode) -> None:
    runtime = await node.platform()
    started = await runtime.start(spec(node, "sleep 60"))
    shim = node.shim_pid()
    assert shim is not None and started.pid is not None
    os.kill(shim, signal.SIGKILL)
    await node.new_shim(shim)
    await runtime.signal("one", signal.SIGKILL)
    ended = await RuntimeContract.over(runtime)

    assert ended.cause is ExitCause.EXITED
    assert ended.signal == signal.SIGKILL or "not known" in ended.reason  # told by Linux 6.15 and later


async def test_an_adopted_tree_is_stopped_whole(node: ProcessNode) -> None:
    text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    print('child', os.getpid())\ntime.sleep(600)"
    runtime = await node.platform()
    await runtime.start(spec(node, script(node.artifact, "tree.py", text)))
    lines = await RuntimeContract.says(runtime, "child")
    shim = node.shim_pid()
    assert shim is not None
    os.kill(shim, signal.SIGKILL)
    await node.new_shim(shim)

    await runtime.stop("one", 0.3)

    assert not runs(int(lines[0].split()[1]))


async def test_shim_and_process_both_gone_is_lost(node: ProcessNode) -> None:
    runtime = await node.platform()
    started = await runtime.start(spec(node, "sleep 60"))
    await node.leave()
    shim = node.shim_pid()
    assert shim is not None and started.pid is not None
    os.kill(shim, signal.SIGKILL)
    os.kill(started.pid, signal.SIGKILL)
    fresh = await node.platform()

    (status,) = await fresh.list()
    assert (status.state, status.cause, status.exit_code) == (InstanceState.LOST, ExitCause.LOST, None)
    assert (await fresh.start(spec(node, "sleep 60"))).state is InstanceState.LOST
    await fresh.remove("one")


async def test_what_a_lost_instance_left_running_is_ended(node: ProcessNode) -> None:
    text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    print('child', os.getpid())\ntime.sleep(600)"
    runtime = await node.platform()
    started = await runtime.start(spec(node, script(node.artifact, "tree.py", text)))
    (line,) = await RuntimeContract.says(runtime, "child")
    await node.leave()
    shim = node.shim_pid()
    assert shim is not None and started.pid is not None
    os.kill(shim, signal.SIGKILL)
    os.kill(started.pid, signal.SIGKILL)
    fresh = await node.platform()

    assert (await fresh.status("one")).state is InstanceState.LOST
    assert not runs(int(line.split()[1]))


async def test_an_instance_of_an_earlier_boot_is_lost(node: ProcessNode) -> None:
    runtime = await node.platform()
    await runtime.start(spec(node, "sleep 60"))
    await runtime.stop("one", 0)
    await node.no_shim()
    (node.instance() / "exit.json").unlink()
    state = node.instance() / "state.json"
    state.write_text(state.read_text().replace('"pid":', f'"pid":{os.getpid()},"old":'))

    assert (await runtime.status("one")).state is InstanceState.LOST


CRASHES_IN_SHIM = ["shim.locked", "shim.pipes", "shim.forked", "shim.recorded", "shim.released", "shim.ready"]
CRASHES_IN_PLATFORM = ["runtime.directories", "runtime.port", "runtime.spec", "runtime.spawn"]
LEAVE_A_MARK = "echo ran >> $HOME/runs; exec sleep 60"


@pytest.mark.parametrize("point", CRASHES_IN_SHIM)
async def test_a_shim_that_dies_anywhere_in_its_start_is_repaired(
    node: ProcessNode, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = node.base / "died"
    monkeypatch.setenv("RAYFOLD_FAILPOINTS", f"{point}=once-exit:{mark}")
    runtime = await node.platform()
    status = await runtime.start(spec(node, LEAVE_A_MARK, wants_port=True))

    assert mark.exists()
    assert status.state is InstanceState.RUNNING
    await _wait_for(node.instance() / "home" / "runs")
    assert (node.instance() / "home" / "runs").read_text() == "ran\n"
    assert (await runtime.stop("one", 1.0)).cause is ExitCause.STOPPED


@pytest.mark.parametrize("point", CRASHES_IN_PLATFORM)
async def test_a_platform_that_dies_anywhere_in_a_start_is_repaired(node: ProcessNode, point: str) -> None:
    runtime = await node.platform()
    failpoints.arm(point, "error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await runtime.start(spec(node, LEAVE_A_MARK, wants_port=True))
    finally:
        failpoints.disarm(point)
    fresh = await node.platform()
    status = await fresh.start(spec(node, LEAVE_A_MARK, wants_port=True))

    assert status.state is InstanceState.RUNNING
    assert [path.name for path in (node.base / "node" / "ports").iterdir()] == [str(status.port)]


async def test_a_shim_that_dies_while_it_records_the_exit_leaves_it_lost(
    node: ProcessNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYFOLD_FAILPOINTS", f"shim.exit=once-exit:{node.base / 'died'}")
    runtime = await node.platform()
    await runtime.start(spec(node, "true"))

    assert (await RuntimeContract.over(runtime)).state is InstanceState.LOST


async def test_output_written_but_not_taken_from_the_pipe_is_written_again(
    node: ProcessNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYFOLD_FAILPOINTS", f"shim.output.written=once-exit:{node.base / 'died'}")
    runtime = await node.platform()
    await runtime.start(spec(node, script(node.artifact, "count.py", COUNTER) + " 300"))
    await RuntimeContract.says(runtime, "done")

    lines = await runtime.last_lines("one", 10_000)
    assert {f"n {n}" for n in range(300)} <= set(lines)


async def test_stopped_before_its_command_ran_it_never_runs(node: ProcessNode) -> None:
    runtime = await node.platform()
    failpoints.arm("runtime.spawn", "error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await runtime.start(spec(node, LEAVE_A_MARK))
    finally:
        failpoints.disarm("runtime.spawn")
    assert (await runtime.status("one")).state is InstanceState.STARTING

    stopped = await runtime.stop("one")
    again = await runtime.start(spec(node, LEAVE_A_MARK))

    assert stopped == again
    assert (stopped.state, stopped.cause) == (InstanceState.EXITED, ExitCause.STOPPED)
    assert not (node.instance() / "home" / "runs").exists()


async def test_a_removal_that_dies_half_way_is_finished_by_the_next_platform(node: ProcessNode) -> None:
    runtime = await node.platform()
    await runtime.start(spec(node, "mkdir -p $HOME/a/b && chmod 0500 $HOME/a", wants_port=True))
    await RuntimeContract.over(runtime)
    failpoints.arm("runtime.removed", "error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await runtime.remove("one")
    finally:
        failpoints.disarm("runtime.removed")
    fresh = await node.platform()

    assert await fresh.list() == []
    assert list((node.base / "node" / "ports").iterdir()) == []
    assert list((node.base / "node" / "instances").iterdir()) == []


async def test_the_instance_outlives_the_platforms_process_group(node: ProcessNode) -> None:
    runtime = await node.platform()
    started = await runtime.start(spec(node, "sleep 60"))
    shim = node.shim_pid()
    assert shim is not None and started.pid is not None

    assert os.getsid(shim) != os.getsid(0)
    assert os.getsid(started.pid) not in (os.getsid(0), os.getsid(shim))
    parent = int(Path(f"/proc/{shim}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != os.getpid()


async def test_a_socket_that_was_cleaned_away_comes_back(node: ProcessNode) -> None:
    runtime = await node.platform()
    await runtime.start(spec(node, "sleep 60"))
    shim = node.shim_pid()
    shutil.rmtree(node.base / "run")

    async def look() -> bool | None:
        return bool(list((node.base / "run").glob("*.s"))) or None

    await eventually(look, "the socket is back")
    assert node.shim_pid() == shim
    assert (await runtime.stop("one", 1.0)).cause is ExitCause.STOPPED


async def test_a_missing_artifact_and_a_bad_environment_are_refused(node: ProcessNode) -> None:
    runtime = await node.platform()
    good = spec(node, "true")
    for bad in (
        replace(good, artifact_path="/nowhere/at/all"),
        replace(good, env={"A=B": "c"}),
        replace(good, command="  "),
        replace(good, team="../acme"),
    ):
        with pytest.raises(InvalidSpec):
            await runtime.start(bad)
    with pytest.raises(InstanceNotFound):
        await runtime.status("one")


async def test_an_artifact_that_vanished_is_a_failed_start(node: ProcessNode) -> None:
    runtime = await node.platform()
    failpoints.arm("runtime.spawn", "error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await runtime.start(spec(node, "true"))
    finally:
        failpoints.disarm("runtime.spawn")
    shutil.rmtree(node.artifact)
    status = await runtime.start(spec(node, "true"))

    assert (status.state, status.cause) == (InstanceState.EXITED, ExitCause.START_FAILED)
    assert "No such file" in status.reason


async def test_a_socket_path_that_is_too_long_is_said_at_once(base: Path) -> None:
    with pytest.raises(NodeNotUsable, match="107"):
        await ProcessRuntime(node_root=base / "node", run_dir=base / ("x" * 120)).open()


async def test_node_runs_within_a_small_memory_limit(node: ProcessNode) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed on this machine")
    runtime = await node.platform()
    (node.artifact / "ok.js").write_text("console.log('up', process.version); setTimeout(() => {}, 600000)")
    (node.artifact / "ok.js").chmod(0o644)
    await runtime.start(spec(node, "node ok.js"))

    assert (await RuntimeContract.says(runtime, "up"))[0].startswith("up v")


@pytest.mark.root
@ROOT
async def test_each_application_is_a_user_of_its_own(node: ProcessNode) -> None:
    runtime = await node.platform()
    text = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
    command = script(node.artifact, "who.py", text)
    for app, instance in (("shop", "a"), ("blog", "b"), ("shop", "c")):
        await runtime.start(spec(node, command, instance_id=instance, app=app, kind=InstanceKind.TASK))
        await RuntimeContract.over(runtime, instance)

    (a,), (b,), (c,) = [await runtime.last_lines(each) for each in "abc"]
    shop = UserBook(node.base / "node" / "uids.json").owner_of("acme", "shop")
    assert a == c != b
    assert a == f"({shop.uid}, {shop.uid}, {shop.uid}) ({shop.gid}, {shop.gid}, {shop.gid}) []"
    assert shop.uid >= 210_000


@pytest.mark.root
@ROOT
async def test_an_application_reaches_nothing_of_the_platform_or_of_another(node: ProcessNode) -> None:
    runtime = await node.platform()
    home = "echo secret > $HOME/secret; chmod 0777 $HOME/secret; exec sleep 60"
    await runtime.start(spec(node, home, instance_id="victim", app="blog"))
    victim = node.instance("victim")
    await _wait_for(victim / "home" / "secret")
    own = node.instance("one")
    targets = [
        victim / "home" / "secret",
        victim / "spec.json",
        *(own / name for name in ("spec.json", "state.json", "shim.lock", "log", "io/out")),
        node.base / "node" / "uids.json",
        node.base / "node" / "instances",
        node.base / "run",
    ]
    text = f"""
import os
for path in {[str(each) for each in targets]!r}:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path)
        print('REACHED', path)
    except PermissionError:
        pass
for path in ('planted', '../planted', {str(own / "planted")!r}, {str(node.base / "planted")!r}):
    try:
        open(path, 'w')
        print('WROTE', path)
    except PermissionError:
        pass
print('tried')
"""
    await runtime.start(spec(node, script(node.artifact, "pry.py", text), kind=InstanceKind.TASK))
    await RuntimeContract.over(runtime)

    assert await runtime.last_lines("one") == ["tried"]


async def test_the_output_of_the_shortest_lives_is_kept(node: ProcessNode) -> None:
    runtime = await node.platform()
    for n in range(25):
        await runtime.start(spec(node, f"echo {n}", instance_id=f"i{n}", kind=InstanceKind.TASK))
        await RuntimeContract.over(runtime, f"i{n}")

    assert [await runtime.last_lines(f"i{n}") for n in range(25)] == [[str(n)] for n in range(25)]


async def test_segments_say_what_was_said_in_order_and_end_with_the_exit(node: ProcessNode) -> None:
    runtime = await node.platform()
    await runtime.start(spec(node, f"{PYTHON} -c \"print('a\\nb'); print('c', end='')\"", kind=InstanceKind.TASK))
    await RuntimeContract.over(runtime)
    ((_, path),) = output.segments(runtime.log_directory("one"))

    records = list(output.parse(path.read_bytes()))
    assert [(each.data, each.error, each.partial) for each in records] == [
        (b"a", False, False),
        (b"b", False, False),
        (b"c", False, False),
    ]
    assert records[-1].end_offset == path.stat().st_size


async def test_many_stops_at_once_take_the_shortest_grace(node: ProcessNode) -> None:
    runtime = await node.platform()
    text = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready')\ntime.sleep(600)"
    await runtime.start(spec(node, script(node.artifact, "deaf.py", text)))
    await RuntimeContract.says(runtime, "ready")
    async with asyncio.timeout(10):
        statuses = await asyncio.gather(*(runtime.stop("one", grace) for grace in (60.0, 30.0, 0.3)))

    assert len(set(map(repr, statuses))) == 1


async def test_a_shim_that_cannot_start_is_an_error_with_its_words(node: ProcessNode) -> None:
    runtime = await node.platform()
    failpoints.arm("runtime.spawn", "error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await runtime.start(spec(node, "true"))
    finally:
        failpoints.disarm("runtime.spawn")
    (node.instance() / "io").write_text("a file where the pipes belong")

    with pytest.raises(RuntimeFault, match="FileExistsError"):
        await runtime.start(spec(node, "true"))
    (node.instance() / "io").unlink()
    assert (await runtime.start(spec(node, "true"))).started_at is not None


async def _wait_for(path: Path) -> None:
    async def look() -> bool | None:
        return path.exists() or None

    await eventually(look, f"{path} appears")
