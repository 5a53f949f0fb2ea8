"""What a tail gets from memory is what is on disk: the same lines and numbers, masked, and none but durable ones."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from actors.logs.filter import LineFilter, Query
from actors.logs.fresh import FRESH_BYTES, Fresh, FreshBudget
from actors.logs.line import Batch, LineRecord, LogLine, Origin, gap_record
from actors.logs.policy import FixedPolicies, StreamPolicy
from actors.logs.query import answer, follow
from actors.logs.redact import Redactor
from actors.logs.search import Searcher
from actors.logs.store import LogStore

STREAM = "0123456789abcdef"
ORIGIN = Origin("app", "i-1", 3)


def batch(after: int, *texts: str) -> Batch:
    records = [LineRecord(at=1_000 + after, text=text) for text in texts]
    return Batch.of("s", records, after=after, upto=after + len(texts))


def printed(after: int, blob: bytes) -> Batch:
    return Batch(source_id="i-1", after=after, upto=after + len(blob), blob=blob, origin=ORIGIN)


async def collect(store: LogStore, searcher: Searcher, first: int, end: int) -> list[LogLine]:
    """The lines of a tail from `first` until the number before `end`."""
    lines: list[LogLine] = []
    async with aclosing(follow(store, searcher, STREAM, first, LineFilter())) as pieces:
        async for piece in pieces:
            lines += piece.lines
            if piece.next_number >= end:
                break
    return lines


async def on_disk(store: LogStore, searcher: Searcher) -> list[LogLine]:
    return (await answer(store, searcher, Query(stream=STREAM, limit=10_000))).lines


async def begun(store: LogStore, searcher: Searcher, first: int, end: int) -> "asyncio.Task[list[LogLine]]":
    """A tail that waits for lines which are not stored yet."""
    others = store._entry(STREAM).fresh.tails
    tail = asyncio.ensure_future(collect(store, searcher, first, end))
    while store._entry(STREAM).fresh.tails == others:
        await asyncio.sleep(0)
    return tail


@pytest.fixture
async def masked(tmp_path: Path) -> AsyncIterator[LogStore]:
    policies = FixedPolicies(StreamPolicy(redactor=Redactor([r"pin=\d+"])))
    store = LogStore(tmp_path / "masked", policies=policies)
    await store.start()
    yield store
    await store.aclose()


async def test_tails_that_read_along_get_what_is_on_disk(store: LogStore, searcher: Searcher) -> None:
    await store.append(STREAM, batch(0, "old"))
    tails = [await begun(store, searcher, first, 8) for first in (1, 2)]

    await store.append(
        STREAM, printed(0, b"1000001 o F one\n1000002 e J two\n1000003 e F three \xff\n1000004 o P four\n")
    )
    gap = Batch.of("s", [gap_record(2, "disk full", 9)], after=1, upto=2)
    await store.append(STREAM, gap)
    await store.append(STREAM, batch(2, "last"))

    all_, newer = await asyncio.gather(*tails)
    assert all_ == await on_disk(store, searcher)
    assert newer == all_[1:]
    assert [line.number for line in all_] == [1, 2, 3, 4, 5, 7]


async def test_a_line_from_memory_is_masked_as_the_one_on_disk(masked: LogStore, searcher: Searcher) -> None:
    tail = await begun(masked, searcher, 1, 2)
    await masked.append(STREAM, batch(0, "pin=1234"))
    assert [line.text for line in await tail] == ["••••"]


async def test_a_batch_that_the_disk_refused_is_not_shown(
    store: LogStore, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = await begun(store, searcher, 1, 3)
    await store.append(STREAM, batch(0, "one"))

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", refuse)
        refused = await asyncio.gather(store.append(STREAM, batch(1, "lost?")), return_exceptions=True)
    assert isinstance(refused[0], Exception)
    await store.append(STREAM, batch(1, "lost?"))
    assert [line.text for line in await tail] == ["one", "lost?"]


async def test_nothing_is_kept_once_the_last_tail_has_gone(store: LogStore, searcher: Searcher) -> None:
    tail = await begun(store, searcher, 1, 2)
    await store.append(STREAM, batch(0, "one"))
    await tail
    await store.append(STREAM, batch(1, "two"))
    assert store._entry(STREAM).fresh.read(1, 10) is None
    assert store._budget.used == 0


def test_memory_holds_the_newest_whole_batches_within_its_bounds() -> None:
    budget = FreshBudget()
    fresh = Fresh(budget)
    fresh.tails = 1
    number = 1
    for _ in range(40):
        fresh.add(batch(number, *["x" * 1000] * 10), number, number + 10)
        number += 10
    assert budget.used <= FRESH_BYTES
    assert fresh.read(1, 10) is None

    found = fresh.read(number - 15, 1000)
    assert found is not None
    assert [line.number for line in found.lines] == list(range(number - 15, number))
    assert found.next_number == number

    part = fresh.read(number - 15, 5)
    assert part is not None
    assert (len(part.lines), part.next_number) == (5, number - 10)

    fresh.add(batch(0, "after a hole"), number + 7, number + 8)
    assert fresh.read(number - 1, 10) is None
    assert fresh.read(number + 7, 10) is not None


def test_over_the_budget_of_all_streams_nothing_is_kept() -> None:
    budget = FreshBudget()
    budget.used = 1 << 40
    fresh = Fresh(budget)
    fresh.tails = 1
    fresh.add(batch(0, "one"), 1, 2)
    assert fresh.read(1, 10) is None
    assert budget.used == 1 << 40
