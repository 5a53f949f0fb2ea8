"""What a log with an archive must do, whatever keeps it: nobody who reads or claims notices where the events are.

A test module subclasses `ColdLogContract` and gives `log` and `other_log` as for `EventLogContract`, `hot` (their
store) and `blobs`.
"""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.archive.archiver import ArchivePolicy, Archiver, Reach
from events.log.archive.segment import decode_segment
from events.log.blobs import BlobStore
from events.log.codec import decode_facts
from events.log.errors import BeyondTail, CorruptSegment, VersionConflict
from events.log.port import EventLog, PartitionWriter
from events.log.records import Position
from events.log.runs import Runs
from events.log.store import HotStore
from tests.events.log.contract import event, offsets, read_all, take

ALL = Reach(young=True, small=True)
STEPS = [
    "log.archive.chosen",
    "log.archive.written",
    "log.archive.verified",
    "log.archive.recorded",
    "log.archive.deleting",
    "log.archive.deleted",
]


def small(**changes: float) -> ArchivePolicy:
    """Many small segments: what takes gigabytes in life."""
    return ArchivePolicy(**{"segment_bytes": 4096, "least_bytes": 0, "retain_s": 0.0, **changes})  # type: ignore[arg-type]


async def write(writer: PartitionWriter, count: int, *, start: int = 0, at_once: int = 7) -> None:
    """Events `start + 1` … of stream s/1, `at_once` to a command."""
    for first in range(start + 1, start + count + 1, at_once):
        last = min(first + at_once, start + count + 1)
        await writer.append(f"c{first}", [event("s/1", v, command=f"c{first}") for v in range(first, last)])


async def archive_all(archiver: Archiver, partition: int = 0) -> int:
    """How many segments it made."""
    segments = 0
    while await archiver.step(partition, ALL) is not None:
        segments += 1
    return segments


