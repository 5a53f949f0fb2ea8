"""Partitions move between projectors while events come in: each event is folded once, and the rows are as ever."""

import asyncio
from pathlib import Path

from projections.database import Database
from projections.projector import Projector
from tests.projections.recorder import append, log_of, tell_everything
from tests.projections.test_projector import Counting, dump_all, folded, running, wait_for_tail

SHARES = (([0, 1, 2, 3], []), ([0, 2], [1, 3]), ([1], [0, 2, 3]), ([], [0, 1, 2, 3]), ([3, 0], [2, 1]))


async def test_partitions_that_move_are_folded_once_each(database: Database, tmp_path: Path) -> None:
    """Losers are told first, as the reconciler does."""
    story = tell_everything()
    log = await log_of([])
    counting = Counting()
    projections = [counting.projection]
    one = Projector(database, log, projections=projections, partitions=())
    other = Projector(database, log, projections=projections, partitions=())
    async with running(one), running(other):
        step = len(story) // len(SHARES) + 1
        for number, (mine, theirs) in enumerate(SHARES):
            await one.assign([p for p in mine if p in one.partitions()])
            await other.assign(theirs)
            await one.assign(mine)
            assert (one.partitions(), other.partitions()) == (sorted(mine), sorted(theirs))
            await append(log, story[number * step : (number + 1) * step])
            await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while counting.tally(database) < len(story):
                await asyncio.sleep(0.02)
    assert counting.tally(database) == len(story)


async def test_two_that_believe_they_have_the_same_partition_fold_it_once(database: Database) -> None:
    """The checkpoints decide, whatever anybody was told."""
    log = await log_of(tell_everything())
    counting = Counting()
    projections = [counting.projection]
    one = Projector(database, log, projections=projections, partitions=())
    other = Projector(database, log, projections=projections, partitions=())
    async with running(one), running(other):
        await asyncio.gather(one.assign(range(4)), other.assign(range(4)))
        async with asyncio.timeout(30):
            while counting.tally(database) < len(tell_everything()):
                await asyncio.sleep(0.02)
    assert counting.tally(database) == len(tell_everything())


async def test_a_rebuild_by_each_of_two_ends_with_the_same_rows(database: Database, tmp_path: Path) -> None:
    log = await log_of(tell_everything())
    one = Projector(database, log, partitions=[0, 1])
    other = Projector(database, log, partitions=[2, 3])
    async with running(one), running(other):
        await wait_for_tail(database, log)
        await asyncio.gather(one.rebuild("components"), other.rebuild("components"))
        await wait_for_tail(database, log)
    plain = Database(f"sqlite:///{tmp_path / 'plain.db'}")
    plain.migrate()
    await folded(plain, log)
    assert dump_all(plain) == dump_all(database)
    plain.close()
