"""The Ray of one platform is ended whole."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import psutil
import pytest

from actors.cluster.ray_head import RayHead, free_ports

REPOSITORY = Path(__file__).resolve().parents[3]
ASK_FOR_PRIORITY = """
import os, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(lambda: os.nice(0)).remote()))
"""


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


@pytest.mark.servers
def test_workers_have_the_priority_of_their_platform(base: Path) -> None:
    head = RayHead(state_dir=base / "state", temp_dir=base / "ray", import_path=REPOSITORY)
    try:
        address = head.ensure()
        asked = subprocess.run(
            [sys.executable, "-c", ASK_FOR_PRIORITY, address],
            env={**os.environ, **head.environment()}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        head.stop()

    assert asked.stdout.split() == [str(os.nice(0))], asked


def test_its_ports_are_each_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses to start with one port for two of its parts, and of 2,900 two are alike now and then."""
    drawn = cycle([0, 0, 1, 1, *range(20)])
    monkeypatch.setattr("actors.cluster.ray_head.secrets.randbelow", lambda below: 1000 + next(drawn))
    found = free_ports(3)
    assert len(set(found)) == 3
