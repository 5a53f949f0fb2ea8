"""Two platforms on one machine whose applications have the same name: what one ends, the other keeps.

Knows the runtime's port and its directories; an instance's id says nothing about the platform that runs it.
"""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.runtime.port import InstanceSpec, InstanceState
from actors.runtime.shim import files, proc
from tests.actors.runtime.instances import Instances, eventually
from tests.actors.runtime.process_node import ProcessNode

# The worker leaves group and session, so that only the mark in its environment says whose it is.
LEAVES = "setsid sleep 600 & echo $! > $HOME/worker; wait"


@pytest.fixture
async def homes() -> AsyncIterator[tuple[ProcessNode, ProcessNode]]:
    nodes = []
    for _ in range(2):
        base = Path(tempfile.mkdtemp(prefix="rf-"))
        base.chmod(0o711)
        nodes.append(ProcessNode(base))
    yield nodes[0], nodes[1]
    for node in nodes:
        await node.end_all()
        shutil.rmtree(node.base, ignore_errors=True)


def _spec(node: ProcessNode) -> InstanceSpec:
    return Instances.spec(node, LEAVES)


async def _worker(node: ProcessNode) -> int:
    async def look() -> int | None:
        written = node.instance() / files.HOME / "worker"
        text = written.read_text() if written.exists() else ""
        return int(text) if text.endswith("\n") else None

    return await eventually(look, "the application's worker starts")


def _alive(pid: int) -> bool:
    found = proc.stat(pid)
    return found is not None and found.alive


async def test_a_stop_in_one_platform_leaves_the_processes_of_the_other(
    homes: tuple[ProcessNode, ProcessNode],
) -> None:
    ours, theirs = homes
    runtime, other = await ours.platform(), await theirs.platform()
    await runtime.start(_spec(ours))
    started = await other.start(_spec(theirs))
    worker, their_worker = await _worker(ours), await _worker(theirs)

    stopped = await runtime.stop("one", 0.0)

    assert stopped.state is InstanceState.EXITED
    assert not _alive(worker)
    assert _alive(their_worker)
    assert await other.status("one") == started


async def test_an_instance_that_was_lost_takes_only_its_own_processes_along(
    homes: tuple[ProcessNode, ProcessNode],
) -> None:
    ours, theirs = homes
    runtime, other = await ours.platform(), await theirs.platform()
    started = await runtime.start(_spec(ours))
    await other.start(_spec(theirs))
    worker, their_worker = await _worker(ours), await _worker(theirs)
    shim = ours.shim_pid()
    assert shim is not None and started.pid is not None

    # The shim first, and stopped: it must not see its process end.
    os.kill(shim, signal.SIGSTOP)
    os.kill(started.pid, signal.SIGKILL)
    os.kill(shim, signal.SIGKILL)

    await Instances.over(runtime)
    assert not _alive(worker)
    assert _alive(their_worker)
    assert (await other.status("one")).state is InstanceState.RUNNING


async def test_an_instance_of_an_earlier_version_is_still_known_by_its_id(
    homes: tuple[ProcessNode, ProcessNode],
) -> None:
    node, _ = homes
    runtime = await node.platform()
    await runtime.start(_spec(node))
    worker = await _worker(node)
    path = node.instance() / files.SPEC
    stored = json.loads(path.read_text())
    del stored["launch"]["environment"]["RAYFOLD_HOME"]
    path.write_text(json.dumps(stored))
    shim = node.shim_pid()
    assert shim is not None
    os.kill(shim, signal.SIGKILL)  # its successor reads what an earlier version would have left
    await node.new_shim(shim)

    await runtime.stop("one", 0.0)

    assert not _alive(worker)
