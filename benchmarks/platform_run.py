"""A whole platform for a benchmark: started by the command line in a directory of its own, taken down at the end.

Knows the command line only, as a user does.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 180


class BenchmarkFailed(Exception):
    """A step of the benchmark did not succeed; the message has its output."""


class PlatformRun:
    """The command line against the platform in `data`."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def rayfold(self, *arguments: str) -> float:
        """Run a command; seconds of wall clock. Raises BenchmarkFailed."""
        return self.timed([sys.executable, "-m", "api.cli", *arguments])

    def timed(self, command: list[str], cwd: Path | None = None) -> float:
        """Run `command`; seconds of wall clock. Raises BenchmarkFailed."""
        env = {**os.environ, "RAYFOLD_DATA": str(self.data), "PYTHONPATH": str(PROJECT), "NO_COLOR": "1"}
        begin = time.perf_counter()
        done = subprocess.run(
            command, env=env, cwd=cwd or PROJECT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
        seconds = time.perf_counter() - begin
        if done.returncode != 0:
            raise BenchmarkFailed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return seconds

    def up(self) -> float:
        """Start the platform on free ports; seconds until ready."""
        return self.rayfold("up", "--detach", "--api-port", "0", "--gateway-port", "0")

    def down(self) -> None:
        """Take it down, applications included."""
        self.rayfold("down")

    @property
    def gateway_url(self) -> str:
        """Where the gateway listens."""
        return str(json.loads((self.data / "api.json").read_text())["gateway_url"])


@contextmanager
def place() -> Iterator[Path]:
    """A short directory that other users may pass through, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="rf-bench-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
