"""What the store promises: contiguous numbers, each batch once, nothing acknowledged lost, and what is lost said."""

import os
import resource
from pathlib import Path

import msgspec
import pytest

from actors.logs.errors import (
    BadBatch,
    BadQuery,
    BadStreamName,
    QueryTooCostly,
    StorageFailed,
    StreamClosed,
    WrongPosition,
)
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.line import Batch, LineRecord, gap_record
from actors.logs.query import answer
from actors.logs.search import Piece, Searcher
from actors.logs.store import LogStore
from actors.logs.view import Extent, StoreLimits

STREAM = "0123456789abcdef"


def batch(start: int, count: int, *, source: str = "i-1", text: str = "line {n}", finished: bool = False) -> Batch:
    """Lines start+1 … start+count of a source whose positions are line counts; `at` is the line's number."""
    lines = [
        LineRecord(at=n, text=text.format(n=n), stream="o", instance=source)
        for n in range(start + 1, start + count + 1)
    ]
    return Batch.of(source, lines, after=start, upto=start + count, finished=finished)


async def ask(store: LogStore, searcher: Searcher | None = None, **how: object) -> QueryResult:
    """Without filters no worker is asked, and any searcher will do."""
    return await answer(store, searcher or Searcher(), Query(stream=STREAM, **how))  # type: ignore[arg-type]


async def texts(store: LogStore, searcher: Searcher | None = None, **how: object) -> list[str]:
    return [line.text for line in (await ask(store, searcher, **how)).lines]


async def reopened(root: Path, limits: StoreLimits | None = None) -> LogStore:
    store = LogStore(root, limits)
    await store.start()
    return store


async def test_numbers_are_contiguous_across_restarts(tmp_path: Path) -> None:
    for round_ in range(4):
        store = await reopened(tmp_path)
        landed = await store.append(STREAM, batch(round_ * 10, 10))
        assert (landed.first, landed.next_number) == (round_ * 10 + 1, round_ * 10 + 11)
        await store.aclose()
    store = await reopened(tmp_path)
    lines = (await ask(store)).lines
    assert [line.number for line in lines] == list(range(1, 41))
    assert [line.text for line in lines] == [f"line {n}" for n in range(1, 41)]
    await store.aclose()


async def test_a_batch_sent_again_is_not_numbered_twice_even_after_a_restart(tmp_path: Path) -> None:
    store = await reopened(tmp_path)
    await store.append(STREAM, batch(0, 5))
    assert (await store.append(STREAM, batch(0, 5))).duplicate
    await store.aclose()
    store = await reopened(tmp_path)
    assert (await store.append(STREAM, batch(0, 5))).duplicate
    with pytest.raises(WrongPosition) as refused:
        await store.append(STREAM, batch(3, 5))
    assert refused.value.stored == 5
    assert await store.position(STREAM, "i-1") == 5
    assert (await store.append(STREAM, batch(5, 1))).first == 6
    await store.aclose()


async def test_positions_outlive_the_segments_that_held_them(tmp_path: Path) -> None:
    limits = StoreLimits(stream_bytes=4_000, segment_bytes=1_000)
    store = await reopened(tmp_path, limits)
    await store.append(STREAM, batch(0, 3, source="quiet"))
    for start in range(0, 2_000, 20):
        await store.append(STREAM, batch(start, 20, text=os.urandom(20).hex() + "{n}"))
    await store.aclose()
    store = await reopened(tmp_path, limits)
    assert (await store.append(STREAM, batch(0, 3, source="quiet"))).duplicate
    await store.aclose()


@pytest.mark.parametrize("cut", [1, 7, 30, 60])
async def test_a_torn_tail_is_cut_counted_and_written_again(tmp_path: Path, cut: int) -> None:
    store = await reopened(tmp_path)
    await store.append(STREAM, batch(0, 5))
    await store.append(STREAM, batch(5, 5))
    await store.aclose()
    segment = next(tmp_path.glob("*/*/*.seg"))
    os.truncate(segment, segment.stat().st_size - cut)
    store = await reopened(tmp_path)
    assert await store.position(STREAM, "i-1") == 5
    assert store.stats.torn_bytes > 0
    await store.append(STREAM, batch(5, 5))
    assert await texts(store) == [f"line {n}" for n in range(1, 11)]
    await store.aclose()


