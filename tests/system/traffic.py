"""The load generator as tests use it: a process beside the test, told when another phase begins.

Knows how to start and end it and what it prints; sends nothing itself.
"""

import json
import subprocess
import sys
from types import TracebackType
from typing import Any

from tests.system.platform import ROOT, Platform

MAX_SECONDS = 280.0
END_SECONDS = 30.0


class Traffic:
    """Steady requests to an app through the gateway for as long as the block lasts."""

    def __init__(self, platform: Platform, app: str, *, rate: float) -> None:
        self._app = app
        host = f"{app}.localhost:{platform.gateway_port}"
        self._command = [sys.executable, "-m", "tests.system.load", str(platform.gateway_port), host, str(rate)]
        self._process: subprocess.Popen[str]
        self.phases: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Traffic":
        self._process = subprocess.Popen(
            [*self._command, str(MAX_SECONDS)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def phase(self, name: str) -> None:
        """What is sent from now on counts under `name`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        assert json.loads(self._process.stdout.readline()) == {"phase": name}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            out, _ = self._process.communicate(timeout=END_SECONDS)
            if kind is None:
                self.phases = json.loads(out.splitlines()[-1])
        finally:
            self._process.kill()
            self._process.wait()

    @property
    def sent(self) -> int:
        return sum(phase["sent"] for phase in self.phases.values())

    @property
    def failed(self) -> int:
        return sum(phase["failed"] for phase in self.phases.values())

    @property
    def rate(self) -> float:
        """Requests a second over the whole time."""
        seconds = sum(float(phase["seconds"]) for phase in self.phases.values())
        return self.sent / max(seconds, 0.001)

    def told(self) -> list[str]:
        """What came of it, and one line a phase."""
        head = f"load on {self._app}: {self.sent} requests, {self.rate:.0f}/s, {self.failed} failed"
        return [head] + [
            f"  {name:<22} {p['sent']:>6} requests in {p['seconds']:>5} s ({p['per_second']}/s), {p['failed']} failed, "
            f"p50 {p['p50_ms']} ms, p99 {p['p99_ms']} ms, max {p['max_ms']} ms {'; '.join(p['failures'])}".rstrip()
            for name, p in self.phases.items()
            if p["sent"]
        ]
