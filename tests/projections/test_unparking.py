"""A stream that a read model has set aside is folded on a person's wish: all that waits in it, once, or nothing."""

import asyncio
from collections.abc import Sequence

import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.memory import MemoryEventLog
from events.log.records import EventRecord, StoredEvent
from events.model.base import Event
from projections import progress
from projections.catalogue import ALL
from projections.database import Database
from projections.errors import UnknownProjection
from projections.model import Projection
from projections.projector import Projector
from projections.rows import Rows
from tests.projections.recorder import WEB, Recorder, append, log_of, tell_everything
from tests.projections.test_projector import Counting, dump_all, folded, node, running, wait_for_tail

SICK = "node/n2"


class House:
    """Forty events of four streams, of which one is parked at its third, behind which seven wait."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.recorder = Recorder()
        self.bad = {f"{SICK}@3"}
        self.counting = Counting(fails=lambda stored: stored.record.event_id in self.bad)
        self.records = [node(self.recorder, f"n{n % 4}") for n in range(40)]

    async def open(self) -> "House":
        self.log: MemoryEventLog = await log_of(self.records, partitions=1)
        self.projector = Projector(self.database, self.log, projections=[self.counting.projection])
        await self.projector.catch_up()
        assert [p.event_id for p in progress.parked(self.database)] == [f"{SICK}@3"]
        return self

    async def retry(self) -> str | None:
        return await self.projector.retry_parked("counting", SICK)

    def folded(self) -> int:
        return self.counting.tally(self.database)


@pytest.fixture
async def house(database: Database) -> House:
    return await House(database).open()


async def test_mended_it_is_folded_with_what_waits_and_goes_on(house: House) -> None:
    house.bad.clear()
    assert await house.retry() == ""
    assert progress.parked(house.database) == []
    assert house.folded() == 40
    await append(house.log, [node(house.recorder, "n2")])
    await house.projector.catch_up()
    assert house.folded() == 41
    assert house.projector.positions() == {0: 41}
    assert await house.retry() is None


async def test_what_still_cannot_be_folded_stays_set_aside(house: House) -> None:
    assert "cannot fold this" in str(await house.retry())
    (parked,) = progress.parked(house.database)
    assert (parked.event_id, parked.behind) == (f"{SICK}@3", 7)
    assert house.folded() == 32
    house.bad.clear()
    assert await house.retry() == ""
    assert house.folded() == 40


async def test_where_a_later_event_is_at_fault_those_before_it_are_folded(house: House) -> None:
    house.bad = {f"{SICK}@6"}
    assert "cannot fold this" in str(await house.retry())
    (parked,) = progress.parked(house.database)
    assert (parked.event_id, parked.behind) == (f"{SICK}@6", 4)
    assert house.folded() == 35
    await append(house.log, [node(house.recorder, "n2")])
    await house.projector.catch_up()
    assert progress.parked(house.database)[0].behind == 5


async def test_what_fails_before_the_commit_leaves_all_as_it_was(house: House) -> None:
    house.bad.clear()
    arm("projections.unparked", "error")
    try:
        with pytest.raises(FailpointError):
            await house.retry()
    finally:
        disarm("projections.unparked")
    assert [p.behind for p in progress.parked(house.database)] == [7]
    assert house.folded() == 32
    assert await house.retry() == ""
    assert house.folded() == 40


async def test_a_projector_that_did_not_hear_of_it_leaves_nothing_out(house: House) -> None:
    unaware = Projector(house.database, house.log, projections=[house.counting.projection])
    await unaware.catch_up()
    house.bad.clear()
    assert await house.retry() == ""
    late = node(house.recorder, "n2")
    await append(house.log, [late])
    stored = [s async for events in house.log.read(0, 40) for s in events]
    await unaware._apply({0: stored})
    assert house.folded() == 41
    assert unaware.positions() == {0: 41}


async def test_beside_live_events_none_is_lost_and_none_is_folded_twice(house: House) -> None:
    house.bad.clear()
    async with running(house.projector), asyncio.TaskGroup() as group:
        retried = group.create_task(house.retry())
        for number in range(40):
            await append(house.log, [node(house.recorder, f"n{number % 4}")])
    assert retried.result() == ""
    async with running(Projector(house.database, house.log, projections=[house.counting.projection])):
        await wait_for_tail(house.database, house.log)
    assert progress.parked(house.database) == []
    assert house.folded() == 80


async def test_what_is_not_parked_or_not_folded_here_is_left_to_others(house: House) -> None:
    assert await house.projector.retry_parked("counting", "node/n1") is None
    with pytest.raises(UnknownProjection):
        await house.projector.retry_parked("apples", SICK)
    await house.projector.assign([])
    assert await house.retry() is None


def faulty(model: Projection, bad: Sequence[str]) -> Projection:
    def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
        if stored.record.event_id in bad:
            raise RuntimeError("cannot fold this")
        model.fold(rows, stored, event)

    fields = {name: getattr(model, name) for name in model.__struct_fields__}
    return Projection(**{**fields, "fold": fold})


async def test_folded_late_the_rows_are_those_of_a_fold_in_order(database: Database) -> None:
    story: tuple[EventRecord, ...] = tell_everything()
    log = await log_of(story)
    stream = f"component/{WEB}"
    bad = [f"{stream}@{version}" for version in range(3, 60)]
    models = [faulty(model, bad) for model in ALL]
    projector = Projector(database, log, projections=models)
    await projector.catch_up()
    parked = [p.projection for p in progress.parked(database)]
    assert len(parked) >= 5
    bad.clear()
    for name in parked:
        assert await projector.retry_parked(name, stream) == ""
    late = dump_all(database)
    await projector.rebuild("all")
    assert late == dump_all(database)
    await folded(database, log)
    assert progress.parked(database) == []
    await projector.close()