async def test_a_segment_torn_at_its_birth_gives_way_to_the_one_before(tmp_path: Path) -> None:
    store = await reopened(tmp_path)
    await store.append(STREAM, batch(0, 5))
    await store.aclose()
    old = next(tmp_path.glob("*/*/*.seg"))
    (old.parent / f"{6:020d}.seg").write_bytes(old.read_bytes()[:20])
    store = await reopened(tmp_path)
    assert (await store.append(STREAM, batch(5, 5))).first == 6
    assert len(await texts(store)) == 10
    await store.aclose()


async def test_damage_in_the_middle_is_a_gap_and_the_rest_is_kept(tmp_path: Path) -> None:
    store = await reopened(tmp_path)
    for start in (0, 5, 10):
        await store.append(STREAM, batch(start, 5))
    await store.aclose()
    segment = next(tmp_path.glob("*/*/*.seg"))
    data = bytearray(segment.read_bytes())
    place = data.index(b"line 7")
    data[place] ^= 1
    segment.write_bytes(data)
    store = await reopened(tmp_path)
    for how in ({}, {"last": 20}):
        lines = (await ask(store, **how)).lines
        assert [(line.number, line.gap) for line in lines[4:7]] == [(5, 0), (6, 5), (11, 0)]
        assert "damaged" in lines[5].text
    assert (await store.append(STREAM, batch(15, 1))).first == 16
    await store.aclose()


