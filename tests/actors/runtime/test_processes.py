"""The process runtime: the contract, and what only it promises (shims, crashes half-way, users)."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from actors.runtime import output
from actors.runtime.errors import InstanceNotFound, InvalidSpec, NodeNotUsable, RuntimeFault
from actors.runtime.port import ExitCause, InstanceKind, InstanceState
from actors.runtime.processes import ProcessRuntime
from actors.runtime.users import UserBook
from events import failpoints
from tests.actors.runtime.contract import RuntimeContract
from tests.actors.runtime.instances import PYTHON, Instances, eventually, script
from tests.actors.runtime.process_node import ProcessNode, processes, spec, wait_for

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives applications users of their own")


@pytest.fixture
async def node(base: Path) -> AsyncIterator[ProcessNode]:
    async with processes(base) as node:
        yield node


class TestContract(RuntimeContract):
    """The process runtime keeps the port's promises."""


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

    assert (await Instances.says(runtime, "up"))[0].startswith("up v")


@pytest.mark.root
@ROOT
async def test_each_application_is_a_user_of_its_own(node: ProcessNode) -> None:
    runtime = await node.platform()
    text = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
    command = script(node.artifact, "who.py", text)
    for app, instance in (("shop", "a"), ("blog", "b"), ("shop", "c")):
        await runtime.start(spec(node, command, instance_id=instance, app=app, kind=InstanceKind.TASK))
        await Instances.over(runtime, instance)

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
    await wait_for(victim / "home" / "secret")
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
    await Instances.over(runtime)

    assert await runtime.last_lines("one") == ["tried"]


async def test_the_output_of_the_shortest_lives_is_kept(node: ProcessNode) -> None:
    runtime = await node.platform()
    for n in range(25):
        await runtime.start(spec(node, f"echo {n}", instance_id=f"i{n}", kind=InstanceKind.TASK))
        await Instances.over(runtime, f"i{n}")

    assert [await runtime.last_lines(f"i{n}") for n in range(25)] == [[str(n)] for n in range(25)]


async def test_segments_say_what_was_said_in_order_and_end_with_the_exit(node: ProcessNode) -> None:
    runtime = await node.platform()
    await runtime.start(spec(node, f"{PYTHON} -c \"print('a\\nb'); print('c', end='')\"", kind=InstanceKind.TASK))
    await Instances.over(runtime)
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
    await Instances.says(runtime, "ready")
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
