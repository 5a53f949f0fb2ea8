"""What sealing promises: the same answers as before, nothing lost by a crash, the archive unnoticed."""

import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.logs.archive import SegmentArchive
from actors.logs.filter import LineFilter, Query, QueryResult
from actors.logs.keeper import Keeper, KeepSettings
from actors.logs.line import Batch, LineRecord, gap_record
from actors.logs.policy import FixedPolicies, StreamPolicy
from actors.logs.query import answer, stats
from actors.logs.redact import Redactor
from actors.logs.search import Searcher
from actors.logs.store import LogStore
from actors.logs.totals import ALARM_SECONDS, StoreTotals, Totals
from actors.logs.view import StoreLimits
from events.failpoints import arm, disarm
from events.log.blobs import DirectoryBlobs, MemoryBlobs

STREAM = "0123456789abcdef"
LIMITS = StoreLimits(segment_bytes=6_000)
WORDS = ["alpha", "beta", "gamma", "delta", "upsilon", "Straße", "naïve", "42", "x_y"]


def lines(count: int, seed: int = 1) -> list[LineRecord]:
    """Lines of several instances, sources and levels, with gaps among them; `at` is the line's place, in seconds."""
    draw = random.Random(seed)
    found: list[LineRecord] = []
    for place in range(1, count + 1):
        at, instance = place * 1_000_000, draw.choice(("i-1", "i-2"))
        if draw.random() < 0.01:
            found.append(gap_record(draw.randint(1, 5), "too fast", at, instance=instance))
        elif draw.random() < 0.1:
            text = f"GET /{draw.choice(WORDS)} {draw.choice((200, 404, 503))} {draw.randint(1, 900)}ms 12B"
            found.append(LineRecord(at=at, text=text, source="router", instance=instance))
        elif draw.random() < 0.1:
            text = f'{{"level":"error","user":{{"id":{draw.randint(1, 5)}}},"msg":"{draw.choice(WORDS)}"}}'
            found.append(LineRecord(at=at, text=text, stream="e", instance=instance))
        else:
            level, words = draw.choice(("INFO", "WARN", "ERROR")), " ".join(draw.choices(WORDS, k=5))
            text = f"{level} {words} n={place} {os.urandom(8).hex()}"
            found.append(LineRecord(at=at, text=text, stream="o", instance=instance, partial=draw.random() < 0.05))
    return found


async def fill(store: LogStore, count: int, *, seed: int = 1) -> None:
    records = lines(count, seed)
    for start in range(0, count, 50):
        part = records[start : start + 50]
        await store.append(STREAM, Batch.of("s", part, after=start, upto=start + len(part)))


FILTERS = [
    LineFilter(),
    LineFilter(grep="alpha"),
    LineFilter(grep="ALPHA beta", ignore_case=True),
    LineFilter(grep=r"n=\d*7 "),
    LineFilter(grep=r"^INFO .*delta"),
    LineFilter(grep=r"\balpha beta gamma\b"),
    LineFilter(words=("naïve",)),
    LineFilter(words=("n=777",)),
    LineFilter(words=("alpha", "straße"), level="warning"),
    LineFilter(level="error"),
    LineFilter(fields=(("user.id", "3"),)),
    LineFilter(fields=(("user.id", "3"), ("msg", "Straße"))),
    LineFilter(sources=("router",), grep=" 503 "),
    LineFilter(instance="i-2", grep="gamma"),
    LineFilter(since=500_000_000, until=700_000_000),
    LineFilter(since=500_000_000, words=("upsilon",)),
    LineFilter(words=("nowhere",)),
]


async def everything(store: LogStore, searcher: Searcher) -> list[QueryResult]:
    """Every filter from the beginning, from the end, from the middle, and around a line."""
    found: list[QueryResult] = []
    for flt in FILTERS:
        for how in ({"limit": 10_000}, {"last": 7}, {"from_number": 777, "limit": 20}, {"around": 900, "limit": 3}):
            found.append(await answer(store, searcher, Query(stream=STREAM, filter=flt, **how)))  # type: ignore[arg-type]
    return found


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[LogStore]:
    store = LogStore(tmp_path / "logs", LIMITS, policies=FixedPolicies(StreamPolicy(bytes=1 << 30)))
    await store.start()
    yield store
    await store.aclose()


async def test_sealing_changes_no_answer(small: LogStore, searcher: Searcher, tmp_path: Path) -> None:
    await fill(small, 2_000)
    before = await everything(small, searcher)
    counted = await stats(small, searcher, STREAM, 0, 0)
    keeper = Keeper(small, FixedPolicies())
    await keeper.tidy(STREAM, now=0)
    await keeper.aclose()

    extents = (await small.view(STREAM)).extents
    assert len(extents) > 5 and all(extent.path.endswith(".idx") for extent in extents[:-1])
    assert len(list((tmp_path / "logs").glob("*/*/*.seg"))) == 1
    assert await everything(small, searcher) == before
    assert await stats(small, searcher, STREAM, 0, 0) == counted
    assert counted.complete and counted.counts.lines + counted.counts.lost == extents_end(before) - 1


