"""Starts that fail or are told to end: nothing of them stays.

The Ray cluster that they join is a port which takes connections and never answers.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.system.platform import ROOT, Platform, until

pytestmark = pytest.mark.servers


@pytest.fixture
def platform() -> Iterator[Platform]:
    # Not pytest's own directory: socket paths are short.
    found = Platform(Path(tempfile.mkdtemp(prefix="rf-", dir="/tmp")))
    yield found
    for process in found.processes():
        Platform.end(process.pid)
    shutil.rmtree(found.data)


@pytest.fixture
def silent(platform: Platform) -> Iterator[socket.socket]:
    """The head of the cluster to join."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        (platform.data / "config.toml").write_text(f'ray_address = "127.0.0.1:{server.getsockname()[1]}"\n')
        yield server


def keeper_of(platform: Platform, api_port: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "api.up", str(platform.data), str(api_port), "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True, cwd="/")


def booting(platform: Platform) -> psutil.Process:
    return until("actors to be made", lambda: platform.find("actors.cluster.boot"), 30)


def test_a_start_that_fails_leaves_no_etcd(platform: Platform, silent: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        keeper = keeper_of(platform, other.getsockname()[1])
        said = keeper.communicate(timeout=60)[1].decode()

    assert keeper.returncode == 1
    assert "expected port" in said and "--api-port" in said
    assert platform.processes() == []


def test_down_ends_a_start_with_all_that_it_began(platform: Platform, silent: socket.socket) -> None:
    keeper = keeper_of(platform)
    booting(platform)
    silent.close()  # with an address that nobody has, `down` has nobody to ask

    platform.down()

    assert keeper.wait(10) == 0
    assert platform.processes() == []


def test_what_makes_the_actors_ends_with_a_keeper_that_was_killed(platform: Platform, silent: socket.socket) -> None:
    keeper = keeper_of(platform)
    boot = booting(platform)

    keeper.kill()
    keeper.wait()

    until("it to be gone", lambda: not boot.is_running() or boot.status() == psutil.STATUS_ZOMBIE, 10)
