"""Ray on this machine: started detached with token authentication, adopted when it runs, ended by its own processes.

Ray is ours alone: its files, token and ports are found under the platform's own directories, and no other Ray on the
machine is ever touched. Knows nothing of actors.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

START_SECONDS = 60.0
OBJECT_STORE_BYTES = 100 * 1000 * 1000  # nothing here uses the object store; Ray wants at least 75 MB
KILL_SECONDS = 5.0
_CLIENT_SERVER = "ray.util.client.server"


class RayNotStarted(Exception):
    """Ray did not start; the message says what it printed."""


class _State(msgspec.Struct, frozen=True, kw_only=True):
    address: str
    gcs_pid: int
    gcs_started: float
    raylet_pid: int
    raylet_started: float


class RayHead:
    """The Ray head of one platform. Blocking methods: for a command line or a thread.

    `state_dir` keeps the token and what runs; `temp_dir` is Ray's own, short because of unix sockets in it.
    """

    def __init__(self, *, state_dir: Path, temp_dir: Path, import_path: Path) -> None:
        self._state_dir = state_dir
        self._temp_dir = temp_dir
        self._import_path = import_path

    def environment(self) -> dict[str, str]:
        """What a process needs to take part in this Ray."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token()),
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray otherwise replaces loopback by the machine's outward address and listens on every interface.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # A worker that has lost its head is of no use: everything is rebuilt from the log.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
            # Ray otherwise runs workers at 15, and all that they start with them: the platform, and the applications
            # it runs, would wait for whatever else the machine does.
            "RAY_worker_niceness": "0",
            "PYTHONPATH": os.pathsep.join(p for p in (str(self._import_path), os.environ.get("PYTHONPATH", "")) if p),
        }

    def ensure(self) -> str:
        """The address of the running head, started when there is none. Raises RayNotStarted."""
        state = self._read()
        if state is not None and self._lives(state):
            return state.address
        self.stop()
        return self._start()

    def alive(self) -> bool:
        """Whether its two vital processes run."""
        state = self._read()
        return state is not None and self._lives(state)

    def stop(self) -> None:
        """End every process of this Ray, and no other."""
        deadline = time.monotonic() + KILL_SECONDS
        # Again and again: a raylet may start one more worker before its own end comes.
        while (processes := self._processes()) and time.monotonic() < deadline:
            for process in processes:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            time.sleep(0.05)
        self._state_file.unlink(missing_ok=True)

    def _start(self) -> str:
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._temp_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clear_away()
        port, clients, agent, dashboard = free_ports(4)
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address=127.0.0.1",
            f"--port={port}",
            f"--ray-client-server-port={clients}",
            f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-port={dashboard}",
            "--include-log-monitor=false",
            "--no-monitor",
            "--include-dashboard=false",
            f"--temp-dir={self._temp_dir}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats",
            f"--num-cpus={max(2, os.cpu_count() or 2)}", "--log-style=record",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
            start_new_session=True,
        )
        if done.returncode != 0:
            raise RayNotStarted(f"expected `ray start` to succeed, found exit code {done.returncode}:\n"
                                f"{(done.stdout + done.stderr)[-2000:]}")  # fmt: skip
        state = self._remember(port)
        self._end_client_server()
        return state.address

    def _end_client_server(self) -> None:
        """Ray starts a server for remote drivers with every head and has no option against it; nothing here uses it."""
        for process in self._processes():
            try:
                if _CLIENT_SERVER in process.cmdline():
                    process.kill()
            except psutil.NoSuchProcess:
                continue

    def _clear_away(self) -> None:
        """What earlier sessions left, but for the last one's, which may tell why it ended."""
        sessions = sorted(path for path in self._temp_dir.glob("session_*") if not path.is_symlink())
        for path in sessions[:-1]:
            shutil.rmtree(path, ignore_errors=True)

    def _remember(self, port: int) -> _State:
        found = {name: p for p in self._processes() for name in ("gcs_server", "raylet") if _is(p, name)}
        if set(found) != {"gcs_server", "raylet"}:
            raise RayNotStarted(f"expected Ray's gcs_server and raylet to run, found {sorted(found)}")
        state = _State(
            address=f"127.0.0.1:{port}",
            gcs_pid=found["gcs_server"].pid,
            gcs_started=found["gcs_server"].create_time(),
            raylet_pid=found["raylet"].pid,
            raylet_started=found["raylet"].create_time(),
        )
        draft = self._state_file.with_suffix(".draft")
        draft.write_bytes(msgspec.json.encode(state))
        draft.replace(self._state_file)
        return state

    def _processes(self) -> list[psutil.Process]:
        """Every process of this Ray: its temporary directory stands on their command lines or in their environment."""
        mark = str(self._temp_dir)
        token = str(self._token_file)
        mine = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                line = process.cmdline()
                ray_made = any("/ray/" in part or part.startswith(("ray::", "ray.")) for part in line)
                if any(mark in part for part in line) or (
                    ray_made and process.environ().get("RAY_AUTH_TOKEN_PATH") == token
                ):
                    mine.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        known = {process.pid for process in mine}
        return mine + [agent for process in mine for agent in _agents(process) if agent.pid not in known]

    @staticmethod
    def _lives(state: _State) -> bool:
        pairs = ((state.gcs_pid, state.gcs_started), (state.raylet_pid, state.raylet_started))
        return all(_runs(pid, started) for pid, started in pairs)

    def _read(self) -> _State | None:
        try:
            return msgspec.json.decode(self._state_file.read_bytes(), type=_State)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    @property
    def _state_file(self) -> Path:
        return self._state_dir / "head.json"

    @property
    def _token_file(self) -> Path:
        return self._state_dir / "token"

    def _token(self) -> Path:
        path = self._token_file
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        return path


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _agents(process: psutil.Process) -> list[psutil.Process]:
    """What a raylet started. Ray's agents write their title over arguments and environment: only their parent tells
    whose they are, and without it they live on for a minute."""
    try:
        if not _is(process, "raylet"):
            return []
        children = [(child, child.cmdline()) for child in process.children()]
        return [child for child, line in children if line and line[0].startswith("ray::")]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _is(process: psutil.Process, name: str) -> bool:
    try:
        return Path(process.cmdline()[0]).name == name
    except (psutil.NoSuchProcess, IndexError):
        return False


def free_ports(count: int) -> list[int]:
    """Ports that are free now, each another one, below Ray's range for workers (10002–19999) and above the system's.

    Raises RayNotStarted.
    """
    found: set[int] = set()
    for _ in range(200):
        port = 7000 + secrets.randbelow(2900)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
        if len(found) == count:
            return list(found)
    raise RayNotStarted(f"expected {count} free loopback ports between 7000 and 9899, found {len(found)}")
