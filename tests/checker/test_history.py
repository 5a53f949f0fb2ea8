"""The recorder writes down what really came of each call, and a killed process's last call as unknown."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from events.failpoints import arm, disarm
from events.log.codec import MAX_BATCH_RECORDS
from events.log.errors import EventTooLarge, Fenced, LogUnavailable
from events.log.memory import MemoryEventLog, MemoryStore
from tests.checker.history import Outcome, Recorder, load
from tests.checker.rules import assert_holds
from tests.checker.stored import batch_of
from tests.events.log.contract import event


@pytest.fixture
def failing_append() -> Iterator[None]:
    arm("log.append.committed", "error")
    yield
    disarm("log.append.committed")


async def test_each_outcome_is_written_down(tmp_path: Path) -> None:
    store = MemoryStore()
    log = MemoryEventLog(store=store)
    with (tmp_path / "one").open("w") as sink:
        recorder = Recorder(sink=sink)
        following = asyncio.create_task(recorder.follow("f", log, {0: 0}))
        old = await recorder.claim("a", log, 0)
        await recorder.append("a", old, "c1", [event("s/1", 1)])
        await recorder.append("a", old, "c1", [event("s/1", 1)])
        with pytest.raises(EventTooLarge):
            await recorder.append("a", old, "big", [event("s/2", n) for n in range(1, MAX_BATCH_RECORDS + 2)])
        new = await recorder.claim("b", log, 0, force=True)
        with pytest.raises(Fenced):
            await recorder.append("a", old, "c2", [event("s/1", 2)])
        await recorder.append("b", new, "c3", [event("s/3", 1)])
        assert len(await recorder.read("r", log, 0)) == 2
        while len(recorder.history().consumed[-1].events) < 2:
            await asyncio.sleep(0)
        recorder.caught_up("f")
        following.cancel()
    history = recorder.history()
    outcomes = [append.outcome for append in history.appends]
    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.REFUSED, Outcome.REFUSED, Outcome.OK]
    assert [claim.epoch for claim in history.claims] == [1, 2]
    assert_holds(history, [batch_of(0, b.base, b.revision, b.value) for b in store.partitions[0].batches.values()])
    written = load([tmp_path / "one"])
    assert (written.appends, written.claims) == (history.appends, history.claims)


async def test_a_call_that_never_ended_is_unknown(tmp_path: Path, failing_append: None) -> None:
    log = MemoryEventLog()
    path = tmp_path / "killed"
    with path.open("w") as sink:
        recorder = Recorder(sink=sink)
        writer = await recorder.claim("a", log, 0)
        with pytest.raises(LogUnavailable):
            await recorder.append("a", writer, "c1", [event("s/1", 1)])
        hanging = asyncio.create_task(recorder.append("a", await log.claim(1, "a"), "c2", [event("s/2", 1)]))
        await asyncio.sleep(0)
        hanging.cancel()
        with suppress(asyncio.CancelledError):
            await hanging
        sink.write('{"type": "Append", "id"')
    one, two = sorted(load([path]).appends, key=lambda append: append.id)
    assert (one.outcome, one.ended is None) == (Outcome.UNKNOWN, False)
    assert (two.outcome, two.ended) == (Outcome.UNKNOWN, None)