async def test_retention_leaves_one_gap_in_place_of_what_it_dropped(tmp_path: Path) -> None:
    store = await reopened(tmp_path, StoreLimits(stream_bytes=20_000, segment_bytes=4_000))
    for start in range(0, 4_000, 40):
        await store.append(STREAM, batch(start, 40, text=os.urandom(16).hex() + " {n}"))
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*/*.seg")) < 26_000
    result = await ask(store, limit=10_000)
    gap, kept = result.lines[0], result.lines[1:]
    assert gap.number == 1 and gap.gap > 0 and "retention" in gap.text
    assert [line.number for line in kept] == list(range(gap.next_number, 4_001))
    assert store.stats.retention_lines == gap.gap
    newest = (await ask(store, last=10_000)).lines
    assert newest == result.lines
    await store.aclose()


async def test_lines_that_could_not_be_kept_take_their_numbers(store: LogStore) -> None:
    await store.append(STREAM, batch(0, 2))
    await store.append(STREAM, Batch.of("i-1", [gap_record(100, "too fast", 3)], after=2, upto=3))
    landed = await store.append(STREAM, batch(3, 1))
    assert landed.first == 103
    assert [(line.number, line.gap) for line in (await ask(store)).lines] == [(1, 0), (2, 0), (3, 100), (103, 0)]
    assert [line.number for line in (await ask(store, from_number=50)).lines] == [3, 103]


async def test_last_n_gives_the_newest_n(store: LogStore, searcher: Searcher) -> None:
    for start in range(0, 3_000, 100):
        await store.append(STREAM, batch(start, 100))
    assert await texts(store, last=3) == ["line 2998", "line 2999", "line 3000"]
    assert await texts(store, last=250) == [f"line {n}" for n in range(2751, 3001)]
    assert (await ask(store, last=0)).next_number == 3001
    matching = await texts(store, searcher, last=2, filter=LineFilter(grep="line 12"))
    assert matching == ["line 1298", "line 1299"]


async def test_filters(store: LogStore, searcher: Searcher) -> None:
    await store.append(STREAM, batch(0, 50))
    router = LineRecord(at=51, text="GET / 200", source="router", instance="i-2")
    await store.append(STREAM, Batch.of("gateway", [router], after=0, upto=1))
    assert await texts(store, searcher, filter=LineFilter(since=50)) == ["line 50", "GET / 200"]
    assert await texts(store, searcher, filter=LineFilter(since=10, until=12)) == ["line 10", "line 11"]
    assert await texts(store, searcher, filter=LineFilter(sources=("router",))) == ["GET / 200"]
    assert await texts(store, searcher, filter=LineFilter(instance="i-2")) == ["GET / 200"]
    assert await texts(store, searcher, filter=LineFilter(grep=r"^line [34]9$")) == ["line 39", "line 49"]
    assert await texts(store, searcher, filter=LineFilter(grep="get", ignore_case=True)) == ["GET / 200"]


async def test_paging_by_next_number_sees_every_line_once(store: LogStore) -> None:
    for start in range(0, 500, 50):
        await store.append(STREAM, batch(start, 50))
    seen: list[int] = []
    cursor = 1
    while True:
        result = await ask(store, from_number=cursor, limit=7)
        seen += [line.number for line in result.lines]
        cursor = result.next_number
        if result.complete:
            break
    assert seen == list(range(1, 501))


async def test_a_catastrophic_pattern_takes_linear_time(store: LogStore, searcher: Searcher) -> None:
    line = LineRecord(at=1, text="a" * 60_000 + "!")
    await store.append(STREAM, Batch.of("i-1", [line], after=0, upto=1))
    assert await texts(store, searcher, filter=LineFilter(grep="(a+)+$")) == []
    assert len(await texts(store, searcher, filter=LineFilter(grep="(a|aa)+!"))) == 1
    with pytest.raises(BadQuery, match="RE2"):
        await texts(store, searcher, filter=LineFilter(grep=r"(a+)\1"))


@pytest.mark.servers  # a search worker that runs into its time limit of seconds
async def test_work_that_takes_too_long_costs_only_its_own_query(store: LogStore, tmp_path: Path) -> None:
    view = await store.view(STREAM)
    pipe = tmp_path / "1.seg"
    os.mkfifo(pipe)  # opening it waits for ever, as a disk that hangs does
    held = msgspec.structs.replace(view, extents=(Extent(1, str(pipe), 9), Extent(2, str(pipe), 9)), next_number=3)
    searcher = Searcher(1)
    flt = LineFilter(grep="x")
    with pytest.raises(QueryTooCostly, match="simpler"):
        await searcher.run(Piece(direction="forward", view=held, cursor=1, limit=1, filter=flt))
    scan = await searcher.run(Piece(direction="forward", view=view, cursor=1, limit=1, filter=flt))
    assert scan.done
    await searcher.aclose()


async def test_bad_input_is_refused_and_changes_nothing(store: LogStore, searcher: Searcher) -> None:
    for name in ("", "../x", "a/../b", "a/b/c", "A", "a" * 500, "build/..", "x\0"):
        with pytest.raises(BadStreamName):
            await store.append(name, batch(0, 1))
    for bad in (
        Batch(source_id="i", after=0, upto=1, blob=b"\xc1"),
        Batch(source_id="i", after=5, upto=1, blob=b"\x90"),
        Batch(source_id="", after=0, upto=1, blob=b"\x90"),
        Batch.of("i", [LineRecord(at=-1, text="")], after=0, upto=1),
        Batch.of("i", [LineRecord(at=1, text="", gap=1 << 60)], after=0, upto=1),
    ):
        with pytest.raises(BadBatch):
            await store.append(STREAM, bad)
    for pattern in ("(", "*", "a{1,2", "x" * 2_000):
        try:
            assert await texts(store, searcher, filter=LineFilter(grep=pattern)) == []
        except BadQuery:
            continue
    assert (await store.view(STREAM)).next_number == 1


async def test_a_bad_pattern_is_a_clear_error_even_on_an_empty_stream(store: LogStore) -> None:
    with pytest.raises(BadQuery, match="regular expression"):
        await ask(store, filter=LineFilter(grep="("))


async def test_a_finite_stream_ends_once(store: LogStore) -> None:
    await store.append("build/b1", batch(0, 2))
    await store.close_stream("build/b1", "failed", 9)
    await store.close_stream("build/b1", "succeeded", 10)
    assert (await store.append("build/b1", batch(0, 2))).duplicate
    with pytest.raises(StreamClosed):
        await store.append("build/b1", batch(2, 2))
    closed = (await store.view("build/b1")).closed
    assert closed is not None and closed.outcome == "failed"


async def test_a_full_disk_refuses_and_the_same_batch_is_stored_later(store: LogStore) -> None:
    await store.append(STREAM, batch(0, 10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = batch(10, 500, text=os.urandom(2_000).hex() + "{n}")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(StorageFailed, match="sent again"):
            await store.append(STREAM, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (await store.append(STREAM, noise)).first == 11
    assert [line.number for line in (await ask(store)).lines] == list(range(1, 511))
    assert store.stats.storage_failures == 1 and store.stats.pending_bytes == 0
