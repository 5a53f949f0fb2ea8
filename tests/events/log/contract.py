"""What every `EventLog` adapter must do. An adapter's test module subclasses `EventLogContract` and gives two fixtures.

`log`: an open log; `other_log`: a second one over the same data, as another process would have it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from events.log.codec import MAX_BATCH_RECORDS
from events.log.errors import (
    BeyondTail,
    EventTooLarge,
    Fenced,
    InvalidAppend,
    PartitionOwned,
    VersionConflict,
    WriterClosed,
)
from events.log.port import EventLog
from events.log.records import EventRecord, Position, StoredEvent


def event(stream: str, version: int, body: object = None, *, command: str = "c") -> EventRecord:
    """An event with a recognisable body."""
    return EventRecord(
        stream=stream,
        version=version,
        type="Noted",
        schema_version=1,
        event_id=f"{stream}#{version}",
        at=1_700_000_000_000_000 + version,
        command_id=command,
        correlation_id="o",
        causation_id="",
        actor="tests",
        reason="",
        traceparent="",
        body=msgspec.Raw(msgspec.msgpack.encode({"note": body})),
    )


async def read_all(log: EventLog, partition: int, from_offset: int = 0) -> list[StoredEvent]:
    events: list[StoredEvent] = []
    async for part in log.read(partition, from_offset):
        assert part, "a list is never empty"
        events += part
    return events


async def take(source: AsyncIterator[list[StoredEvent]], count: int, timeout_s: float = 30.0) -> list[StoredEvent]:
    """The first `count` events or more of a follower."""
    events: list[StoredEvent] = []
    async with asyncio.timeout(timeout_s):
        async for part in source:
            assert part, "a list is never empty"
            events += part
            if len(events) >= count:
                break
    return events


def offsets(events: Sequence[StoredEvent]) -> list[int]:
    return [stored.position.offset for stored in events]


class EventLogContract:
    """Each test is one promise of `events.log.port`."""

    async def test_offsets_are_contiguous_from_zero(self, log: EventLog) -> None:
        writer = await log.claim(3, "a")
        for n in range(1, 21):
            done = await writer.append(f"c{n}", [event("s/1", n)])
            assert done.first == done.last == Position(3, n - 1)
            assert not done.duplicate
        stored = await read_all(log, 3)
        assert offsets(stored) == list(range(20))
        assert [e.record for e in stored] == [event("s/1", n) for n in range(1, 21)]
        assert await log.tail(3) == writer.next_offset == 20

    async def test_an_empty_partition_reads_as_nothing(self, log: EventLog) -> None:
        assert await read_all(log, 0) == []
        assert await log.tail(0) == 0

    async def test_partitions_do_not_mix(self, log: EventLog) -> None:
        writers = [await log.claim(partition, "a") for partition in range(4)]
        await asyncio.gather(*(w.append("c", [event(f"s/{w.partition}", 1)]) for w in writers))
        for partition in range(4):
            (only,) = await read_all(log, partition)
            assert only.record.stream == f"s/{partition}"

    async def test_a_command_is_one_atomic_run_of_offsets(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        sizes = [1, 5, 100, 200, 200, 3, MAX_BATCH_RECORDS]
        done = await asyncio.gather(
            *(writer.append(f"c{i}", [event(f"s/{i}", v + 1) for v in range(n)]) for i, n in enumerate(sizes))
        )
        expected = 0
        for size, committed in zip(sizes, done, strict=True):
            assert (committed.first.offset, committed.last.offset) == (expected, expected + size - 1)
            expected += size

    async def test_concurrent_appends_keep_the_order_of_submission(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        futures = [writer.submit(f"c{n}", [event("s/1", n)]) for n in range(1, 1501)]
        done = await asyncio.gather(*futures)
        assert [c.first.offset for c in done] == list(range(1500))
        assert [e.record.version for e in await read_all(log, 0)] == list(range(1, 1501))

    async def test_a_repeated_command_returns_its_first_result(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        first = await writer.append("c1", [event("s/1", 1), event("s/1", 2)])
        again = await writer.append("c1", [event("s/1", 77)])
        assert again.duplicate and (again.first, again.last) == (first.first, first.last)
        assert writer.committed("c1") == again
        assert writer.committed("unknown") is None
        assert len(await read_all(log, 0)) == 2

    async def test_a_command_repeated_in_flight_commits_once(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        done = await asyncio.gather(*(writer.append("c1", [event("s/1", 1)]) for _ in range(10)))
        assert [c.duplicate for c in done] == [False] + [True] * 9
        assert {c.first for c in done} == {Position(0, 0)}
        assert len(await read_all(log, 0)) == 1

    async def test_a_new_owner_knows_the_old_ones_commands(self, log: EventLog, other_log: EventLog) -> None:
        writer = await log.claim(0, "a")
        firsts = [await writer.append(f"c{n}", [event("s/1", n)]) for n in range(1, 6)]
        await writer.release()
        successor = await other_log.claim(0, "b")
        assert successor.epoch > writer.epoch
        assert successor.next_offset == 5
        for n, first in enumerate(firsts, 1):
            again = await successor.append(f"c{n}", [event("s/1", n)])
            assert again.duplicate and again.first == first.first
        assert (await successor.append("c6", [event("s/1", 6)])).first == Position(0, 5)
        assert offsets(await read_all(log, 0)) == list(range(6))

    async def test_a_live_owner_is_not_displaced_unless_forced(self, log: EventLog, other_log: EventLog) -> None:
        writer = await log.claim(0, "a")
        with pytest.raises(PartitionOwned):
            await other_log.claim(0, "b")
        await writer.append("c1", [event("s/1", 1)])
        owner = await other_log.owner_of(0)
        assert owner is not None and (owner.owner, owner.pid, owner.epoch) == ("a", os.getpid(), writer.epoch)
        assert await log.owner_of(1) is None
        forced = await other_log.claim(0, "b", force=True)
        assert forced.epoch > writer.epoch
        owner = await log.owner_of(0)
        assert owner is not None and owner.owner == "b"

    async def test_the_same_owner_may_claim_again_at_once(self, log: EventLog, other_log: EventLog) -> None:
        before = await log.claim(0, "a")
        after = await other_log.claim(0, "a")
        assert after.epoch > before.epoch

    async def test_a_fenced_writer_commits_nothing(self, log: EventLog, other_log: EventLog) -> None:
        old = await log.claim(0, "a")
        await old.append("c1", [event("s/1", 1)])
        new = await other_log.claim(0, "b", force=True)
        late = (old.append(f"late{n}", [event("s/1", n)]) for n in range(2, 12))
        results = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(result, Fenced) for result in results)
        with pytest.raises(Fenced):
            await old.append("later", [event("s/1", 12)])
        with pytest.raises(Fenced):
            await old.wait_closed()
        await old.release()
        owner = await log.owner_of(0)
        assert owner is not None and owner.owner == "b", "a fenced writer's release leaves the successor's record"
        await new.append("c2", [event("s/1", 2)])
        assert [e.record.event_id for e in await read_all(log, 0)] == ["s/1#1", "s/1#2"]

    async def test_an_idle_writer_learns_that_it_was_fenced(self, log: EventLog, other_log: EventLog) -> None:
        writer = await log.claim(0, "a")
        await other_log.claim(0, "b", force=True)
        async with asyncio.timeout(20):
            with pytest.raises(Fenced):
                await writer.wait_closed()

    async def test_a_partition_that_does_not_exist_is_refused(self, log: EventLog) -> None:
        for partition in (-1, log.partitions):
            with pytest.raises(ValueError, match="partition"):
                await log.claim(partition, "a")
            with pytest.raises(ValueError, match="partition"):
                log.follow(partition, 0)

    async def test_two_writers_racing_interleave_nothing(self, log: EventLog, other_log: EventLog) -> None:
        acked: list[str] = []

        async def write(side: EventLog, name: str) -> None:
            writer = await side.claim(0, name, force=True)
            for n in range(1, 200):
                try:
                    await writer.append(f"{name}{n}", [event(f"s/{name}", n)])
                except Fenced:
                    return
                acked.append(f"s/{name}#{n}")

        await asyncio.gather(write(log, "a"), write(other_log, "b"))
        stored = [e.record.event_id for e in await read_all(log, 0)]
        assert sorted(stored) == sorted(acked)

    async def test_an_oversized_command_is_refused_alone(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        before = writer.submit("c1", [event("s/1", 1)])
        with pytest.raises(EventTooLarge):
            writer.submit("big", [event("s/2", 1, "x" * 300_000)])
        with pytest.raises(EventTooLarge):
            writer.submit("many", [event("s/3", n) for n in range(1, MAX_BATCH_RECORDS + 2)])
        after = writer.submit("c2", [event("s/1", 2)])
        assert (await before).first.offset == 0
        assert (await after).first.offset == 1
        largest = await writer.append("fits", [event("s/2", 1, "x" * 250_000)])
        assert largest.first.offset == 2
        assert len(await read_all(log, 0)) == 3

    async def test_what_could_not_be_read_back_is_refused(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        with pytest.raises(InvalidAppend):
            writer.submit("none", [])
        with pytest.raises(InvalidAppend):
            writer.submit("gap", [event("s/1", 1), event("s/1", 3)])
        with pytest.raises(InvalidAppend):
            writer.submit("bad", [msgspec.structs.replace(event("s/1", 1), body=msgspec.Raw(b"\xc1"))])
        assert await log.tail(0) == 0

    async def test_a_version_that_does_not_continue_its_stream_is_refused(
        self, log: EventLog, other_log: EventLog
    ) -> None:
        writer = await log.claim(0, "a")
        await writer.append("c1", [event("s/1", 1)])
        with pytest.raises(VersionConflict) as refusal:
            writer.submit("c2", [event("s/1", 1)])
        assert (refusal.value.stream, refusal.value.expected, refusal.value.found) == ("s/1", 2, 1)
        await writer.release()
        successor = await other_log.claim(0, "b")
        with pytest.raises(VersionConflict):
            successor.submit("c3", [event("s/1", 3)])
        await successor.append("c4", [event("s/1", 2)])

    async def test_release_writes_out_what_is_queued_and_frees_the_partition(
        self, log: EventLog, other_log: EventLog
    ) -> None:
        writer = await log.claim(0, "a")
        futures = [writer.submit(f"c{n}", [event("s/1", n)]) for n in range(1, 101)]
        await writer.release()
        assert [f.result().first.offset for f in futures] == list(range(100))
        await writer.wait_closed()
        with pytest.raises(WriterClosed):
            await writer.append("late", [event("s/1", 101)])
        await writer.release()
        assert await log.owner_of(0) is None
        successor = await other_log.claim(0, "b")
        assert (await successor.append("c101", [event("s/1", 101)])).first.offset == 100

    async def test_a_cancelled_caller_does_not_take_its_command_back(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        caller = asyncio.create_task(writer.append("c1", [event("s/1", 1)]))
        await asyncio.sleep(0)
        caller.cancel()
        again = await writer.append("c1", [event("s/1", 1)])
        assert again.first == Position(0, 0)
        assert len(await read_all(log, 0)) == 1

    @pytest.mark.parametrize("start", [0, 1, 7, 511, 512, 513, 900, 1200])
    async def test_reading_from_the_middle(self, log: EventLog, start: int) -> None:
        writer = await log.claim(0, "a")
        for n, size in enumerate([1, 9, 400, 512, 1, 277]):
            await writer.append(f"c{n}", [event(f"s/{n}", v) for v in range(1, size + 1)])
        assert offsets(await read_all(log, 0, start)) == list(range(start, 1200))

    async def test_reading_beyond_the_tail_says_so(self, log: EventLog) -> None:
        writer = await log.claim(0, "a")
        await writer.append("c1", [event("s/1", 1)])
        for start in (2, 5000):
            with pytest.raises(BeyondTail):
                await read_all(log, 0, start)

    async def test_following_from_the_middle_goes_live(self, log: EventLog, other_log: EventLog) -> None:
        writer = await log.claim(0, "a")
        await writer.append("c1", [event("s/1", n) for n in range(1, 11)])
        follower = other_log.follow(0, 4)
        assert offsets(await take(follower, 6)) == list(range(4, 10))
        live = other_log.follow(0, 10)
        first = asyncio.create_task(take(live, 2))
        await writer.append("c2", [event("s/1", 11)])
        await writer.append("c3", [event("s/1", 12)])
        assert offsets(await first) == [10, 11]

    async def test_catch_up_and_live_join_without_gap_or_repetition(self, log: EventLog, other_log: EventLog) -> None:
        writer = await log.claim(0, "a")
        total = 3000
        await writer.append("c1", [event("s/1", v) for v in range(1, 11)])

        async def produce() -> None:
            for n in range(11, total + 1, 10):
                await writer.append(f"c{n}", [event("s/1", v) for v in range(n, n + 10)])

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            followers = [
                group.create_task(take(side.follow(0, start), total - start))
                for side in (log, other_log)
                for start in (0, 5, 0)
            ]
        for follower, start in zip(followers, (0, 5, 0) * 2, strict=True):
            assert offsets(follower.result()) == list(range(start, total))

    async def test_following_all_partitions_at_once(self, log: EventLog, other_log: EventLog) -> None:
        writers = [await log.claim(partition, "a") for partition in range(8)]
        for writer in writers[:4]:
            await writer.append("old", [event(f"s/{writer.partition}", n) for n in range(1, 31)])

        async def produce() -> None:
            for n in range(31, 61):
                await asyncio.gather(
                    *(w.append(f"c{n}", [event(f"s/{w.partition}", n if w.partition < 4 else n - 30)]) for w in writers)
                )

        async with asyncio.TaskGroup() as group:
            following = group.create_task(take(other_log.follow_all(dict.fromkeys(range(8), 0)), 4 * 60 + 4 * 30))
            group.create_task(produce())
        by_partition: dict[int, list[int]] = {}
        for stored in following.result():
            by_partition.setdefault(stored.position.partition, []).append(stored.position.offset)
        assert by_partition == {p: list(range(60 if p < 4 else 30)) for p in range(8)}

    async def test_following_some_types_gives_their_events_and_says_how_far_it_is(
        self, log: EventLog, other_log: EventLog
    ) -> None:
        """Some of it is there already, the rest comes live; some batches hold none, some hold others beside."""
        writers = [await log.claim(partition, "a") for partition in range(2)]
        wanted: dict[int, list[int]] = {0: [], 1: []}
        types = ["Noted", "Marked", "Noted", "Seen"]

        async def append(versions: range) -> None:
            for writer in writers:
                for n in versions:
                    made = msgspec.structs.replace(event("s/1", n), type=types[(n + writer.partition) % len(types)])
                    more = msgspec.structs.replace(event("s/2", n), type="Marked" if n == 8 else "Noted")
                    await writer.append(f"c{n}", [made, more])
                    wanted[writer.partition] += [2 * n - 2] if made.type in ("Marked", "Seen") else []
                    wanted[writer.partition] += [2 * n - 1] if more.type == "Marked" else []

        await append(range(1, 11))
        seen: dict[int, list[int]] = {0: [], 1: []}
        ends = {0: 0, 1: 0}
        rest: asyncio.Task[None] | None = None
        following = other_log.follow_types({0: 0, 1: 0}, {"Marked", "Seen"})
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            async for partition, end, events in following:
                assert end >= ends[partition], "it never goes back"
                ends[partition] = end
                assert all(stored.position.partition == partition for stored in events)
                assert all(stored.position.offset < end for stored in events)
                seen[partition] += offsets(events)
                # It may say so more than once: a batch that was paged arrives live too.
                if rest is None and ends == {0: 20, 1: 20}:
                    rest = group.create_task(append(range(11, 21)))
                if ends == {0: 40, 1: 40}:
                    break
        assert seen == wanted

    async def test_following_some_types_from_the_middle(self, log: EventLog, other_log: EventLog) -> None:
        writer = await log.claim(0, "a")
        types = ["Noted", "Marked"]
        await writer.append("c", [msgspec.structs.replace(event("s/1", n), type=types[n % 2]) for n in range(1, 21)])
        async with asyncio.timeout(30):
            async for followed in other_log.follow_types({0: 7}, {"Marked"}):
                if followed.end == 20:
                    break
        assert offsets(followed.events) == [8, 10, 12, 14, 16, 18]