def extents_end(results: list[QueryResult]) -> int:
    return results[0].next_number


async def test_filters_find_what_a_loop_over_all_lines_finds(small: LogStore, searcher: Searcher) -> None:
    await fill(small, 2_000)
    whole = (await answer(small, searcher, Query(stream=STREAM, limit=10_000))).lines
    assert len(whole) == 2_000

    async def numbers(flt: LineFilter) -> list[int]:
        found = (await answer(small, searcher, Query(stream=STREAM, limit=10_000, filter=flt))).lines
        return [line.number for line in found if not line.gap]

    told = [line for line in whole if not line.gap]
    assert await numbers(LineFilter(grep="delta alpha")) == [x.number for x in told if "delta alpha" in x.text]
    assert await numbers(LineFilter(words=("n=777",))) == [x.number for x in told if "n=777 " in x.text]
    assert await numbers(LineFilter(words=("STRAßE",))) == [x.number for x in told if "Straße" in x.text]
    assert await numbers(LineFilter(fields=(("user.id", "3"),))) == [x.number for x in told if '"id":3}' in x.text]
    assert await numbers(LineFilter(level="error")) == [
        x.number for x in told if x.text.startswith("ERROR") or '"level":"error"' in x.text
    ]
    assert await numbers(LineFilter(since=500_000_000, until=700_000_000)) == [
        x.number for x in told if 500 <= x.at // 1_000_000 < 700
    ]


@pytest.mark.parametrize("name", ["logs.before-unlink", "logs.before-let-go"])
async def test_a_crash_while_sealing_or_archiving_loses_and_repeats_nothing(
    tmp_path: Path, searcher: Searcher, name: str
) -> None:
    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    policies, blobs = FixedPolicies(), DirectoryBlobs(tmp_path / "archive")
    archive = SegmentArchive(blobs, tmp_path / "logs")
    store = LogStore(tmp_path / "logs", LIMITS, archive=archive)
    await store.start()
    await fill(store, 1_000)
    whole = await answer(store, searcher, Query(stream=STREAM, limit=10_000))
    keeper = Keeper(store, policies, archive, KeepSettings(archive_seconds=0))
    arm(name, crash)
    try:
        with pytest.raises(Crash):
            await keeper.tidy(STREAM, now=1e6)
    finally:
        disarm(name)
    await store.aclose()

    store = LogStore(tmp_path / "logs", LIMITS, archive=archive)
    await store.start()
    assert await answer(store, searcher, Query(stream=STREAM, limit=10_000)) == whole
    again = Keeper(store, policies, archive, KeepSettings(archive_seconds=0))
    await again.tidy(STREAM, now=1e6)
    assert not list((tmp_path / "logs").glob("*/*/*.blk"))
    assert await answer(store, searcher, Query(stream=STREAM, limit=10_000)) == whole
    landed = await store.append(STREAM, Batch.of("s", lines(1), after=1_000, upto=1_001))
    assert landed.first == whole.next_number
    for each in (keeper, again):
        await each.aclose()
    await store.aclose()


async def test_half_written_files_of_a_dead_sealer_are_made_anew(tmp_path: Path, searcher: Searcher) -> None:
    store = LogStore(tmp_path, LIMITS)
    await store.start()
    await fill(store, 500)
    whole = await answer(store, searcher, Query(stream=STREAM, limit=10_000))
    first = Path((await store.view(STREAM)).extents[0].path)
    await store.aclose()
    first.with_suffix(".blk").write_bytes(b"half")
    first.with_suffix(".idx.new").write_bytes(b"half")
    store = LogStore(tmp_path, LIMITS)
    await store.start()
    assert await answer(store, searcher, Query(stream=STREAM, limit=10_000)) == whole
    keeper = Keeper(store, FixedPolicies())
    await keeper.tidy(STREAM, now=0)
    assert await answer(store, searcher, Query(stream=STREAM, limit=10_000)) == whole
    await keeper.aclose()
    await store.aclose()


async def test_a_query_that_began_before_goes_on_through_sealing(small: LogStore, searcher: Searcher) -> None:
    await fill(small, 1_000)
    whole = await answer(small, searcher, Query(stream=STREAM, limit=10_000))
    view = await small.view(STREAM)
    keeper = Keeper(small, FixedPolicies())
    await keeper.tidy(STREAM, now=0)
    await keeper.aclose()

    class Old:
        """A store that shows what it showed before."""

        async def view(self, stream: str) -> object:
            return view

    assert await answer(Old(), searcher, Query(stream=STREAM, limit=10_000)) == whole  # type: ignore[arg-type]


