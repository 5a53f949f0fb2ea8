"""A Ray cluster that somebody else started: joined, watched, and left to run. Knows its address and our actors' names.

What reaches the cluster (its token, its certificates) comes from the environment, as for every Ray program.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actors.cluster.ray_head import RayNotStarted

ANSWER_SECONDS = 30.0  # how long a cluster that starts beside us may take
CONNECT_SECONDS = 2.0
POLL_SECONDS = 0.25
DISMISS_SECONDS = 60.0
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in which Ray tells a job's processes what the job was submitted with
PACKAGES = ("working_dir", "py_modules")  # those of its parts that the cluster's head keeps, and loses


def job_runtime_env() -> dict[str, Any] | None:
    """The runtime environment of the Ray job that this process belongs to; None: it belongs to none."""
    told = os.environ.get(JOB_CONFIG)
    return None if told is None else json.loads(told).get("runtime_env") or {}


class JoinedRay:
    """The same four things that `RayHead` does. Blocking methods: for a command line or a thread."""

    def __init__(self, *, address: str, data: Path, import_path: Path) -> None:
        """`address` is that of the cluster's head, `host:port`; `data` is the platform's data directory."""
        self._address = address
        self._data = data
        self._import_path = import_path

    def environment(self) -> dict[str, str]:
        """What a process needs to take part in this Ray, beyond what it inherits."""
        return {
            "RAY_ADDRESS": self._address,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": _path(str(self._import_path), os.environ.get("PYTHONPATH", "")),
            **self._job_config(),
        }

    def _job_config(self) -> dict[str, str]:
        """What the job was submitted with holds for the actors too, but for its packages: a new head has none of them,
        and Ray remembers for minutes that one was missing. Our code is where every machine sees it."""
        told = job_runtime_env()
        if told is None:
            return {}
        kept = {name: value for name, value in told.items() if name not in PACKAGES}
        if self._import_path.is_relative_to(self._data):
            variables = kept.get("env_vars") or {}
            path = _path(str(self._import_path), variables.get("PYTHONPATH", ""))
            kept["env_vars"] = {**variables, "PYTHONPATH": path}
        return {JOB_CONFIG: json.dumps({"runtime_env": kept})}

    def ensure(self) -> str:
        """The address of the cluster once its head answers. Raises RayNotStarted."""
        host, _, port = self._address.rpartition(":")
        if not host or not port.isdecimal() or "/" in host:
            raise RayNotStarted(f"expected the address of a Ray head as HOST:PORT, found {self._address!r}; see "
                                "RAY_ADDRESS and ray_address in config.toml")  # fmt: skip
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self.alive():
            if time.monotonic() > deadline:
                raise RayNotStarted(f"expected a Ray cluster at {self._address}, found no answer within "
                                    f"{ANSWER_SECONDS:.0f} s; start it, or unset RAY_ADDRESS")  # fmt: skip
            time.sleep(POLL_SECONDS)
        return self._address

    def alive(self) -> bool:
        """Whether the cluster's head takes connections."""
        host, _, port = self._address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        """Take our actors off the cluster; the cluster itself and everybody else's work stay."""
        if self.alive():
            subprocess.run(
                [sys.executable, "-m", "actors.cluster.dismiss", str(self._data)],
                env={**os.environ, **self.environment()},
                check=False,
                timeout=DISMISS_SECONDS,
                cwd="/",
            )


def _path(*places: str) -> str:
    return os.pathsep.join(place for place in places if place)
