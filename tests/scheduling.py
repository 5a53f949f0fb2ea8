"""The scheduling policies (sched(7)) of a process, as the kernel tells them. Knows no module of the product."""

import os
from pathlib import Path


def policies(pid: int) -> set[int]:
    """Those of its threads."""
    return {os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}
