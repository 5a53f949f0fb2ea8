"""How an instance ends: by itself, by `stop`, or by going over a limit; and that nothing of it is left when it has.

Knows nothing of files, pipes or sockets.
"""

import os
import signal
import sys
import time

from actors.pidfd import pidfd_open
from actors.runtime.shim import proc

_KILL_SECONDS = 5.0
_UNREAPED_SECONDS = 0.2
_MIB = 1 << 20


class Process:
    """The instance's main process, which leads its group and session."""

    __slots__ = ("adopted", "pid", "pidfd", "start_ticks", "started_at")

    def __init__(self, pid: int, start_ticks: int, started_at: int, adopted: bool) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.started_at = started_at
        self.adopted = adopted
        self.pidfd = pidfd_open(pid)


def kill_members(root: int, main_pid: int, uid: int, mark: bytes) -> None:
    """Kill an instance's processes (see proc.members) until none is left; those started meanwhile go next round."""
    deadline = time.monotonic() + _KILL_SECONDS
    while found := proc.members(root, main_pid, uid, mark):
        for each in found:
            proc.send(each.pid, each.start_ticks, signal.SIGKILL)
        if time.monotonic() > deadline:
            sys.stderr.write(f"processes that would not die: {[each.pid for each in found]}\n")
            return
        time.sleep(0.002)


class Ending:
    """Watches the main process and what it started; `look` is called often, and `over` says when all is done."""

    def __init__(self, process: Process, uid: int, memory_bytes: int, task_limit: int, mark: bytes) -> None:
        self._process = process
        self._uid = uid
        self._memory_limit = memory_bytes
        self._task_limit = task_limit
        self._mark = mark
        self._status: int | None = None
        self._main_gone = False
        self._deadline: float | None = None
        self._cause = "exited"
        self._reason = ""
        self._memory = 0
        self._threads = 0
        self._next_look = 0.0
        self.over = False

    @property
    def stopping(self) -> bool:
        """SIGTERM was sent and the grace period runs."""
        return self._deadline is not None

    @property
    def near_limit(self) -> bool:
        """Memory is to be looked at more often."""
        return self._memory * 2 > self._memory_limit

    def status(self) -> "dict[str, object]":
        """The answer to whoever asks."""
        return {
            "state": "stopping" if self.stopping else "running",
            "pid": self._process.pid,
            "started_at": self._process.started_at,
            "adopted": self._process.adopted,
            "memory_bytes": self._memory,
            "threads": self._threads,
        }

    def stop(self, grace_seconds: float) -> None:
        """Ask the group to end; asked again, a shorter grace counts and the signal is not repeated."""
        deadline = time.monotonic() + max(grace_seconds, 0.0)
        if self._deadline is not None:
            self._deadline = min(self._deadline, deadline)
            return
        self._deadline = deadline
        self._cause = "stopped"
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Signal the main process's group. Its number cannot be another's while the main process is not reaped."""
        if not self._main_gone:
            os.killpg(self._process.pid, number)

    def look(self) -> None:
        """Notice an exit, a passed deadline or a passed limit, and act on it."""
        if not self._main_gone and self._main_is_dead():
            self._on_main_exit()
        if self.over:
            return
        if self._deadline is not None:
            self._go_on_stopping(self._deadline)
            return
        if time.monotonic() >= self._next_look:
            self._reap_orphans()
            self._measure()
            self._next_look = time.monotonic() + (0.09 if self.near_limit else 0.24)

    def _main_is_dead(self) -> bool:
        if self._process.adopted:
            found = proc.stat(self._process.pid)
            return found is None or not found.alive or found.start_ticks != self._process.start_ticks
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _on_main_exit(self) -> None:
        if self._deadline is None:
            # Before the main process is reaped: as a zombie it still holds its group's number.
            self._kill_all()
        if self._process.adopted:
            self._status = self._status_of_adopted()
        else:
            self._status = os.waitpid(self._process.pid, 0)[1]
        self._main_gone = True
        self.over = self._deadline is None

    def _status_of_adopted(self) -> "int | None":
        """Init reaps it, soon; only then does the kernel tell."""
        deadline = time.monotonic() + _UNREAPED_SECONDS
        while time.monotonic() < deadline:
            status = proc.exit_status_of(self._process.pidfd)
            if status is not None:
                return status
            time.sleep(0.005)
        return None

    def _go_on_stopping(self, deadline: float) -> None:
        self._reap_orphans()
        if self._main_gone and not self._members():
            self.over = True
        elif time.monotonic() >= deadline:
            self._reason = "did not end within its grace period and was killed"
            self._kill_all()
            if not self._main_gone:
                self._on_main_exit()
            self.over = True

    def _root(self) -> int:
        return self._process.pid if self._process.adopted else os.getpid()

    def _members(self) -> "list[proc.Stat]":
        return proc.members(self._root(), self._process.pid, self._uid, self._mark)

    def _kill_all(self) -> None:
        kill_members(self._root(), self._process.pid, self._uid, self._mark)

    def _reap_orphans(self) -> None:
        """What the instance's processes left behind is our child by PR_SET_CHILD_SUBREAPER."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid == self._process.pid:
                return
            os.waitpid(found.si_pid, 0)

    def _measure(self) -> None:
        pids = [self._process.pid, *(pid for pid in proc.descendants(self._root()) if pid != self._process.pid)]
        self._memory, self._threads = proc.usage(pids)
        if self._memory > self._memory_limit:
            self._memory = proc.proportional_bytes(pids)
        if self._memory > self._memory_limit:
            used, limit = -(-self._memory // _MIB), self._memory_limit // _MIB
            self._over_limit("memory_limit", f"used {used} MiB of memory, its limit is {limit} MiB: killed")
        elif self._task_limit and self._threads > self._task_limit:
            reason = f"ran {self._threads} processes and threads, its limit is {self._task_limit}: killed"
            self._over_limit("process_limit", reason)

    def _over_limit(self, cause: str, reason: str) -> None:
        self._cause, self._reason = cause, reason
        self._kill_all()
        self._on_main_exit()

    def how(self) -> "dict[str, object]":
        """What exit.json says."""
        code = number = None
        if self._status is not None and os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
        elif self._status is not None:
            code = os.WEXITSTATUS(self._status)
        return {"cause": self._cause, "exit_code": code, "signal": number, "reason": self._words(code, number)}

    def _words(self, code: "int | None", number: "int | None") -> str:
        if self._reason:
            return self._reason
        if number is not None:
            how = f"ended by {signal.Signals(number).name}" if number in set(signal.Signals) else f"signal {number}"
        elif code is not None:
            how = f"exited with code {code}"
        else:
            how = "exited; the code is not known, for its shim had been killed before"
        return f"stopped: {how}" if self._cause == "stopped" else how
