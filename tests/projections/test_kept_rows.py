"""Rows kept from one transaction to the next are those of the database, whoever else folds and whatever fails."""

from pathlib import Path

import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.memory import MemoryEventLog
from events.log.records import StoredEvent
from projections.components import COMPONENTS
from projections.crons import CRON_RUNS
from projections.database import Database
from projections.kept import KeptRows
from projections.projector import Projector
from projections.rows import Rows
from tests.projections.recorder import WEB, append, log_of, tell_everything
from tests.projections.test_projector import dump_all, folded, running, wait_for_tail


def test_a_group_is_taken_once_and_the_oldest_goes_first() -> None:
    kept = KeptRows(most=2)
    kept.leave(COMPONENTS, "a", [{"service_id": "a"}])
    kept.leave(CRON_RUNS, "a", [])
    assert kept.take(COMPONENTS, "a") == [{"service_id": "a"}]
    assert kept.take(COMPONENTS, "a") is None
    kept.leave(COMPONENTS, "b", [])
    kept.leave(COMPONENTS, "c", [])
    assert kept.take(CRON_RUNS, "a") is None
    assert (kept.take(COMPONENTS, "b"), kept.take(COMPONENTS, "c")) == ([], [])


async def test_what_is_kept_is_not_read_again_and_is_as_it_was_committed(database: Database) -> None:
    await folded(database, await log_of(tell_everything()))
    kept = KeptRows()

    def load() -> Rows:
        def work(connection: object) -> Rows:
            rows = Rows(connection, kept)  # type: ignore[arg-type]
            rows.load(COMPONENTS, [WEB, "absent"])
            return rows

        return database.transact(work)

    rows = load()
    before = rows.get(COMPONENTS, WEB)
    assert before is not None
    rows.put(COMPONENTS, {**before, "scale": 77})
    load()  # the one before was not left: it might have been rolled back
    rows.leave()
    again = load()
    found = again.get(COMPONENTS, WEB)
    assert found is not None
    assert found["scale"] == 77, "from memory"
    assert again.get(COMPONENTS, "absent") is None


async def _events(log: MemoryEventLog, partition: int) -> list[StoredEvent]:
    return [stored async for part in log.read(partition, 0) for stored in part]


@pytest.mark.parametrize("point", ["projections.folded", "projections.written", "projections.committed"])
async def test_what_is_rolled_back_is_not_kept(database: Database, tmp_path: Path, point: str) -> None:
    log = await log_of(tell_everything(), partitions=1)
    events = await _events(log, 0)
    projector = Projector(database, log)
    await projector._load()
    for start in range(0, len(events), 40):
        part = {0: events[start : start + 40]}
        if start % 80:
            arm(point, "error")
            with pytest.raises(FailpointError):
                await projector._apply(part)
            disarm(point)
        await projector._apply(part)
    await projector.close()
    await _as_folded_at_once(database, log, tmp_path)


async def test_two_that_fold_in_turn_do_not_go_by_what_they_kept(database: Database, tmp_path: Path) -> None:
    story = tell_everything()
    log = await log_of([])
    one, two = Projector(database, log), Projector(database, log)
    async with running(one), running(two):
        for start in range(0, len(story), 20):
            await append(log, story[start : start + 20])
        await wait_for_tail(database, log)
    await _as_folded_at_once(database, log, tmp_path)


async def test_a_rebuild_between_does_not_go_by_what_was_kept(database: Database, tmp_path: Path) -> None:
    log = await log_of(tell_everything(), partitions=1)
    events = await _events(log, 0)
    projector = Projector(database, log)
    await projector._load()
    half = len(events) // 2
    await projector._apply({0: events[:half]})
    other = Projector(database, log)
    await other.rebuild("components")
    await other.close()
    await projector._apply({0: events[half:]})
    await projector.close()
    await _as_folded_at_once(database, log, tmp_path)


async def _as_folded_at_once(database: Database, log: MemoryEventLog, tmp_path: Path) -> None:
    plain = Database(f"sqlite:///{tmp_path / 'plain.db'}")
    plain.migrate()
    await folded(plain, log)
    assert dump_all(database) == dump_all(plain)
    plain.close()
