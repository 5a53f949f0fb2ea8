"""Reads /proc: who a process is, which processes belong to an instance, how much they use; and signals them safely.

Knows nothing of instances' files or of the shim's protocol. A process is named by pid and start time: pids are reused.
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH110, PTH116, PTH123, PTH208

import fcntl
import os
import struct

from actors.pidfd import pidfd_open, pidfd_send_signal

NOBODY = -1  # no process, group or session has this number
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CHILDREN_LISTED = os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")

# linux/pidfd.h: since 6.15 a pidfd tells the exit status of a process that somebody else has already reaped.
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO_EXIT_CODE_AT = 60


class Stat:
    """The few fields of /proc/PID/stat that matter here."""

    __slots__ = ("group", "parent", "pid", "session", "start_ticks", "state", "threads")

    def __init__(self, pid: int, text: bytes) -> None:
        # The command name may hold spaces and parentheses: fields are counted from the last ")".
        fields = text[text.rindex(b")") + 2 :].split()
        self.pid = pid
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.threads = int(fields[17])
        self.start_ticks = int(fields[19])

    @property
    def alive(self) -> bool:
        """False for a zombie: it runs nothing and holds nothing, whoever should have reaped it."""
        return self.state not in "ZX"


def boot_id() -> str:
    """Changes with every boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def stat(pid: int) -> "Stat | None":
    """None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Stat(pid, file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_alive(pid: int, start_ticks: int, boot: str) -> bool:
    """Whether exactly this process, not a later one with its number, still runs."""
    found = stat(pid)
    return found is not None and found.alive and found.start_ticks == start_ticks and boot == boot_id()


def send(pid: int, start_ticks: int, number: int) -> None:
    """Signal exactly this process; nothing happens when it is gone."""
    try:
        descriptor = pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        found = stat(pid)
        if found is not None and found.start_ticks == start_ticks:
            pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        pass  # it died between the look and the signal, or became somebody else's by itself
    finally:
        os.close(descriptor)


def _children(pid: int) -> "list[int]":
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def everything() -> "list[Stat]":
    """Every process of the machine; a few milliseconds."""
    found = (stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [each for each in found if each is not None]


def tasks_of(uid: int) -> int:
    """Processes and threads of a user now, as RLIMIT_NPROC counts them."""
    total = 0
    for each in everything():
        try:
            total += each.threads if os.stat(f"/proc/{each.pid}").st_uid == uid else 0
        except FileNotFoundError:
            continue
    return total


def descendants(root: int) -> "list[int]":
    """All living and dead processes below `root`, itself left out."""
    if not _CHILDREN_LISTED:
        return _descendants_by_scan(root)
    found: list[int] = []
    pending = _children(root)
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending.extend(_children(pid))
    return found


def _descendants_by_scan(root: int) -> "list[int]":
    by_parent: dict[int, list[int]] = {}
    for each in everything():
        by_parent.setdefault(each.parent, []).append(each.pid)
    found: list[int] = []
    pending = list(by_parent.get(root, ()))
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending.extend(by_parent.get(pid, ()))
    return found


def members(root: int, main_pid: int, uid: int, mark: bytes) -> "list[Stat]":
    """The living processes of an instance: below `root`, or in the main process's group or session, or bearing `mark`.

    `mark` is an environment entry (`NAME=value`), which finds those that left group and session and whose shim died;
    `root` 0 means nothing is known by descent. Only processes of `uid` count, so a mark cannot name another user's.
    """
    below = set(descendants(root)) if root else set()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            if os.stat(f"/proc/{pid}").st_uid != uid and pid not in below:
                continue
        except FileNotFoundError:
            continue
        each = stat(pid)
        if each is None or not each.alive or pid == os.getpid():
            continue
        if pid in below or main_pid in (each.group, each.session) or _bears(pid, mark):
            found.append(each)
    return found


def _bears(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False  # gone, or not ours to read


def usage(pids: "list[int]") -> "tuple[int, int]":
    """Resident bytes and threads of these processes; pages they share are counted once per process."""
    resident = threads = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                resident += int(file.read().split()[1]) * PAGE_BYTES
            threads += len(os.listdir(f"/proc/{pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return resident, threads


def proportional_bytes(pids: "list[int]") -> int:
    """Resident bytes with shared pages divided among their users: what forked workers cost. Slower than usage."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                for line in file:
                    if line.startswith(b"Pss:"):
                        total += int(line.split()[1]) * 1024
                        break
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            total += usage([pid])[0]
    return total


def exit_status_of(pidfd: int) -> "int | None":
    """The wait status of a dead process that is not our child; None where the kernel (before 6.15) cannot tell."""
    request = bytearray(64)
    struct.pack_into("=Q", request, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
    except OSError:
        return None
    if not struct.unpack_from("=Q", request, 0)[0] & _PIDFD_INFO_EXIT:
        return None
    return int(struct.unpack_from("=i", request, _PIDFD_INFO_EXIT_CODE_AT)[0])
