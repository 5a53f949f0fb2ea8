"""Start a program that outlives its starter: new session, second fork, its own output file, its pid written down.

A script of its own, run by the plain interpreter (`python detach.py PID_FILE LOG_FILE PROGRAM ARG…`), because forking
a process that has threads is unsafe; it must import nothing but the standard library. Ray ends its workers' children.
"""

import os
import sys
from pathlib import Path


def main(pid_file: str, log_file: str, program: str, *arguments: str) -> None:
    """Become `program` in a grandchild; the caller returns once the pid file is complete (written, then renamed)."""
    os.setsid()
    if os.fork():
        os.wait()
        return
    if os.fork():
        os._exit(0)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)
    # Its starter leaves the cores to others (events/scheduling.py); who carries their requests does not.
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_BATCH:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    partial = Path(f"{pid_file}.new")
    partial.write_text(str(os.getpid()))
    partial.rename(pid_file)
    os.chdir("/")
    os.execv(program, [program, *arguments])  # noqa: S606 - the point of this file


if __name__ == "__main__":
    main(*sys.argv[1:])
