"""Scheduling policies, as the kernel tells them: each check in a process of its own, for they cannot all be undone."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs sched(7)")

_POLICIES = """
import os, subprocess, sys, threading
from events.scheduling import give_way, giving_way
from tests import scheduling

def policies():
    return scheduling.policies(os.getpid())

def child():
    ask = "import os; print(os.sched_getscheduler(0))"
    return int(subprocess.run([sys.executable, "-IS", "-c", ask], capture_output=True, check=True).stdout)

waiting = threading.Event()
threads = [threading.Thread(target=waiting.wait, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
"""


def _told(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", _POLICIES + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_thread_of_a_process_gives_way_and_so_does_what_it_starts() -> None:
    before, after, program = _told("print(policies()); give_way(); print(policies()); print(child())")
    assert before == f"{{{os.SCHED_OTHER}}}"
    assert after == f"{{{os.SCHED_BATCH}}}"
    assert int(program) == os.SCHED_BATCH


def test_a_thread_made_later_gives_way() -> None:
    script = "give_way(); late = threading.Thread(target=waiting.wait, daemon=True); late.start(); print(policies())"
    assert _told(script) == [f"{{{os.SCHED_BATCH}}}"]


def test_a_program_gives_way_and_who_starts_it_does_not() -> None:
    program, after = _told("with giving_way():\n    print(child())\nprint(policies())")
    assert int(program) == os.SCHED_BATCH
    assert after == f"{{{os.SCHED_OTHER}}}"


def test_who_gave_way_before_does_afterwards() -> None:
    assert _told("give_way()\nwith giving_way():\n    pass\nprint(policies())") == [f"{{{os.SCHED_BATCH}}}"]


def test_a_policy_that_somebody_else_chose_stays() -> None:
    chosen = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); give_way(); print(os.sched_getscheduler(0))"
    assert _told(chosen) == [str(os.SCHED_IDLE)]
