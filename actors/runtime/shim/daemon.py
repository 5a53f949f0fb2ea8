"""The shim's life: take the lock, look at what is there, start or adopt the main process, serve until it has ended.

Knows nothing of the platform's side but the files (files.py) and the socket's lines (`Shim.answer`).
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH100, PTH101, PTH103, PTH110, PTH118

import errno
import fcntl
import os
import select
import signal
import time

from actors.runtime.shim import child, files, proc
from actors.runtime.shim.crashing import failpoint
from actors.runtime.shim.ending import Ending, Process, kill_members
from actors.runtime.shim.masking import Masking
from actors.runtime.shim.segments import Output
from actors.runtime.shim.wire import Listener, answers

_LOCK_SECONDS = 5.0
_IDLE_SECONDS = 0.25
_BUSY_SECONDS = 0.1
_STOPPING_SECONDS = 0.02
_FULL_DISK_PAUSE_SECONDS = 1.0


class Shim:
    """One instance's shim; single-threaded, driven by epoll."""

    def __init__(self, directory: str) -> None:
        stored = files.read_json(os.path.join(directory, files.SPEC))
        if stored is None or not isinstance(stored.get("launch"), dict):
            raise ValueError(f"{directory}: expected a whole {files.SPEC}, found none; call start again with the spec")
        self._directory = directory
        self._stored = stored
        self._plan = child.Plan(directory, stored)
        self._socket_path = str(stored["socket"])
        self._boot = proc.boot_id()
        self._lock = -1
        self._adopted = False

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def run(self, ready: int) -> None:
        """Do all of it; writes READY to the pipe `ready` once the instance is under watch or known to be over."""
        alone = self._take_lock()
        failpoint("shim.locked")
        if alone and not os.path.exists(self._path(files.EXIT)):
            # Before anything can write to them: a pipe that nobody has open forgets what is in it.
            output = self._open_pipes()
            process = self._find_or_launch(output)
            if process is not None:
                self._serve(process, output, ready)
                return
        os.write(ready, files.READY)
        os.close(ready)

    def _take_lock(self) -> bool:
        """One shim per instance: False when another one serves it, whose socket was missing for a moment.

        A killed one's child may still wait at its gate with the lock open, not for long.
        """
        self._lock = os.open(self._path(files.LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK or time.monotonic() > deadline:
                    raise
            if answers(self._socket_path):
                return False
            time.sleep(0.005)

    def _find_or_launch(self, output: Output) -> "Process | None":
        """The main process, found or started; None when it is over, which is then recorded."""
        state = files.read_json(self._path(files.STATE))
        pid, ticks = (int(str(state["pid"])), int(str(state["start_ticks"]))) if state else (0, 0)
        same_boot = state is not None and state["boot_id"] == self._boot
        if same_boot and not os.path.exists(self._path(files.LAUNCHED)):
            self._end_waiting_child(pid, ticks)
        if not os.path.exists(self._path(files.LAUNCHED)):
            return self._launch()
        if state is not None and same_boot and proc.is_alive(pid, ticks, self._boot):
            self._adopted = True
            return Process(pid, ticks, int(str(state["started_at"])), adopted=True)
        self._record_lost(pid, same_boot, output)
        return None

    def _end_waiting_child(self, pid: int, ticks: int) -> None:
        """A predecessor's child may be about to pass its gate: only once it is dead does `launched` tell the truth."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while proc.is_alive(pid, ticks, self._boot) and time.monotonic() < deadline:
            proc.send(pid, ticks, signal.SIGKILL)
            time.sleep(0.002)

    def _record_lost(self, pid: int, same_boot: bool, output: Output) -> None:
        """Nobody saw it end. What it left running goes too, and what is left in the pipes is kept."""
        group = pid if same_boot and proc.stat(pid) is None else proc.NOBODY
        kill_members(0, group, self._plan.uid, self._plan.mark())
        output.finish()
        reason = "the process was gone and nobody was left to see how it ended (machine restarted, or shim killed too)"
        self._record_exit({"cause": "lost", "exit_code": None, "signal": None, "reason": reason})

    def _record_exit(self, how: "dict[str, object]") -> None:
        failpoint("shim.exit")
        at = time.time_ns() // 1000
        while True:
            try:
                files.write_json(self._path(files.EXIT), {**how, "exited_at": at})
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
            time.sleep(_FULL_DISK_PAUSE_SECONDS)  # only this shim knows how it ended: it waits for room

    def _open_pipes(self) -> Output:
        os.makedirs(self._path(files.PIPES), 0o700, exist_ok=True)
        for name in ("out", "err"):
            path = os.path.join(self._path(files.PIPES), name)
            if not os.path.exists(path):
                os.mkfifo(path, 0o600)
            if os.getuid() == 0:
                os.chown(path, 0, self._plan.gid)
            os.chmod(path, 0o620)  # programs reopen /dev/stdout, which asks for the pipe's own mode
        hidden = Masking(self._plan.hidden)
        return Output(self._path(files.PIPES), self._path(files.LOG), hidden.encode)

    def _launch(self) -> "Process | None":
        failpoint("shim.pipes")
        out, err = (os.open(os.path.join(self._path(files.PIPES), name), os.O_RDWR) for name in ("out", "err"))
        gate_read, gate_write = os.pipe()
        failure_read, failure_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_write)
            child.run(self._plan, gate_read, failure_write, out, err)
        for descriptor in (out, err, gate_read, failure_write):
            os.close(descriptor)
        process = self._release(pid, gate_write)
        text = b"".join(iter(lambda: os.read(failure_read, 4096), b""))
        os.close(failure_read)
        if not text:
            return process
        os.waitpid(pid, 0)
        reason = f"the sandbox could not be set up: {text.decode('utf-8', 'replace')}"
        self._record_exit({"cause": "start_failed", "exit_code": None, "signal": None, "reason": reason})
        return None

    def _release(self, pid: int, gate: int) -> Process:
        """Record the waiting child, then let it become the command."""
        failpoint("shim.forked")
        found = proc.stat(pid)
        ticks = found.start_ticks if found else 0
        process = Process(pid, ticks, time.time_ns() // 1000, adopted=False)
        state: dict[str, object] = {"pid": pid, "start_ticks": ticks, "boot_id": self._boot}
        files.write_json(self._path(files.STATE), {**state, "started_at": process.started_at})
        failpoint("shim.recorded")
        os.write(gate, b"g")
        failpoint("shim.released")
        os.close(gate)
        return process

    def _serve(self, process: Process, output: Output, ready: int) -> None:
        if not self._adopted:
            child.become_subreaper()
        ending = Ending(
            process, self._plan.uid, self._plan.memory_bytes, self._plan.watched_processes, self._plan.mark()
        )
        listener = Listener(self._socket_path)
        failpoint("shim.ready")
        os.write(ready, files.READY)
        os.close(ready)
        poll = select.epoll()
        poll.register(process.pidfd, select.EPOLLIN | select.EPOLLET)
        for descriptor in output.descriptors:
            poll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        listener.register(poll)
        more = True
        while not ending.over:
            poll.poll(0 if more else self._pause(ending))
            more = output.drain()
            listener.serve(ending)
            ending.look()
        output.finish()
        self._record_exit(ending.how())
        listener.close()

    def _pause(self, ending: Ending) -> float:
        if ending.stopping:
            return _STOPPING_SECONDS
        return _BUSY_SECONDS if ending.near_limit else _IDLE_SECONDS


def _detach(directory: str) -> None:
    """A session of its own, nothing of the platform's open, and signals meant for the platform ignored."""
    os.setsid()
    # What a parent ignores or blocks is handed down by exec (a Ray worker blocks SIGINT); were it SIGCHLD, there would
    # be no exit status to wait for.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(os.path.join(directory, files.SHIM_LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target, inheritable=False)
    os.close(null)
    os.close(log)


def main(arguments: "list[str]") -> int:
    """`shim DIR`: prints READY and returns 0 once the detached shim is ready, else its complaint and 1."""
    directory = os.path.abspath(arguments[0])
    os.closerange(3, child.DESCRIPTORS_MAX)  # whatever the platform had open is not the instance's to keep
    reader, writer = os.pipe()
    if os.fork() != 0:
        os.close(writer)
        said = b"".join(iter(lambda: os.read(reader, 4096), b""))
        os.write(1, said or b"it died before it was ready, see shim.log")
        return 0 if said == files.READY else 1
    os.close(reader)
    _detach(directory)
    try:
        Shim(directory).run(writer)
    except Exception as error:
        try:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        except OSError:
            pass  # already ready: the log file is the place
        raise
    return 0
