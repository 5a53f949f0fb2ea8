"""What keeps instances dies: a shim, the platform, or both, on any line; nothing is lost, and nothing runs twice."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.runtime.port import ExitCause, InstanceState
from events import failpoints
from tests.actors.runtime.instances import Instances, runs, script
from tests.actors.runtime.process_node import ProcessNode, processes, spec, wait_for


@pytest.fixture
async def node(base: Path) -> AsyncIterator[ProcessNode]:
    async with processes(base) as node:
        yield node


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
    lines = await Instances.says(runtime, "done")
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
    ended = await Instances.over(runtime)

    assert ended.cause is ExitCause.EXITED
    assert ended.signal == signal.SIGKILL or "not known" in ended.reason  # told by Linux 6.15 and later


async def test_an_adopted_tree_is_stopped_whole(node: ProcessNode) -> None:
    text = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    print('child', os.getpid())\ntime.sleep(600)"
    runtime = await node.platform()
    await runtime.start(spec(node, script(node.artifact, "tree.py", text)))
    lines = await Instances.says(runtime, "child")
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
    (line,) = await Instances.says(runtime, "child")
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
    await wait_for(node.instance() / "home" / "runs")
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

    assert (await Instances.over(runtime)).state is InstanceState.LOST


async def test_output_written_but_not_taken_from_the_pipe_is_written_again(
    node: ProcessNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYFOLD_FAILPOINTS", f"shim.output.written=once-exit:{node.base / 'died'}")
    runtime = await node.platform()
    await runtime.start(spec(node, script(node.artifact, "count.py", COUNTER) + " 300"))
    await Instances.says(runtime, "done")

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
    await Instances.over(runtime)
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
