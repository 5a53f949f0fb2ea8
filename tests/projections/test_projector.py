"""The projector folds exactly once, whatever fails and whenever, and a rebuild ends with the same rows."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy
import structlog

from events.failpoints import FailpointError, arm, disarm
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import EventRecord, Position, StoredEvent, partition_of
from events.model.base import Event, partition_key
from events.model.node import NodeJoined
from events.model.team import TeamCreated
from projections import progress, queries
from projections.catalogue import ALL
from projections.database import Database
from projections.errors import NewerProjection, UnknownProjection
from projections.model import Projection
from projections.nodes import NODES
from projections.projector import Projector
from projections.rows import Rows
from projections.schema import CHECKPOINTS, Row
from tests.events.log.flipped import flip
from tests.projections.recorder import Recorder, append, log_of, tell_everything

Dump = dict[str, list[Row]]


def dump(connection: sqlalchemy.Connection, projection: Projection) -> Dump:
    """Every row of a projection's tables, in key order: what a rebuild must end with again."""
    return {table.name: Rows(connection).select(table) for table in projection.tables}


def dump_all(database: Database) -> Dump:
    return database.read(lambda c: {t: rows for p in ALL for t, rows in dump(c, p).items()})


@asynccontextmanager
async def running(projector: Projector) -> AsyncIterator[Projector]:
    """A projector that follows the log until the block ends."""
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await projector.close()


async def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(true):
            await asyncio.sleep(0.01)


async def folded(database: Database, log: MemoryEventLog, projections: Sequence[Projection] = ALL) -> None:
    projector = Projector(database, log, projections=projections)
    await projector.catch_up()
    await projector.close()


async def at_the_tail(database: Database, log: MemoryEventLog) -> bool:
    tails = {p: await log.tail(p) for p in range(log.partitions)}
    return await asyncio.to_thread(lambda: all(part.events == 0 for part in progress.lag(database, tails)))


async def wait_for_tail(database: Database, log: MemoryEventLog) -> None:
    async with asyncio.timeout(20):
        while not await at_the_tail(database, log):
            await asyncio.sleep(0.01)


class Counting:
    """A read model that fails when told, and counts what it folds: in its rows, where a second time would show."""

    def __init__(self, *, fails: Callable[[StoredEvent], bool] = lambda stored: False) -> None:
        self.seen = 0
        self.tries = 0
        self.fails = fails
        kinds = frozenset({"team", "app", "component", "build", "route", "node"})
        self.projection = Projection(name="counting", version=1, kinds=kinds, tables=(NODES,), fold=self.fold)

    def fold(self, rows: Rows, stored: StoredEvent, event: Event) -> None:
        if self.fails(stored):
            self.tries += 1
            raise RuntimeError("cannot fold this")
        self.seen += 1
        rows.new(NODES, stored, name=stored.record.event_id)
        tally = f"tally {stored.position.partition}"
        row = rows.get(NODES, tally)
        rows.new(NODES, stored, name=tally, cpus=1 + (int(row["cpus"]) if row else 0))

    def tally(self, database: Database) -> int:
        """How often an event was folded, as far as the database knows."""
        rows = database.read(lambda c: dump(c, self.projection))["nodes"]
        return sum(int(row["cpus"]) for row in rows)


def node(recorder: Recorder, name: str) -> EventRecord:
    joined = NodeJoined(name=name, address="127.0.0.1", cpus=1, memory_bytes=1, runtime="process")
    return recorder.add(f"node/{name}", joined)


def place_of(record: EventRecord, log: MemoryEventLog) -> int:
    return partition_of(partition_key(record.stream), log.partitions)


async def test_what_is_appended_becomes_visible_and_a_wait_for_its_position_ends(database: Database) -> None:
    log = await log_of([])
    recorder = Recorder()
    record = node(recorder, "n1")
    async with running(Projector(database, log)):
        await append(log, [record])
        position = Position(place_of(record, log), 0)
        marks = progress.Watermarks(database)
        assert await marks.wait_for(position, 10)
        assert [found.name for found in queries.list_nodes(database).items] == ["n1"]
        assert progress.reached(database)[position.partition] == 1
        assert not await marks.wait_for(Position(position.partition, 1), 0.05)


