"""A Ray cluster as an administrator starts one, with token authentication: a head, further nodes, jobs submitted to it.

Knows Ray's command line, nothing of the platform. Only processes of its own temporary directory are ever ended.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from actors.cluster.ray_head import RayHead
from tests.system.platform import free_port

ROOT = Path(__file__).resolve().parents[1]
STORE_BYTES = 80_000_000
START_SECONDS = 120
LOOPBACK = "127.0.0.1"
IMPATIENT = {  # a silent node is given up after seconds, not a minute
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3",  # and so is a silent head
}


class RayCluster:
    """`start_head`, then `add` and `submit`; `stop` ends all of it. `base` must be short: Ray's sockets lie in it."""

    def __init__(self, base: Path, host: str = LOOPBACK) -> None:
        """`host`: the head's address. On loopback the head stays alone."""
        self._host = host
        self.address = ""
        self.dashboard = ""
        self._port = free_port()
        self._temp = base / "ray"
        self._token = base / "token"
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_hex(32))
        self._cleaner = RayHead(state_dir=base / "state", temp_dir=self._temp, import_path=ROOT)

    @property
    def environment(self) -> dict[str, str]:
        """Of whoever uses the cluster; `python` on its nodes is the one that has what the project needs."""
        found = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYFOLD_"))}
        # Ray otherwise replaces loopback by the machine's outward address.
        alone = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if self._host == LOOPBACK else {}
        return found | {
            **alone,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_USAGE_STATS_ENABLED": "0",
            **IMPATIENT,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def start_head(self) -> None:
        """At the address of the one before, if there was one."""
        port, dashboard, host = self._port, free_port(), self._host
        self._start(
            (), f"--node-ip-address={host}", "--head", f"--port={port}", f"--dashboard-port={dashboard}",
            f"--dashboard-host={host}", f"--temp-dir={self._temp}", "--num-cpus=2",
            f"--ray-client-server-port={free_port()}",
        )  # fmt: skip
        self.address, self.dashboard = f"{host}:{port}", f"http://{host}:{dashboard}"

    def lose_head(self) -> None:
        """kill -9 of what holds the cluster's state; the head's machine leaves the cluster over it."""
        for process in self._processes("gcs_server"):
            process.kill()
        _, alive = psutil.wait_procs(self._processes("raylet"), timeout=START_SECONDS)
        assert not alive, f"expected the raylet to end without its head, found {alive}"

    def add(self, name: str, host: str, within: Sequence[str] = ()) -> None:
        """Another node, which joins the head. `within`: what to put before the command, to run it elsewhere."""
        # Whatever ports are free for its workers: by itself each node of one machine would try the same ones.
        ports = ("--min-worker-port=0", "--max-worker-port=0")
        options = (f"--node-ip-address={host}", f"--node-name={name}", f"--labels=zone={name}", "--num-cpus=1")
        self._start(within, *options, *ports, f"--address={self.address}")

    def submit(self, working_dir: Path, *entrypoint: str, seconds: float = 180) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir … -- …`, without waiting for the job's end."""
        command = [*self._ray, "job", "submit", "--address", self.dashboard, "--working-dir", str(working_dir),
                   "--no-wait", "--", *entrypoint]  # fmt: skip
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=seconds)

    def job(self, verb: str, job: str) -> str:
        """What `ray job status|logs` says of a job."""
        command = [*self._ray, "job", verb, "--address", self.dashboard, job]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def stop(self) -> None:
        for process in self._processes("raylet"):
            process.resume()  # a test may have stopped it
        self._cleaner.stop()

    def _processes(self, name: str) -> list[psutil.Process]:
        every = psutil.process_iter(["name", "cmdline"])
        mark = str(self._temp)
        return [p for p in every if p.info["name"] == name and any(mark in part for part in p.info["cmdline"] or ())]

    _ray = (sys.executable, "-m", "ray.scripts.scripts")

    def _start(self, within: Sequence[str], *options: str) -> None:
        command = [*within, *self._ray, "start", f"--object-store-memory={STORE_BYTES}", "--disable-usage-stats",
                   f"--dashboard-agent-listen-port={free_port()}", *options]  # fmt: skip
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=START_SECONDS,
            start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
