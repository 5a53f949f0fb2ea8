"""The Ray of one platform is ended whole."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.cluster.ray_head import RayHead

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="rf-"))  # short: Ray's sockets lie in it
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.servers
def test_a_stopped_head_leaves_no_process(base: Path) -> None:
    head = RayHead(state_dir=base / "state", temp_dir=base / "ray", import_path=REPOSITORY)
    try:
        head.ensure()
        raylet = psutil.Process(json.loads((base / "state" / "head.json").read_text())["raylet_pid"])
        processes = [raylet, *raylet.children(recursive=True)]
    finally:
        head.stop()

    assert len(processes) > 1  # the agents
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not head.alive()
