"""A whole platform as its users see it: the command line, HTTP, the gateway, and the processes the machine shows.

Knows no module of the product: what these tests see is what anybody outside sees.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.05
CLI_SECONDS = 120.0
UP_SECONDS = 120.0
ANSWER_SECONDS = 20.0

Found = TypeVar("Found")
Json = dict[str, Any]


def until(
    what: str, look: Callable[[], Found | None], seconds: float = 30.0, explain: Callable[[], object] | None = None
) -> Found:
    """Look again and again until something true comes; fails with `what` was awaited, and with what `explain` tells."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            told = explain() if explain is not None else repr(found)
            raise AssertionError(f"expected {what} within {seconds:.0f} s, found {told}")
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command did."""

    command: tuple[str, ...]
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Json]:
        """stdout as lines of JSON objects."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Json:
        """The error document that `--json` leaves, on stdout or stderr, the last JSON object there."""
        for line in reversed((self.out + "\n" + self.err).splitlines()):
            if line.startswith("{"):
                found: Json = json.loads(line)
                return found
        raise AssertionError(f"expected an error document, found {self}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came over HTTP; `status` 0 when no answer came."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    target: str,
    *,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    seconds: float = ANSWER_SECONDS,
    host: str = "127.0.0.1",
) -> Answer:
    """One request on a connection of its own to a port of this machine. `target` goes out as it is."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.putrequest(method, target, skip_host=headers is not None and "Host" in headers)
        for name, value in {"Content-Length": str(len(body or b"")), **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(status=answer.status, headers={k.lower(): v for k, v in answer.getheaders()}, body=answer.read())
    except (OSError, http.client.HTTPException):
        return Answer(status=0)
    finally:
        connection.close()


class Platform:
    """One platform in its data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.host = "127.0.0.1"
        self.api_port = 0
        self.gateway_port = 0
        self._seen = ""  # cursor of `events`

    # --- its life -----------------------------------------------------------------------------------------------------

    def up(self, environment: dict[str, str] | None = None) -> float:
        """Start it, or what is missing of it; seconds that it took."""
        began = time.monotonic()
        ports = [f"{self.api_port}", "--gateway-port", f"{self.gateway_port}"]
        self.cli("up", "--detach", "--api-port", *ports, timeout=UP_SECONDS, environment=environment)
        told = json.loads((self.data / "api.json").read_text())
        self.api_port = urllib.parse.urlsplit(told["url"]).port or 0
        self.gateway_port = told["gateway_port"]
        return time.monotonic() - began

    def down(self, *options: str, environment: dict[str, str] | None = None) -> None:
        self.cli("down", *options, timeout=60, environment=environment)

    @property
    def ready(self) -> bool:
        return ask(self.api_port, "GET", "/readyz", seconds=5, host=self.host).status == 200

    def ensure(self) -> None:
        """Whatever an earlier test did to it: it is up and ready."""
        if self.api_port == 0 or not (self.keeper() and self.ready):
            self.up()
        until("the platform to be ready", lambda: self.ready, 60)

    # --- as its users see it ------------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        return (self.data / "tokens" / "admin").read_text().strip()

    def cli(
        self,
        *arguments: str,
        expect: int | None = 0,
        timeout: float = CLI_SECONDS,
        token: str = "",
        cwd: Path = ROOT,
        environment: dict[str, str] | None = None,
    ) -> Ran:
        """Run `rayfold` with --json; `expect` None takes any exit code."""
        command = [sys.executable, "-m", "api.cli", *arguments, "--data", str(self.data), "--json"]
        given = {k: v for k, v in (environment or os.environ).items() if not k.startswith("RAYFOLD_")}
        environment = given | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | ({"RAYFOLD_TOKEN": token} if token else {})
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
        ran = Ran(command=arguments, code=done.returncode, out=done.stdout, err=done.stderr)
        assert expect is None or ran.code == expect, f"expected exit code {expect}, found {ran}"
        return ran

    def http(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        token: str | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request to the API; `token` None is the administrator's, empty is none. `raw` goes out unencoded."""
        bearer = self.token if token is None else token
        sent = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        payload = json.dumps(body).encode() if body is not None else raw
        if payload is not None:
            sent["Content-Type"] = "application/json"
        return ask(self.api_port, method, target, headers=sent | (headers or {}), body=payload, host=self.host)

    def get(self, target: str) -> Json:
        """A read that must succeed, tried again while the API is away."""

        def look() -> Json | None:
            answer = self.http("GET", target)
            assert answer.status in (0, 200, 503), f"GET {target}: {answer.status} {answer.text}"
            return {"found": answer.json} if answer.status == 200 else None

        found: Json = until(f"an answer from {target}", look)["found"]
        return found

    def visit(self, app: str, path: str = "/", *, body: bytes | None = None) -> Answer:
        """A request through the gateway. `app` is the first part of the host name."""
        host = f"{app}.localhost:{self.gateway_port}"
        method, sent = "POST" if body else "GET", {"Host": host}
        return ask(self.gateway_port, method, path, headers=sent, body=body, host=self.host)

    def serving(self, app: str) -> Json:
        """What the app of `apps.web` says of itself, through the gateway."""
        answer = self.visit(app)
        assert answer.status == 200, f"{app}: expected 200, found {answer.status}: {answer.text[:300]}"
        found: Json = answer.json
        return found

    def component(self, app: str, *below: str) -> str:
        """Path of an app's `web` component, or of what is below it."""
        return "/".join([f"/v1/teams/default/apps/{app}/components/web", *below])

    def instances(self, app: str) -> list[Json]:
        """The live instances of `web`."""
        items: list[Json] = self.get(self.component(app, "instances?limit=200"))["items"]
        return [item for item in items if item["alive"]]

    def ended(self, operation: str, seconds: float = 90.0) -> Json:
        """The operation once it has ended."""

        def look() -> Json | None:
            answer = self.http("GET", f"/v1/operations/{operation}")
            done = answer.status == 200 and answer.json["status"] != "running"
            return answer.json if done else None

        return until(f"operation {operation} to end", look, seconds)

    def events(self, **query: str) -> list[Json]:
        """Every event that passes the filter."""
        found: list[Json] = []
        since = ""
        while True:
            asked = urllib.parse.urlencode({**query, "limit": "1000"} | ({"since": since} if since else {}))
            page = self.get(f"/v1/events?{asked}")
            found += page["items"]
            since = page["next_cursor"]
            if page["caught_up"]:
                return found

    def events_in_all(self) -> int:
        """How many events the log holds."""
        while True:
            since = f"?limit=1000&since={self._seen}" if self._seen else "?limit=1000"
            page = self.get(f"/v1/events{since}")
            self._seen = page["next_cursor"]
            if page["caught_up"]:
                return sum(int(offset) for offset in self._seen.split("."))

    # --- as the machine sees it ---------------------------------------------------------------------------------------

    def keeper(self) -> psutil.Process | None:
        """The process that watches over the others."""
        return next((p for p in self.processes() if "api.up" in p.cmdline()), None)

    def processes(self) -> list[psutil.Process]:
        """Every process of this platform: its directory stands on its command line or in its environment, or in those
        of a process above it (Ray's agents write their title over both)."""
        mine: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                line = process.cmdline()
                if "api.cli" in line:
                    continue
                told = [*line, *process.environ().values()] if line else []
                if any(str(self.data) in text for text in told):
                    mine |= {p.pid: p for p in (process, *process.children(recursive=True))}
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return list(mine.values())

    def find(self, *words: str) -> psutil.Process | None:
        """The one process on whose command line every word stands; None when there is none."""
        found = []
        for process in self.processes():
            try:
                line = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if all(word in line for word in words):
                found.append(process)
        return min(found, key=lambda p: p.pid, default=None)

    @staticmethod
    def end(pid: int) -> None:
        """kill -9, and wait until it runs no more, whether or not anybody has asked how it ended."""
        try:
            process = psutil.Process(pid)
            process.kill()
        except psutil.NoSuchProcess:
            return

        def gone() -> bool:
            try:
                return process.status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return True

        until(f"process {pid} to be gone", gone, 10)

    def what_it_said(self) -> str:
        """The last warnings in the platform's own logs, for a failing test."""
        lines = []
        for path in sorted((self.data / "platform").glob("*.log")):
            told = [line for line in path.read_text(errors="replace").splitlines() if '"info"' not in line]
            lines += [f"{path.name}: {line[:1500]}" for line in told[-8:]]
        return "\n".join(lines)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
