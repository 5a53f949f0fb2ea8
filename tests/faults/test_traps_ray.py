"""Traps 13, 14 and 15 of docs/correctness.md: Ray starts an actor again while the first one lives, and loses answers.

Two raylets of a Ray of this module's own; the log is on the session's etcd.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from actors.cluster.ray_head import RayHead
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from tests.checker.history import History
from tests.checker.rules import Rule, check
from tests.checker.stored import Batch, hot_batches
from tests.faults.ray_owner import Answer, Owner
from tests.system.platform import free_port, until

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.servers, pytest.mark.long, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[2]
# A node counts as dead after three looks half a second apart instead of Ray's 15 to 65 seconds.
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
SECOND = "second"
STORE_BYTES = 80_000_000


class Cluster:
    """A head and a second node, each with a raylet of its own, on this machine."""

    def __init__(self, base: Path) -> None:
        self._temp = base / "ray"
        self._host = ray.util.get_node_ip_address()  # two nodes do not do with loopback
        self._cleaner = RayHead(state_dir=base / "state", temp_dir=self._temp, import_path=ROOT)
        self.address = ""
        self.second = 0

    def start(self) -> None:
        port = free_port()
        self._start("--head", f"--port={port}", f"--temp-dir={self._temp}", "--include-dashboard=false", "--num-cpus=2",
                    f"--ray-client-server-port={free_port()}")  # fmt: skip
        before = self._raylets()
        self._start(f"--address={self._host}:{port}", "--num-cpus=1", f"--resources={json.dumps({SECOND: 1})}")
        (self.second,) = self._raylets() - before
        self.address = f"{self._host}:{port}"

    def stop(self) -> None:
        for pid in self._raylets():
            psutil.Process(pid).resume()
        self._cleaner.stop()

    def _start(self, *options: str) -> None:
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", f"--node-ip-address={self._host}",
            f"--object-store-memory={STORE_BYTES}", f"--dashboard-agent-listen-port={free_port()}",
            "--disable-usage-stats", *options,
        ]  # fmt: skip
        done = subprocess.run(
            command, env={**os.environ, **IMPATIENT}, capture_output=True, text=True, timeout=90, start_new_session=True
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def _raylets(self) -> set[int]:
        found = set()
        for process in psutil.process_iter(["pid", "name", "cmdline"]):
            if process.info["name"] == "raylet" and any(str(self._temp) in part for part in process.info["cmdline"]):
                found.add(process.pid)
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    base = Path(tempfile.mkdtemp(prefix="rf-"))  # short: Ray's sockets lie in it
    found = Cluster(base)
    try:
        found.start()
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(address=found.address, namespace="traps", runtime_env=environment, log_to_driver=False)
        yield found
    finally:
        ray.shutdown()
        found.stop()
        shutil.rmtree(base, ignore_errors=True)


Ask = Callable[[str], Answer]


def owner_of(settings: EtcdSettings, name: str, **options: Any) -> Ask:
    """An actor with the options of the platform's own; ask it a command, which is repeated until it is answered."""
    actor = (
        ray.remote(Owner)
        .options(name=name, lifetime="detached", max_restarts=-1, max_task_retries=0, num_cpus=0.01, **options)
        .remote(msgspec.json.encode(settings))
    )

    def ask(command_id: str) -> Answer:
        def try_once() -> Answer | None:
            try:
                found: Answer = ray.get(actor.append.remote(command_id), timeout=5)
            except (ray.exceptions.RayError, TimeoutError):
                return None
            return found

        return until(f"an answer to {command_id}", try_once, 120)

    return ask


async def stored_in(settings: EtcdSettings) -> list[Batch]:
    async with EtcdClient(settings) as client:
        return await hot_batches(client, settings.namespace)


def well_formed(batches: list[Batch]) -> bool:
    """Offsets and epochs in order, and every command once; who asked for what is not looked at."""
    commands = [fact.command_id for batch in batches for fact in batch.events]
    shape = [v for v in check(History(), batches) if v.rule not in (Rule.PROPOSED, Rule.CLAIMS)]
    return not shape and len(commands) == len(set(commands))


async def test_an_actor_started_again_while_the_first_one_lives_is_the_only_one_that_writes(
    cluster: Cluster, etcd_settings: EtcdSettings
) -> None:
    """Traps 13 and 14. The node falls silent, not dead: Ray gives it up; later the first process wakes as a zombie."""
    ask = owner_of(etcd_settings, "twice", resources={SECOND: 0.01})
    first = ask("c1")
    zombie = psutil.Process(first.pid)
    try:
        zombie.suspend()
        os.kill(cluster.second, signal.SIGSTOP)
        until("Ray to give the node up", lambda: sum(node["Alive"] for node in ray.nodes()) == 1, 60)
        # The actor asked for that node; what Ray does elsewhere, a second one of the same owner does here.
        again = owner_of(etcd_settings, "twice-again")
        second = again("c2")
        assert zombie.is_running() and second.pid != first.pid and second.epoch > first.epoch
        assert again("c1").duplicate, "what the first one had acknowledged is known"
    finally:
        zombie.resume()
        os.kill(cluster.second, signal.SIGCONT)

    def gone() -> bool:
        return not zombie.is_running() or zombie.status() == psutil.STATUS_ZOMBIE

    until("the zombie to end", gone, 60)
    last = again("c3")
    batches = await stored_in(etcd_settings)
    assert well_formed(batches)
    assert last.epoch == second.epoch, "nobody took the partition from the one that serves"


async def test_killed_workers_come_back_under_epochs_that_only_grow(
    cluster: Cluster, etcd_settings: EtcdSettings
) -> None:
    """Trap 13. kill -9, again and again, amid appends."""
    ask = owner_of(etcd_settings, "killed")
    epochs = []
    for n in range(3):
        answer = ask(f"c{n}")
        epochs.append(answer.epoch)
        os.kill(answer.pid, signal.SIGKILL)
    last = ask("c3")

    assert [*epochs, last.epoch] == sorted({*epochs, last.epoch})
    assert all(ask(f"c{n}").duplicate for n in range(4))
    assert well_formed(await stored_in(etcd_settings))


async def test_an_answer_lost_after_the_commit_is_the_first_result_for_the_same_command(
    cluster: Cluster, etcd_settings: EtcdSettings, tmp_path: Path
) -> None:
    """Trap 15. Ray repeats nothing (`max_task_retries` 0); the caller repeats the id, and the ledger answers."""
    mark = tmp_path / "died"
    failpoints = {"PYTHONPATH": str(ROOT), "RAYFOLD_FAILPOINTS": f"log.append.committed=once-exit:{mark}"}
    ask = owner_of(etcd_settings, "lost", runtime_env={"env_vars": failpoints})

    answer = ask("c1")

    assert mark.exists(), "it died after the commit, before the answer"
    assert answer.duplicate and answer.offset == 0
    batches = await stored_in(etcd_settings)
    assert well_formed(batches)
    assert [fact.command_id for batch in batches for fact in batch.events].count("c1") == 1