class ColdLogContract:
    """Each test is one promise."""

    @pytest.fixture
    def archiver(self, hot: HotStore, blobs: BlobStore) -> Archiver:
        return Archiver(hot=hot, blobs=blobs, policy=small())

    async def test_reading_crosses_the_tiers_from_wherever_it_begins(
        self, log: EventLog, other_log: EventLog, archiver: Archiver, hot: HotStore
    ) -> None:
        writer = await log.claim(0, "a")
        await write(writer, 2000)
        before = await read_all(other_log, 0)
        for segments in range(1, 4):
            assert await archiver.step(0, ALL) is not None
            assert (await hot.low(0)).first_hot > 0
            assert await read_all(log, 0) == before, f"after {segments} segments, revisions and all"
        await archive_all(archiver)
        first_hot = (await hot.low(0)).first_hot
        for start in (0, 1, 6, 7, 511, 1000, first_hot - 1, first_hot, first_hot + 1, 1999, 2000):
            assert await read_all(log, 0, start) == before[start:]
            assert await read_all(other_log, 0, start) == before[start:]
        assert await log.tail(0) == await other_log.tail(0) == 2000

    async def test_what_is_read_to_fold_is_every_event_wherever_it_begins(
        self, log: EventLog, other_log: EventLog, archiver: Archiver, hot: HotStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = await log.claim(0, "a")
        await write(writer, 2000)
        before = [stored.record for stored in await read_all(log, 0)]
        with monkeypatch.context() as patch:  # as segments were before there were runs
            patch.setattr("events.log.archive.segment.encode_runs", lambda batches: b"")
            old = [await archiver.step(0, ALL) for _ in range(2)]
        await archive_all(archiver)
        bases = [manifest.base for manifest in await hot.manifests(0, 0)]
        first_hot = (await hot.low(0)).first_hot
        assert len(bases) > 4 and old[1] is not None
        for start in (0, 1, 7, bases[1], bases[1] + 1, bases[2], bases[3] - 1, bases[3] + 8, first_hot, 1999, 2000):
            for which in (log, other_log):
                runs, versions = await self._to_fold(which, start)
                assert versions == [record.version for record in before[start:]]
                aligned = [base for base in bases if base >= start]
                assert runs == [base for base in aligned if base >= old[1].end], "of every segment that has them"
        with pytest.raises(BeyondTail):
            await self._to_fold(log, 2001)

    async def _to_fold(self, log: EventLog, start: int) -> tuple[list[int], list[int]]:
        """Where the runs begin, and the versions from `start` on, each of them once and in order."""
        runs: list[int] = []
        versions: list[int] = []
        async for part in log.read_to_fold(0, start):
            if isinstance(part, Runs):
                runs.append(part.base)
                assert part.base == start + len(versions), "it continues what was read"
                for run in (run for block in part.blocks() for run in block.runs):
                    versions += range(run.first_version, run.first_version + len(run.bodies))
                continue
            for facts in (decode_facts(batch.value, Position(0, batch.base)) for batch in part):
                passed = start + len(versions) - facts.base
                assert passed >= 0, "without a gap"
                versions += facts.versions[passed:]
        return runs, versions

    async def test_the_last_batch_is_never_archived_and_appends_go_on(
        self, log: EventLog, archiver: Archiver, hot: HotStore
    ) -> None:
        writer = await log.claim(0, "a")
        assert await archiver.step(0, ALL) is None
        await write(writer, 7)
        assert await archiver.step(0, ALL) is None
        for more in range(1, 6):
            await write(writer, 7, start=7 * more)
            await archive_all(archiver)
            seen = await hot.low(0)
            assert seen.first_hot == 7 * more
            assert await hot.bases(0, 0, 10_000) == [seen.first_hot]
        assert offsets(await read_all(log, 0)) == list(range(42))

    async def test_a_new_owner_knows_what_is_archived(
        self, log: EventLog, other_log: EventLog, archiver: Archiver
    ) -> None:
        writer = await log.claim(0, "a")
        await write(writer, 700)
        first = writer.committed("c1")
        await writer.release()
        await archive_all(archiver)
        successor = await other_log.claim(0, "b")
        assert successor.next_offset == 700
        assert successor.committed("c1") == first
        assert (await successor.append("c8", [event("s/1", 900)])).first == Position(0, 7)
        with pytest.raises(VersionConflict):
            successor.submit("new", [event("s/1", 700)])
        assert (await successor.append("new", [event("s/1", 701)])).first == Position(0, 700)

    async def test_a_follower_that_lags_while_the_archive_runs_switches_to_cold(
        self, log: EventLog, other_log: EventLog, archiver: Archiver, hot: HotStore
    ) -> None:
        writer = await log.claim(0, "a")
        await write(writer, 70)
        follower = other_log.follow(0, 0)
        seen = [*await anext(follower)]
        # It looks away: what it would read next is hot now, and gone when it looks again.
        await write(writer, 3000, start=70)
        await archive_all(archiver)
        assert (await hot.low(0)).first_hot > 3000
        await write(writer, 70, start=3070)
        async with asyncio.timeout(30):
            while len(seen) < 3140:
                seen += await anext(follower)
        assert offsets(seen) == list(range(3140))

    async def test_appends_archive_and_readers_all_at_once(
        self, log: EventLog, other_log: EventLog, hot: HotStore, blobs: BlobStore
    ) -> None:
        writer = await log.claim(0, "a")
        total, done = 2100, asyncio.Event()

        async def produce() -> None:
            await write(writer, total)
            done.set()

        async def archive(archiver: Archiver) -> None:
            while not done.is_set():
                await archiver.step(0, ALL)
                await asyncio.sleep(0)

        async def reread() -> None:
            while not done.is_set():
                found = offsets(await read_all(other_log, 0))
                assert found == list(range(len(found)))

        async with asyncio.TaskGroup() as group:
            followers = [group.create_task(take(side.follow(0, 0), total)) for side in (log, other_log)]
            group.create_task(produce())
            for _ in range(2):
                group.create_task(archive(Archiver(hot=hot, blobs=blobs, policy=small())))
            group.create_task(reread())
        for follower in followers:
            assert offsets(follower.result()) == list(range(total))
        assert (await hot.low(0)).first_hot > 0

    async def test_two_archivers_at_once_make_one_chain_of_segments(
        self, log: EventLog, hot: HotStore, blobs: BlobStore
    ) -> None:
        await write(await log.claim(0, "a"), 2000)
        sizes = (4096, 9000)
        archivers = [Archiver(hot=hot, blobs=blobs, policy=small(segment_bytes=size)) for size in sizes]

        async def race(archiver: Archiver) -> None:
            for _ in range(30):
                await archiver.step(0, ALL)

        await asyncio.gather(*map(race, archivers))
        manifests = await hot.manifests(0, 0)
        ends = [0, *(manifest.end for manifest in manifests)]
        assert [manifest.base for manifest in manifests] == ends[:-1]
        assert ends[-1] == (await hot.low(0)).first_hot > 1900
        assert manifests[0].first_previous == ""
        for before, after in itertools.pairwise(manifests):
            assert after.first_previous == before.last_hash, "the hash chain goes on from segment to segment"
        assert offsets(await read_all(log, 0)) == list(range(2000))

    @pytest.mark.parametrize("step", STEPS)
    async def test_a_crash_at_any_step_loses_nothing_and_is_gone_on_from(
        self, log: EventLog, other_log: EventLog, hot: HotStore, blobs: BlobStore, step: str
    ) -> None:
        writer = await log.claim(0, "a")
        await write(writer, 1000)
        before = await read_all(log, 0)
        arm(step, "error")
        try:
            for _ in range(2):
                with pytest.raises(FailpointError):
                    await Archiver(hot=hot, blobs=blobs, policy=small()).step(0, ALL)
        finally:
            disarm(step)
        assert await read_all(other_log, 0) == before
        await write(writer, 70, start=1000)
        # Another process goes on, which knows nothing of the first.
        survivor = Archiver(hot=hot, blobs=blobs, policy=small())
        await archive_all(survivor)
        seen = await hot.low(0)
        assert seen.first_hot > 900
        assert await hot.bases(0, 0, seen.first_hot) == [], "what a crash left hot was swept"
        assert (await read_all(other_log, 0))[:1000] == before
        assert offsets(await read_all(log, 0)) == list(range(1070))

    async def test_reading_from_beyond_the_tail_says_so_with_a_cold_head(
        self, log: EventLog, archiver: Archiver
    ) -> None:
        await write(await log.claim(0, "a"), 700)
        await archive_all(archiver)
        for start in (701, 5000, 100_000):
            with pytest.raises(BeyondTail):
                await read_all(log, 0, start)

    async def test_one_streams_events_are_read_from_both_tiers(
        self, log: EventLog, other_log: EventLog, archiver: Archiver
    ) -> None:
        writer = await log.claim(0, "a")
        for n in range(1, 301):
            await writer.append(f"c{n}", [event(f"s/{n % 5}", (n + 4) // 5), event(f"t/{n}", 1)])
        assert await archiver.step(0, ALL) is not None
        for start in (0, 333, 599):
            wanted = [e for e in await read_all(log, 0, start) if e.record.stream == "s/3"]
            found = [e for part in [p async for p in other_log.read(0, start, stream="s/3")] for e in part]
            assert found == wanted
        assert [part async for part in log.read(0, 0, stream="s/none")] == []

    async def test_what_is_young_stays_hot_until_it_is_asked_for(
        self, log: EventLog, hot: HotStore, blobs: BlobStore
    ) -> None:
        await write(await log.claim(0, "a"), 700)
        newest = (await read_all(log, 0))[-1].record.at

        def archiver(after_s: float) -> Archiver:
            clock: Callable[[], int] = lambda: newest + int(after_s * 1e6)  # noqa: E731
            return Archiver(hot=hot, blobs=blobs, policy=small(retain_s=60.0), clock=clock)

        assert await archiver(59.9).step(0) is None
        assert await archiver(60.0).step(0) is not None
        assert await archiver(0.0).step(0, ALL) is not None

    async def test_a_segment_too_small_to_be_worth_it_waits(
        self, log: EventLog, hot: HotStore, blobs: BlobStore
    ) -> None:
        await write(await log.claim(0, "a"), 700)
        archiver = Archiver(hot=hot, blobs=blobs, policy=small(least_bytes=1 << 20, segment_bytes=8 << 20))
        assert await archiver.step(0, Reach(young=True)) is None
        manifest = await archiver.step(0, ALL)
        assert manifest is not None and manifest.end == 693

    async def test_a_damaged_segment_is_found_and_named(
        self, log: EventLog, other_log: EventLog, archiver: Archiver, hot: HotStore, blobs: BlobStore
    ) -> None:
        await write(await log.claim(0, "a"), 700)
        await archive_all(archiver)
        victim = (await hot.manifests(0, 0))[1]
        data = bytearray(await blobs.get(victim.location))
        second = decode_segment(0, victim, bytes(data)).batches(victim.base + 1, victim.end, 1)[0]
        data[data.index(second.value) + len(second.value) // 2] ^= 0x10
        await blobs.put(victim.location, bytes(data))
        with pytest.raises(CorruptSegment, match=victim.location) as found:
            await read_all(other_log, 0)
        assert found.value.position == Position(0, second.base), "the batch is named, not only the segment"
        await blobs.put(victim.location, bytes(data[:-1]))
        with pytest.raises(CorruptSegment, match="bytes"):
            await read_all(log, 0)
