"""A Ray cluster that somebody else started: joined, watched, and left to run. Knows its address and our actors' names.

What reaches the cluster (its token, its certificates) comes from the environment, as for every Ray program.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from actors.cluster.ray_head import RayNotStarted

ANSWER_SECONDS = 30.0  # how long a cluster that starts beside us may take
CONNECT_SECONDS = 2.0
POLL_SECONDS = 0.25
DISMISS_SECONDS = 60.0


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
            "PYTHONPATH": os.pathsep.join(p for p in (str(self._import_path), os.environ.get("PYTHONPATH", "")) if p),
        }

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
