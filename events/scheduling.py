"""The scheduling policy (sched(7)) of the platform's processes: they leave a core to whoever is using it.

Knows nothing of what any process does; on other systems than Linux, and where it is forbidden, this does nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_THREADS = Path("/proc/self/task")


def give_way() -> None:
    """From now on a thread of this process that wakes takes no core from who is using it (SCHED_BATCH): it waits for
    the end of that one's turn, some ms at most. Its share of the cores stays what it is.

    Programs that it starts afterwards do the same.
    """
    seen: set[int] = set()
    with suppress(OSError, AttributeError):
        # Each new thread has the policy of the one that made it: when no more are found, none is left.
        while new := {int(path.name) for path in _THREADS.iterdir()} - seen:
            seen |= new
            for thread in new:
                with suppress(ProcessLookupError):
                    _change(thread, os.SCHED_OTHER, os.SCHED_BATCH)


@contextmanager
def giving_way() -> Iterator[None]:
    """For who starts a program in this thread that is to give way, and does not itself."""
    changed = False
    with suppress(OSError, AttributeError):
        changed = _change(0, os.SCHED_OTHER, os.SCHED_BATCH)
    try:
        yield
    finally:
        if changed:
            _change(0, os.SCHED_BATCH, os.SCHED_OTHER)


def _change(thread: int, before: int, after: int) -> bool:
    """Whether it had the policy `before`; who gave it another meant that."""
    if os.sched_getscheduler(thread) != before:
        return False
    os.sched_setscheduler(thread, after, os.sched_param(0))
    return True