async def test_archived_lines_are_fetched_when_asked_for_and_only_then(tmp_path: Path, searcher: Searcher) -> None:
    class Counting(MemoryBlobs):
        gets = 0

        async def get(self, name: str) -> bytes:
            self.gets += 1
            return await super().get(name)

    blobs = Counting()
    archive = SegmentArchive(blobs, tmp_path / "logs", fetched_bytes=1)
    store = LogStore(tmp_path / "logs", LIMITS, archive=archive)
    await store.start()
    await fill(store, 2_000)
    before = await everything(store, searcher)
    keeper = Keeper(store, FixedPolicies(), archive, KeepSettings(archive_seconds=0))
    await keeper.tidy(STREAM, now=1e6)
    assert keeper.stats.archived > 5 and not list((tmp_path / "logs").glob("*/*/*.blk"))

    assert not (await answer(store, searcher, Query(stream=STREAM, filter=LineFilter(words=("nowhere",))))).lines[20:]
    assert (await stats(store, searcher, STREAM, 0, 0)).counts.lines > 0
    assert blobs.gets <= keeper.stats.archived
    assert await everything(store, searcher) == before
    assert len(list((tmp_path / "logs" / "fetched").glob("*.blk"))) == 1

    for name in await blobs.names("lines"):
        if name.endswith(".blk"):
            await blobs.delete(name)
    for path in (tmp_path / "logs" / "fetched").glob("*.blk"):
        path.unlink()
    gaps = [line for line in (await answer(store, searcher, Query(stream=STREAM))).lines if "damaged" in line.text]
    assert gaps and gaps[0].number == 1
    await keeper.aclose()
    await store.aclose()


async def test_age_and_bytes_drop_the_oldest_and_say_so(tmp_path: Path, searcher: Searcher) -> None:
    blobs = MemoryBlobs()
    archive = SegmentArchive(blobs, tmp_path)
    store = LogStore(tmp_path, LIMITS, archive=archive)
    await store.start()
    await fill(store, 2_000)
    policies = FixedPolicies(StreamPolicy(team="t", keep_seconds=1_000, team_bytes=1 << 40))
    keeper = Keeper(store, policies, archive, KeepSettings(archive_seconds=0))
    await keeper.tidy(STREAM, now=2_000)
    first = (await answer(store, searcher, Query(stream=STREAM, limit=2))).lines
    assert first[0].gap and "retention" in first[0].text and 600_000_000 < first[1].at <= 1_000_000_000
    assert store.stats.retention_lines == first[0].gap
    held = len(await blobs.names("lines"))

    tight = Keeper(store, FixedPolicies(StreamPolicy(team="t", keep_seconds=0, team_bytes=12_000)), archive)
    await tight.sweep(now=2_000)
    assert sum(extent.size for extent in (await store.view(STREAM)).extents) <= 24_000
    assert len(await blobs.names("lines")) < held

    await keeper.tidy(STREAM, now=1e6)
    result = await answer(store, searcher, Query(stream=STREAM))
    assert [line.gap for line in result.lines] == [result.next_number - 1]
    landed = await store.append(STREAM, Batch.of("s", lines(1), after=2_000, upto=2_001))
    assert landed.first == result.next_number
    assert await blobs.names("lines") == []
    for each in (keeper, tight):
        await each.aclose()
    await store.aclose()


async def test_what_must_not_be_stored_is_not(tmp_path: Path, searcher: Searcher) -> None:
    redactor = Redactor([r"hunter2-\S+", r"card=(\d{4})\d+", r"Bearer \S+"])
    store = LogStore(tmp_path, policies=FixedPolicies(StreamPolicy(redactor=redactor)))
    await store.start()
    said = ["login hunter2-hunter2 ok", "card=4111111111111111 paid", "Authorization: Bearer abc.def", "fine"]
    records = [LineRecord(at=n, text=text) for n, text in enumerate(said)]
    await store.append(STREAM, Batch.of("s", records, after=0, upto=4))
    found = [line.text for line in (await answer(store, searcher, Query(stream=STREAM))).lines]
    assert found == ["login •••• ok", "card=••••111111111111 paid", "Authorization: ••••", "fine"]
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("*/*/*.seg"))
    assert b"hunter2" not in stored and b"Bearer abc" not in stored
    await store.aclose()


async def test_a_loss_is_counted_and_for_an_hour_an_alarm(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    await store.start()
    totals = Totals(store)
    began = time.time()
    gap = gap_record(7, "7 lines lost: the disk of the node refused them", 1, source="app", instance="i-1")
    await store.append(STREAM, Batch.of("s", [*lines(2, seed=3), gap], after=0, upto=3))
    await totals.catch_up()
    assert totals.streams[STREAM].lost == 7 and totals.streams[STREAM].lines == 2
    told = StoreTotals(losses=totals.losses(time.time()))
    assert told.losses[STREAM].lines == 7 and told.losses[STREAM].at >= began
    assert told.plus(told).losses[STREAM].lines == 14
    assert totals.losses(time.time() + ALARM_SECONDS + 1) == {}
    await totals.aclose()
    await store.aclose()
