"""What happens between fork and exec: the new process becomes its user, takes its limits and waits to be released.

Runs in the shim's child only; knows nothing of sockets or segments. See `run` for why it waits.
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH118

import ctypes
import fcntl
import os
import resource
import signal

from actors.runtime.shim import files

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_CHILD_SUBREAPER = 36
_UMASK = 0o027
_GIB = 1 << 30
DESCRIPTORS_MAX = 1 << 20
_HIGH_DESCRIPTOR = 64  # above anything the shim has open, so that wiring 0, 1, 2 cannot hit it

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int) -> None:
    if _libc.prctl(option, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def become_subreaper() -> None:
    """Orphans of the instance become our children instead of init's, so none of them is lost from sight."""
    _prctl(_PR_SET_CHILD_SUBREAPER)


def address_space_backstop(memory_bytes: int) -> int:
    """RLIMIT_DATA for a memory limit: far above what an honest process maps, low enough to stop a burst.

    The limit itself is kept by the shim, which watches resident memory. RLIMIT_AS cannot keep it (node reserves 0.7 GB
    before it runs a line), nor can RLIMIT_DATA (each thread's stack counts 8 MB); this only bounds what a
    process can take between two looks.
    """
    return max(4 * memory_bytes, memory_bytes + 2 * _GIB)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _apply_limits(memory_bytes: int, open_files: int, processes: int) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, open_files)
    _limit(resource.RLIMIT_DATA, address_space_backstop(memory_bytes))
    _limit(resource.RLIMIT_NPROC, processes)


def _become(uid: int, gid: int) -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS)
    os.umask(_UMASK)


def _wire(standard_in: int, out: int, err: int, keep: int) -> None:
    for source, target in ((standard_in, 0), (out, 1), (err, 2)):
        os.dup2(source, target, inheritable=True)
    os.closerange(3, keep)
    os.closerange(keep + 1, DESCRIPTORS_MAX)


def _reset_signals() -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT):  # ignored by Python or by the shim
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class Plan:
    """All the child needs, gathered before the fork."""

    __slots__ = (
        "directory",
        "environment",
        "gid",
        "hidden",
        "memory_bytes",
        "open_files",
        "processes",
        "shell_line",
        "uid",
        "watched_processes",
    )

    def __init__(self, directory: str, stored: "dict[str, object]") -> None:
        launch = stored["launch"]
        assert isinstance(launch, dict)  # noqa: S101 -- written by the platform itself, see processes.py
        self.directory = directory
        self.shell_line = str(launch["shell_line"])
        self.environment = {str(name): str(value) for name, value in launch["environment"].items()}
        self.uid = int(launch["uid"])
        self.gid = int(launch["gid"])
        self.memory_bytes = int(launch["memory_bytes"])
        self.open_files = int(launch["open_files"])
        self.processes = int(launch["processes"])
        self.watched_processes = int(launch["watched_processes"])
        self.hidden = tuple(map(str, launch.get("hidden") or ()))

    def mark(self) -> bytes:
        """The environment entry that every process of the instance bears unless it takes it off.

        The directory, since another platform of this machine may run an instance of the same id under the same user;
        the id where an earlier version, which did not set RAYFOLD_HOME, set the instance up.
        """
        name = "RAYFOLD_HOME" if "RAYFOLD_HOME" in self.environment else "RAYFOLD_INSTANCE"
        return f"{name}={self.environment[name]}".encode()


def run(plan: Plan, gate: int, failure: int, out: int, err: int) -> None:
    """Become the command; never returns. A failure to do so is written to `failure` as text.

    The child waits at `gate` until the shim has recorded its pid. If the shim dies first the gate closes and the
    command never runs, so the repair may start afresh; `launched`, made only after the gate opened, says that the
    command may have run, so no repair will ever run it a second time.
    """
    try:
        os.setsid()
        _reset_signals()
        if os.read(gate, 1) != b"g":
            os._exit(125)
        os.close(os.open(os.path.join(plan.directory, files.LAUNCHED), os.O_CREAT | os.O_WRONLY, 0o600))
        standard_in = os.open(os.devnull, os.O_RDONLY)
        failure = fcntl.fcntl(failure, fcntl.F_DUPFD_CLOEXEC, _HIGH_DESCRIPTOR)
        _wire(standard_in, out, err, keep=failure)
        _become(plan.uid, plan.gid)
        # After the change of user: the number of processes is counted per user.
        _apply_limits(plan.memory_bytes, plan.open_files, plan.processes)
        os.chdir(os.path.join(plan.directory, files.APP))
        os.execve("/bin/sh", ["/bin/sh", "-c", plan.shell_line], plan.environment)  # noqa: S606
    except BaseException as error:
        os.write(failure, str(error).encode())
    finally:
        os._exit(126)
