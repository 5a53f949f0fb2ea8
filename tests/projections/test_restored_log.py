"""A log that was restored from before the read models' checkpoints is refused, said, and folded again when asked."""

from collections.abc import Sequence

import pytest

from events.log.memory import MemoryEventLog
from events.log.records import EventRecord
from events.model.node import NodeJoined
from projections import progress, queries
from projections.database import Database
from projections.errors import HistoryLost
from projections.projector import Projector
from tests.projections.recorder import Recorder, append, log_of, tell_everything
from tests.projections.test_projector import at_the_tail, dump_all, folded, running, until


def joined(recorder: Recorder, name: str, *, at: int) -> EventRecord:
    event = NodeJoined(name=name, address="127.0.0.1", cpus=1, memory_bytes=1, runtime="process")
    return recorder.add(f"node/{name}", event, at=at)


async def shorter_log(records: Sequence[EventRecord], *, partitions: int = 4) -> MemoryEventLog:
    """The log as a backup has it that was made before its end."""
    return await log_of(records, partitions=partitions)


async def test_a_checkpoint_beyond_the_tail_is_refused_rebuilt_and_goes_on(database: Database) -> None:
    story = tell_everything()
    await folded(database, await log_of(story))
    ahead = dump_all(database)
    restored = await shorter_log(story[: len(story) // 2])
    with pytest.raises(HistoryLost, match=r"ahead of the log.*rayfold projections rebuild all"):
        await folded(database, restored)
    projector = Projector(database, restored)
    async with running(projector):
        await until(lambda: "rayfold projections rebuild all" in projector.refused)
        assert dump_all(database) == ahead, "nothing is folded into rows of another history"
        await projector.rebuild("all")
        await until(lambda: projector.refused == "")
        await append(restored, story[len(story) // 2 :])
        await until(lambda: dump_all(database) == ahead)


async def test_a_history_that_went_on_elsewhere_past_the_checkpoint_is_refused_too(database: Database) -> None:
    recorder = Recorder()
    common = [joined(recorder, f"n{n}", at=n) for n in range(10)]
    lost = [joined(recorder, f"lost{n}", at=10 + n) for n in range(5)]
    await folded(database, await log_of([*common, *lost], partitions=1))
    instead = [joined(recorder, f"new{n}", at=100 + n) for n in range(8)]
    restored = await shorter_log([*common, *instead], partitions=1)
    with pytest.raises(HistoryLost, match=r"expected the event at 0:14 .* found another, node/new4@1"):
        await folded(database, restored)
    projector = Projector(database, restored)
    await projector.rebuild("all")
    await projector.close()
    assert {n.name for n in queries.list_nodes(database).items} == {r.stream[5:] for r in [*common, *instead]}


async def test_a_log_restored_at_the_checkpoint_is_folded_on(database: Database) -> None:
    story = tell_everything()
    await folded(database, await log_of(story))
    projector = Projector(database, await shorter_log(story))
    assert await projector.catch_up() == 0
    await projector.close()


async def test_one_model_rebuilt_leaves_the_refusal_for_the_others(database: Database) -> None:
    story = tell_everything()
    await folded(database, await log_of(story))
    restored = await shorter_log(story[:50])
    projector = Projector(database, restored)
    await projector.rebuild("nodes")
    with pytest.raises(HistoryLost):
        await projector.catch_up()
    await projector.rebuild("all")
    await projector.catch_up()
    await projector.close()
    assert await at_the_tail(database, restored)
    assert sum(c.next for c in progress.checkpoints(database) if c.projection == "nodes") == 50
