"""The `eventsourcing` library folding the same events, as its users do with msgspec: its repository, mapper, recorders.

Each of our streams is an aggregate, each of our events one of its with the same fields and the same effect on the same
state, so that what is compared is the machinery around the fold.
"""

import importlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

from benchmarks.harness import Case
from benchmarks.partitions import partition

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
        with filled("sqlite", events, snapshots=True) as (application, ids):
            taken = _take_up(application, ids)
    except ImportError:
        return {"case": name, "absent": ABSENT}
    return {"case": name, "unit": "aggregate", "count": len(ids), "per_second": round(len(ids) / taken.seconds, 1),
            **taken.told()}  # fmt: skip


def _fold(name: str, events: int) -> Case:
    try:
        with filled("sqlite" if "SQLite" in name else "popo", events, snapshots=False) as (application, ids):
            taken = _take_up(application, ids)
    except ImportError:
        return {"case": name, "absent": ABSENT}
    return {"case": name, "unit": "event", "count": taken.events, "streams": len(ids),
            "per_second": round(taken.events / taken.seconds, 1), **taken.told()}  # fmt: skip


class _Taken(NamedTuple):
    """Aggregates taken up: of how many events in all, and how long it took."""

    events: int
    seconds: float
    cpu: float

    def told(self) -> Case:
        return {"seconds": round(self.seconds, 3), "cpu_seconds": round(self.cpu, 3), "events_as": HOW}


def _take_up(application: Any, ids: Sequence[UUID]) -> _Taken:
    begin, spent = time.perf_counter(), time.process_time()
    events = sum(application.repository.get(ident).version for ident in ids)
    return _Taken(events, time.perf_counter() - begin, time.process_time() - spent)


@contextmanager
def filled(store: str, events: int, *, snapshots: bool) -> Iterator[tuple[Any, list[UUID]]]:
    """An application that holds the history of a partition of `events` events, and its aggregates' ids."""
    stream = importlib.import_module("benchmarks.peers.eventsourcing_stream")
    happened = [stream.happened(record) for command in partition(events=events) for record in command]
    ids = list(dict.fromkeys(event.originator_id for event in happened))
    with tempfile.TemporaryDirectory(prefix="rf-es-") as directory:
        env = {"PERSISTENCE_MODULE": f"eventsourcing.{store}", "SQLITE_DBNAME": f"{directory}/events.db"}
        application = stream.Streams(env | ({"IS_SNAPSHOTTING_ENABLED": "y"} if snapshots else {}))
        try:
            for first in range(0, len(happened), SAVED_AT_ONCE):
                application.events.put(happened[first : first + SAVED_AT_ONCE])
            for ident in ids if snapshots else ():
                application.take_snapshot(ident)
            yield application, ids
        finally:
            application.close()
