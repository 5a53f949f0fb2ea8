"""The `eventsourcing` library folding the same events, as its users do with msgspec: its repository, mapper, recorders.

Each of our streams is an aggregate, each of our events one of its with the same fields and the same effect on the same
state, so that what is compared is the machinery around the fold.
"""

import importlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.harness import Case
from benchmarks.histories import partition

ABSENT = "the Python package eventsourcing is not installed"
SAVED_AT_ONCE = 500
HOW = "an event class of its own per type, msgspec, the same steps"


def fold_cases(events: int) -> list[Case]:
    """Events a second folded by its repository, from SQLite (a file) and from its own memory."""
    return [_fold(name, events) for name in ("eventsourcing on SQLite", "eventsourcing in memory (POPO)")]


def reload_case(events: int) -> Case:
    """Aggregates a second taken up again from its snapshots, on SQLite."""
    name = "eventsourcing on SQLite, aggregates from their snapshots"
    try:
        application, ids, directory = _filled("sqlite", events, snapshots=True)
    except ImportError:
        return {"case": name, "absent": ABSENT}
    begin, spent = time.perf_counter(), time.process_time()
    for ident in ids:
        application.repository.get(ident)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - spent
    application.close()
    shutil.rmtree(directory, ignore_errors=True)
    return {"case": name, "unit": "aggregate", "count": len(ids), "seconds": round(seconds, 3),
            "per_second": round(len(ids) / seconds, 1), "cpu_seconds": round(cpu, 3), "events_as": HOW}  # fmt: skip


def _fold(name: str, events: int) -> Case:
    try:
        application, ids, directory = _filled("sqlite" if "SQLite" in name else "popo", events, snapshots=False)
    except ImportError:
        return {"case": name, "absent": ABSENT}
    begin, spent = time.perf_counter(), time.process_time()
    count = sum(application.repository.get(ident).version for ident in ids)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - spent
    application.close()
    shutil.rmtree(directory, ignore_errors=True)
    return {"case": name, "unit": "event", "count": count, "seconds": round(seconds, 3),
            "per_second": round(count / seconds, 1), "cpu_seconds": round(cpu, 3), "streams": len(ids),
            "events_as": HOW}  # fmt: skip


def _filled(store: str, events: int, *, snapshots: bool) -> tuple[Any, list[UUID], Path]:
    """An application that holds the history of a partition of `events` events, its aggregates' ids, and its place."""
    stream = importlib.import_module("benchmarks.peers.eventsourcing_stream")
    directory = Path(tempfile.mkdtemp(prefix="rf-es-"))
    env = {"PERSISTENCE_MODULE": f"eventsourcing.{store}", "SQLITE_DBNAME": str(directory / "events.db")}
    application = stream.Streams(env | ({"IS_SNAPSHOTTING_ENABLED": "y"} if snapshots else {}))
    happened = [stream.happened(record) for command in partition(events=events) for record in command]
    for first in range(0, len(happened), SAVED_AT_ONCE):
        application.events.put(happened[first : first + SAVED_AT_ONCE])
    ids = list(dict.fromkeys(event.originator_id for event in happened))
    for ident in ids if snapshots else ():
        application.take_snapshot(ident)
    return application, ids, directory
