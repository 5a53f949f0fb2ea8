"""A platform whose actors die on chosen lines: each failpoint dies once, from the moment the test arms it.

Knows failpoints by their names only; what the lines mean is the tests' affair.
"""

import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.system.platform import ROOT, UP_SECONDS, Platform

Processes = dict[int, str]


class ArmedPlatform(Platform):
    """`names` are all that may ever be armed. A mark that is there keeps its failpoint quiet; `arm` takes it away."""

    def __init__(self, data: Path, marks: Path, names: Iterable[str]) -> None:
        super().__init__(data)
        self._marks = marks
        self._names = tuple(names)
        for name in self._names:
            self._mark(name).touch()

    def up(self) -> float:
        """Start it with every failpoint known to it and none armed."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAYFOLD_")}
        armed = ",".join(f"{name}=once-exit:{self._mark(name)}" for name in self._names)
        environment |= {"PYTHONPATH": str(ROOT), "RAYFOLD_FAILPOINTS": armed}
        command = [sys.executable, "-m", "api.cli", "up", "--detach", "--api-port", "0", "--gateway-port", "0"]
        done = subprocess.run(
            [*command, "--data", str(self.data)], env=environment, capture_output=True, text=True, timeout=UP_SECONDS
        )
        assert done.returncode == 0, done
        told = json.loads((self.data / "api.json").read_text())
        self.api_port = urllib.parse.urlsplit(told["url"]).port or 0
        self.gateway_port = told["gateway_port"]
        return 0.0

    def arm(self, *names: str) -> None:
        """From now on whoever gets there first dies there."""
        for name in names:
            self._mark(name).unlink()

    def armed(self) -> list[str]:
        """The armed failpoints at which nobody has died yet."""
        return [name for name in self._names if not self._mark(name).exists()]

    def disarm(self) -> None:
        """Nobody dies any more."""
        for name in self.armed():
            self._mark(name).touch()

    def application_processes(self, app: str) -> Processes:
        """Everything that runs for an app, with the instance it belongs to; shims are not among it."""
        told = {process.pid: _environment(process) for process in self.processes()}
        return {p: t["RAYFOLD_INSTANCE_ID"] for p, t in told.items() if t.get("RAYFOLD_APP") == app}

    def shims(self, app: str) -> Processes:
        """Every shim that watches an instance of the app, with the instance."""
        found: Processes = {}
        for process in self.processes():
            line = _command(process)
            if any(part.endswith("runtime/shim/__main__.py") for part in line):
                directory = Path(line[-1])
                described = directory / "spec.json"
                if described.exists() and f'"app":"{app}"' in described.read_text():
                    found[process.pid] = directory.name
        return found

    def _mark(self, name: str) -> Path:
        return self._marks / name


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except psutil.Error:  # it ended meanwhile
        return {}


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
