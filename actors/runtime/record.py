"""What an instance's directory says: how it was set up, how it stands, how it ended.

Reads and writes the platform's half of the files in shim/files.py; starts and stops nothing. All calls block briefly.
"""

import fcntl
import hashlib
import os
import signal
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from actors.runtime.attend import OOM_FILE
from actors.runtime.errors import InstanceStillRunning
from actors.runtime.port import MIB, ExitCause, InstanceSpec, InstanceState, InstanceStatus
from actors.runtime.shim import files, proc

_LOCK_SECONDS = 6.0  # longer than a shim waits for the same lock
_SOCKET_NAME_BYTES = 8
_T = TypeVar("_T")


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What the shim needs to know of a spec, worked out by the platform; shim/child.py reads the same names."""

    shell_line: str
    environment: dict[str, str]
    uid: int
    gid: int
    memory_bytes: int
    open_files: int
    processes: int
    """RLIMIT_NPROC: of the user, not of the instance."""
    watched_processes: int
    """Processes and threads the shim lets the instance have; 0 leaves it to RLIMIT_NPROC."""
    hidden: tuple[str, ...] = ()
    """Texts that must not stand in the output, longest first, none with a newline: see events/secrets/forms.py."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """spec.json. Instances outlive platforms: a field added later needs a default, or older ones cannot be adopted."""

    spec: InstanceSpec
    host: str
    port: int | None
    user: str
    socket: str
    created_at: int
    launch: Launch


class _Process(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    start_ticks: int
    boot_id: str
    started_at: int


class _Exit(msgspec.Struct, frozen=True, kw_only=True):
    cause: ExitCause
    exit_code: int | None
    signal: int | None
    reason: str
    exited_at: int


def _read(path: Path, kind: type[_T]) -> _T | None:
    """None when absent or, after a power cut, not whole."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def hidden_texts(directory: Path) -> tuple[str, ...]:
    """The texts that must stand in nothing that the instance of this directory says. Blocks."""
    setup = InstanceDirectory(directory).setup()
    return setup.launch.hidden if setup else ()


class InstanceDirectory:
    """One instance's directory, seen from the platform."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """The output segments, see output.py."""
        return self.path / files.LOG

    def setup(self) -> Setup | None:
        """spec.json; None while the instance is not set up."""
        return _read(self.path / files.SPEC, Setup)

    def write_setup(self, setup: Setup) -> None:
        """From here on the instance exists."""
        content = msgspec.to_builtins(setup)
        files.write_json(str(self.path / files.SPEC), content)

    @property
    def launched(self) -> bool:
        """Whether the command may have run."""
        return (self.path / files.LAUNCHED).exists()

    def status(self, setup: Setup) -> InstanceStatus:
        """How the instance stands, from the files and /proc alone."""
        ended = _read(self.path / files.EXIT, _Exit)
        process = _read(self.path / files.STATE, _Process)
        launched = self.launched
        spec = setup.spec
        status = InstanceStatus(
            instance_id=spec.instance_id,
            service_id=spec.service_id,
            team=spec.team,
            app=spec.app,
            component=spec.component,
            release=spec.release,
            kind=spec.kind,
            state=InstanceState.STARTING,
            host=setup.host,
            port=setup.port,
            user=setup.user,
            started_at=process.started_at if process and launched else None,
            pid=process.pid if process and launched else None,
        )
        if ended is not None:
            return self._as_a_container(setup, _ended(status, ended))
        if not launched:
            return status
        if process is not None and proc.is_alive(process.pid, process.start_ticks, process.boot_id):
            return msgspec.structs.replace(status, state=InstanceState.RUNNING)
        return self._dead_unrecorded(status)

    def _as_a_container(self, setup: Setup, status: InstanceStatus) -> InstanceStatus:
        """The shim saw its attendant end; what the engine said of the container counts."""
        if setup.spec.image is None or status.cause is ExitCause.STOPPED:
            return status
        limit = f"its memory limit of {setup.spec.limits.memory_bytes // MIB} MiB"
        if (self.path / OOM_FILE).exists():
            return msgspec.structs.replace(status, cause=ExitCause.MEMORY_LIMIT, reason=f"over {limit}")
        if status.signal == signal.SIGKILL:
            # Not every engine notices: podman does not where it cannot watch the container's cgroup.
            reason = f"ended by SIGKILL that nobody here sent; most likely it was over {limit}"
            return msgspec.structs.replace(status, reason=reason)
        return status

    def _dead_unrecorded(self, status: InstanceStatus) -> InstanceStatus:
        """Dead, and no exit.json: a living shim is about to write it, else nobody will."""
        if self._shim_lives():
            return msgspec.structs.replace(status, state=InstanceState.RUNNING)
        ended = _read(self.path / files.EXIT, _Exit)  # it may have been written between the two looks
        if ended is not None:
            return _ended(status, ended)
        reason = "its process is gone and nobody was left to see how it ended"
        return msgspec.structs.replace(status, state=InstanceState.LOST, pid=None, cause=ExitCause.LOST, reason=reason)

    def _shim_lives(self) -> bool:
        try:
            with (self.path / files.LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def conclude_unstarted(self) -> None:
        """End an instance whose command never ran, so that it never will. Does nothing when it did run after all."""
        with (self.path / files.LOCK).open("ab") as lock:
            _lock_or_raise(lock.fileno(), self.path)
            if self.launched or (self.path / files.EXIT).exists():
                return
            how = _Exit(
                cause=ExitCause.STOPPED,
                exit_code=None,
                signal=None,
                reason="stopped before its command was started",
                exited_at=time.time_ns() // 1000,
            )
            files.write_json(str(self.path / files.EXIT), msgspec.to_builtins(how))


def _ended(status: InstanceStatus, ended: _Exit) -> InstanceStatus:
    return msgspec.structs.replace(
        status,
        state=InstanceState.LOST if ended.cause is ExitCause.LOST else InstanceState.EXITED,
        pid=None,
        exited_at=ended.exited_at,
        exit_code=ended.exit_code,
        signal=ended.signal,
        cause=ended.cause,
        reason=ended.reason,
    )


def _lock_or_raise(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InstanceStillRunning(
                    f"expected {path} to have no shim, found one starting it; stop the instance again"
                ) from None
        time.sleep(0.01)


def socket_name(instance_id: str) -> str:
    """A short name for the shim's socket: whole socket paths may have 107 bytes."""
    return hashlib.blake2b(instance_id.encode(), digest_size=_SOCKET_NAME_BYTES).hexdigest() + ".s"


def directory_mode_for(uid: int) -> int:
    """0750 where group and owner differ, 0700 where the platform and its applications are one user."""
    return 0o700 if uid == os.geteuid() else 0o750
