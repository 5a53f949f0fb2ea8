"""A process that folds forty events of four streams, and may die over one of them."""

import asyncio
import os
import signal
import time
from multiprocessing.synchronize import Event as Signal
from pathlib import Path

from events.failpoints import arm
from events.log.records import StoredEvent
from projections.database import Database
from projections.nodes import NODES
from projections.projector import Projector
from projections.rows import Rows
from projections.teams import PROJECTION as TEAMS
from tests.projections.recorder import Recorder, log_of
from tests.projections.test_projector import Counting, node

EVENTS = 40
STREAMS = 4


def fold(url: str, hand: Path, how: str, which: str, failpoint: str, here: Signal) -> None:
    """Fold to the tail. `how`: what becomes of the process over the event `which`."""
    if failpoint:
        arm(failpoint, "exit")
    if how == "write":
        Rows.flush = _deadly(Rows.flush, which)  # type: ignore[method-assign,assignment]

    def deed(stored: StoredEvent) -> bool:
        if stored.record.event_id != which:
            return False
        if how == "exit":
            os._exit(1)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "wait":
            here.set()
            time.sleep(3600)
        return how == "raise"

    asyncio.run(_fold(Database(url), hand, Counting(fails=deed)))


async def _fold(database: Database, hand: Path, counting: Counting) -> None:
    recorder = Recorder()
    log = await log_of([node(recorder, f"n{n % STREAMS}") for n in range(EVENTS)], partitions=1)
    projector = Projector(database, log, projections=[counting.projection, TEAMS], hand=hand)
    await projector.catch_up()
    await projector.close()


def _deadly(flush: object, which: str) -> object:
    assert callable(flush)

    def deadly(rows: Rows) -> None:
        if (which,) in rows._dirty[NODES]:
            os._exit(1)
        flush(rows)

    return deadly
