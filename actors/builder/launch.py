"""Runs one build command in a cage and outlives nobody: limits, another user, no new privileges, and no orphans.

Executed as a script by `sandbox.py` (specification as JSON on stdin), so it imports the standard library only and
must not know what is being built. It is the sub-reaper of all the command starts, which is how a daemonised
grandchild is found and killed too; when the builder dies by kill -9, the kernel tells it and it ends everything.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypedDict

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
KEPT_FLAGS = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec: a mount of somebody else's keeps them
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
EXIT_CANNOT_START = 127


class Spec(TypedDict):
    """What `sandbox.py` writes to stdin; `limits` maps RLIMIT names to values, `user` is (uid, gid) or None.

    `read_only` are directories that the command may not write to although they belong to its user.
    """

    parent: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    user: list[int] | None
    network: bool
    read_only: list[str]
    limits: dict[str, int]


_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        which = getattr(resource, name)
        _, hard = resource.getrlimit(which)
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (wanted, wanted))


def _leave_network() -> None:
    """A network of its own with a loopback only: nothing of this machine or beyond answers there."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        # A container without CAP_SYS_ADMIN: building goes on, and whoever reads the output knows.
        os.write(2, f"the network cannot be taken away here: {os.strerror(ctypes.get_errno())}\n".encode())
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), None, flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}: {os.strerror(ctypes.get_errno())}")


def _make_read_only(directories: list[str]) -> None:
    """Mount each over itself, read-only, in a mount namespace of the command's own; without root in a user namespace
    too, in which a command cannot undo it: becoming a program drops what would be needed for that."""
    uid, gid = os.geteuid(), os.getegid()
    try:
        if _libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if uid else 0)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if uid:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        _mount("none", "/", MS_REC | MS_PRIVATE)
        for each in directories:
            _mount(each, each, MS_BIND)
            _mount("none", each, MS_BIND | MS_REMOUNT | MS_RDONLY | (os.statvfs(each).f_flag & KEPT_FLAGS))
    except OSError as error:
        os.write(2, f"the source cannot be made read-only here: {error.strerror}\n".encode())


def _become(spec: Spec) -> NoReturn:
    """In the child: put on the limits, drop to the user, and become the command."""
    os.setsid()
    with suppress(OSError):
        os.nice(5)  # a build must not slow down the applications that serve
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # and is the first to go when memory runs out
    if not spec["network"]:
        _leave_network()
    if spec["read_only"]:
        _make_read_only(spec["read_only"])
    _limit(spec["limits"])
    if spec["user"] is not None:
        uid, gid = spec["user"]
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    # After the change of user: the kernel forgets the parent-death signal when credentials change.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o022)
    os.chdir(spec["cwd"])
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # whoever started this may have handed down the platform's own files
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - an argument list, no shell


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    for child in found:
        found += _children(child)
    return found


def _kill_all() -> None:
    """Kill every descendant until none is left: an orphan is handed to us, the sub-reaper, so none can slip away."""
    me = os.getpid()
    while True:
        for pid in _descendants(me):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        signal.sigtimedwait([signal.SIGCHLD], 0.01)


def _watch(child: int) -> int:
    """Wait for the command's end or for an order to stop; the exit status as a shell would give it."""
    while True:
        number = signal.sigwait([signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        if number != signal.SIGCHLD:
            return 128 + number
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def main() -> int:
    """Run the command that stdin describes; 127 when it cannot be started."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE]
    )
    spec: Spec = json.loads(sys.stdin.buffer.read())
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != spec["parent"]:
        return 128 + signal.SIGTERM  # the builder died before the kernel knew to tell us
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        try:
            _become(spec)
        except OSError as error:
            os.write(2, f"cannot start {spec['argv'][0]}: {error}\n".encode())
        finally:
            os._exit(EXIT_CANNOT_START)
    code = _watch(child)
    _kill_all()
    return code


if __name__ == "__main__":
    os._exit(main())
