"""Starts that fail, are told to end, or find another keeper: what is said, and that nothing of them stays.

The Ray cluster that they join is a port which takes connections and never answers.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from api import place, up
from api.job import keeper_command
from tests.system.platform import Platform, until

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
    command, environment = keeper_command(platform.data, api_port, 0)
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


def test_a_keeper_whose_platform_does_not_answer_is_not_called_running(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(up, "READY_SECONDS", 1.0)
    place.prepare(platform.data)
    with (platform.data / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        code = up.run(data=platform.data, api_port=None, gateway_port=None, detach=False)

    assert code == 1
    assert f"expected the platform of process {os.getpid()} to answer" in capsys.readouterr().err


def test_a_keeper_that_waits_for_a_cluster_which_has_gone_gives_way(
    platform: Platform, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from actors.cluster.settings import PlatformSettings
    from api.presence import tell_where
    from events.log.etcd_connection import EtcdSettings

    place.prepare(platform.data)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, os, sys, time\n"
         "lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
         "lock.write(str(os.getpid())); lock.flush(); print(flush=True); time.sleep(60)",
         str(platform.data / "up.lock")], stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    settings = PlatformSettings(
        data=str(platform.data), run="/r", node_root="/n", node="here", etcd=EtcdSettings(endpoints=("127.0.0.1:1",)),
        database_url="sqlite://", ray_address="127.0.0.1:1", ray_joined=True,
    )  # fmt: skip
    settings.save()
    monkeypatch.setattr("api.presence.os.getpid", lambda: holder.pid)
    tell_where(settings)
    monkeypatch.undo()

    assert not up._runs_already(platform.data)

    assert holder.wait(10) == -signal.SIGTERM