async def test_after_the_first_event_what_comes_soon_gathers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.projector.PACE_S", 3600.0)
    log = await log_of([])
    recorder = Recorder()
    projector = Projector(database, log)
    async with running(projector):
        await append(log, [node(recorder, "n1")])
        await wait_for_tail(database, log)
        await append(log, [node(recorder, "n2")])
        await append(log, [node(recorder, "n3")])
        async with asyncio.timeout(20):
            while projector.backlog < 2:
                await asyncio.sleep(0.01)
    assert [found.name for found in queries.list_nodes(database).items] == ["n1"]


async def test_following_and_catching_up_end_with_the_same_rows(database: Database) -> None:
    story = tell_everything()
    log = await log_of(story[: len(story) // 2])
    async with running(Projector(database, log)):
        for start in range(len(story) // 2, len(story), 37):
            await append(log, story[start : start + 37])
        await wait_for_tail(database, log)
    one_at_a_time = dump_all(database)
    projector = Projector(database, log)
    await projector.rebuild("all")
    await projector.close()
    assert dump_all(database) == one_at_a_time


async def test_partitions_may_be_folded_in_any_order(database: Database, tmp_path: Path) -> None:
    log = await log_of(tell_everything())
    for partition in (3, 1, 0, 2):
        projector = Projector(database, log, partitions=[partition])
        await projector.catch_up()
        await projector.close()
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    other.migrate()
    await folded(other, log)
    assert dump_all(other) == dump_all(database)
    other.close()


@pytest.mark.parametrize("name", [*(p.name for p in ALL), "all"])
async def test_a_rebuild_ends_with_the_same_rows(tmp_path: Path, name: str) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    database.migrate()
    log = await log_of(tell_everything())
    projector = Projector(database, log)
    await projector.catch_up()
    before = dump_all(database)
    assert await projector.rebuild(name) == len(tell_everything())
    assert dump_all(database) == before
    await projector.close()
    database.close()


async def test_a_rebuild_beside_live_events_loses_none(database: Database) -> None:
    story = tell_everything()
    log = await log_of(story[:300])
    projector = Projector(database, log)
    async with running(projector), asyncio.TaskGroup() as group:
        group.create_task(projector.rebuild("all"))
        for start in range(300, len(story), 50):
            await append(log, story[start : start + 50])
    async with running(Projector(database, log)):
        await wait_for_tail(database, log)
    seen = dump_all(database)
    await folded(database, log)
    fresh = Projector(database, log)
    await fresh.rebuild("all")
    await fresh.close()
    assert dump_all(database) == seen


async def test_a_rebuild_of_nothing_known_is_refused(database: Database) -> None:
    projector = Projector(database, await log_of([]))
    with pytest.raises(UnknownProjection, match="expected one of all, apps"):
        await projector.rebuild("apples")
    await projector.close()


@pytest.mark.parametrize("point", ["projections.folded", "projections.written"])
async def test_a_failure_before_the_commit_leaves_nothing_and_the_next_try_folds_once(
    database: Database, point: str
) -> None:
    log = await log_of(tell_everything())
    counting = Counting()
    arm(point, "error")
    try:
        with pytest.raises(FailpointError):
            await folded(database, log, [counting.projection])
    finally:
        disarm(point)
    assert counting.tally(database) == 0
    await folded(database, log, [counting.projection])
    assert counting.tally(database) == len(tell_everything())


async def test_a_commit_whose_reply_is_lost_is_not_folded_twice(database: Database) -> None:
    log = await log_of(tell_everything(), partitions=1)
    counting = Counting()
    projector = Projector(database, log, projections=[counting.projection])
    arm("projections.committed", "error")
    try:
        with pytest.raises(FailpointError):
            await projector.catch_up()
    finally:
        disarm("projections.committed")
    assert counting.tally(database) == len(tell_everything()), "it was committed"
    events = [stored async for part in log.read(0, 0) for stored in part]
    assert projector.positions() == {0: 0}, "and the projector does not know"
    await projector._apply({0: events})
    assert projector.positions() == {0: len(events)}
    assert counting.tally(database) == len(tell_everything())
    await projector.close()


KILLED = """
import asyncio, sys
from projections.database import Database
from tests.projections.recorder import log_of, tell_everything
from projections.projector import Projector

async def main() -> None:
    database = Database(sys.argv[1])
    projector = Projector(database, await log_of(tell_everything()))
    await projector.catch_up()
    await projector.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["projections.written", "projections.committed"])
async def test_killed_at_the_commit_it_goes_on_where_the_checkpoint_stands(tmp_path: Path, point: str) -> None:
    database = Database(f"sqlite:///{tmp_path / 'killed.db'}")
    database.migrate()
    env = {**os.environ, "RAYFOLD_FAILPOINTS": f"{point}=exit", "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, str(database.url)], env=env, timeout=60, check=False
    )
    assert killed.returncode == 137
    log = await log_of(tell_everything())
    await folded(database, log)
    seen = dump_all(database)
    projector = Projector(database, log)
    await projector.rebuild("all")
    await projector.close()
    assert dump_all(database) == seen
    database.close()


async def test_two_projectors_on_one_partition_fold_each_event_once(database: Database) -> None:
    story = tell_everything()
    log = await log_of(story[:100])
    counting = Counting()
    one, two = (Projector(database, log, projections=[counting.projection]) for _ in range(2))
    async with running(one), running(two):
        for start in range(100, len(story), 25):
            await append(log, story[start : start + 25])
        await wait_for_tail(database, log)
    assert counting.tally(database) == len(story)


async def test_a_stream_that_cannot_be_folded_is_parked_and_the_others_go_on(database: Database) -> None:
    recorder = Recorder()
    records = [node(recorder, f"n{n % 4}") for n in range(40)]
    log = await log_of(records, partitions=1)
    counting = Counting(fails=lambda s: s.record.event_id == "node/n2@3")
    await folded(database, log, [counting.projection])
    (parked,) = progress.parked(database)
    assert (parked.stream, parked.event_id, parked.attempts, parked.behind) == ("node/n2", "node/n2@3", 3, 7)
    assert "cannot fold this" in parked.error
    assert counting.tries == 3
    names = {name for row in dump_all(database)["nodes"] if not (name := str(row["name"])).startswith("tally")}
    assert names == {r.event_id for r in records if not r.stream.endswith("n2") or r.version < 3}
    late = node(recorder, "n2")
    await append(log, [late])
    await folded(database, log, [counting.projection])
    assert progress.parked(database)[0].behind == 8
    mended = Counting()
    projector = Projector(database, log, projections=[mended.projection])
    await projector.rebuild("counting")
    await projector.close()
    assert progress.parked(database) == []
    assert mended.seen == 41


async def test_rows_that_the_database_refuses_park_only_their_own_stream(database: Database) -> None:
    recorder = Recorder()
    records = [node(recorder, "good"), node(recorder, "bad"), node(recorder, "fine")]
    huge = NodeJoined(name="bad", address="x", cpus=1 << 63, memory_bytes=1, runtime="process")
    records.insert(2, recorder.add("node/bad", huge))
    log = await log_of(records, partitions=1)
    await folded(database, log)
    assert [(p.projection, p.stream) for p in progress.parked(database)] == [("nodes", "node/bad")]
    assert [n.name for n in queries.list_nodes(database).items] == ["bad", "fine", "good"]


async def test_an_event_of_a_later_version_is_parked_and_said(database: Database) -> None:
    recorder = Recorder()
    known = node(recorder, "n1")
    unknown = EventRecord(*(getattr(known, f) for f in known.__struct_fields__))
    unknown = type(known)(
        **{**{f: getattr(known, f) for f in known.__struct_fields__}, "type": "NodeGrew", "version": 2}
    )
    log = await log_of([known, unknown, recorder.add("team/a", TeamCreated(name="a"))], partitions=1)
    await folded(database, log)
    (parked,) = progress.parked(database)
    assert (parked.stream, parked.event_type) == ("node/n1", "NodeGrew")
    assert "upgrade this one" in parked.error
    assert queries.get_team(database, "a") is not None


async def test_a_new_version_of_a_model_is_folded_anew_and_an_old_program_refuses(database: Database) -> None:
    log = await log_of(tell_everything())
    old = Counting()
    await folded(database, log, [old.projection])
    new = Counting()
    changed = Projection(
        name="counting", version=2, kinds=old.projection.kinds, tables=old.projection.tables, fold=new.fold
    )
    await folded(database, log, [changed])
    assert new.seen == len(tell_everything())
    with pytest.raises(NewerProjection, match="upgrade rayfold"):
        await folded(database, log, [old.projection])


async def test_a_database_that_goes_away_is_waited_out(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'gone.db'}")
    log = await log_of(tell_everything())
    async with running(Projector(database, log)):  # nothing migrated yet: no such table
        await until(lambda: True)
        database.migrate()
        await wait_for_tail(database, log)
    assert queries.get_component(database, "default", "shop", "web") is not None
    database.close()


async def test_cancelled_while_it_waits_for_a_database_it_ends_as_cancelled(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'gone.db'}")
    database.migrate()
    log = await log_of([])
    projector = Projector(database, log)
    with structlog.testing.capture_logs() as told:
        following = asyncio.create_task(projector.run())
        await wait_for_tail(database, log)
        database.transact(lambda connection: CHECKPOINTS.drop(connection))
        await append(log, tell_everything())  # found out by one of several tasks, so that the error comes in a group
        await until(lambda: any(line["event"] == "projector.database_unavailable" for line in told))
        following.cancel()
        await asyncio.wait([following])
    assert following.cancelled()
    await projector.close()
    database.close()


async def test_lag_counts_what_is_not_folded(database: Database) -> None:
    log = await log_of(tell_everything())
    tails = {p: await log.tail(p) for p in range(log.partitions)}
    assert sum(part.events for part in progress.lag(database, tails)) == len(tell_everything())
    await folded(database, log)
    assert [part.events for part in progress.lag(database, tails)] == [0] * log.partitions
    assert {c.projection for c in progress.checkpoints(database)} == {p.name for p in ALL}
    with database.engine.begin() as connection:
        connection.execute(sqlalchemy.update(CHECKPOINTS).where(CHECKPOINTS.c.projection == "nodes").values(next=0))
    assert sum(part.events for part in progress.lag(database, tails)) == len(tell_everything())


async def test_a_damaged_partition_is_named_and_the_others_are_folded(database: Database) -> None:
    recorder = Recorder()
    names = [f"n{n}" for n in range(20)]
    whole = {name for name in names if partition_of(f"node/{name}", 2) == 1}
    store = MemoryStore(2)
    log = MemoryEventLog(partitions=2, store=store)
    await log.open()
    await append(log, [node(recorder, name) for name in names])
    flip(store, 0, 0)
    projector = Projector(database, log)
    async with running(projector):
        await until(lambda: {row.name for row in queries.list_nodes(database).items} == whole)
        assert "batch at 0:0 is corrupt" in projector.damaged[0]
        assert not projector.refused


async def test_one_that_was_folded_before_it_was_damaged_is_named_at_the_next_start(database: Database) -> None:
    recorder = Recorder()
    store = MemoryStore(1)
    log = MemoryEventLog(partitions=1, store=store)
    await log.open()
    await append(log, [node(recorder, "n1")])
    await folded(database, log)
    flip(store, 0, 0)
    await append(log, [node(recorder, "n2")])
    projector = Projector(database, log)
    async with running(projector):
        await until(lambda: 0 in projector.damaged or len(queries.list_nodes(database).items) == 2)
    assert not projector.refused
