"""What every `TaskQueue` adapter must do. An adapter's test module subclasses `TaskQueueContract` and gives two
fixtures: `queue`, an open member, and `other`, a second member over the same data, as another process would have it.
"""

import asyncio
from contextlib import suppress

import pytest

from events.queue.errors import InvalidTask, QueueFull
from events.queue.port import TaskQueue
from events.queue.task import Claim, Consumer, Nacked, NewTask, TaskStatus

WORKER = Consumer(name="worker")
TOPIC = "things"
LONG = 30.0
"""More than anything here takes; reached only by a test that fails."""


def task(ident: str, **more: object) -> NewTask:
    return NewTask(id=ident, payload=ident.encode(), **more)  # type: ignore[arg-type]


async def one(queue: TaskQueue, consumer: Consumer = WORKER) -> Claim:
    """The next task, which must come."""
    [claim] = await queue.claim(TOPIC, consumer, wait_seconds=LONG)
    return claim


async def drained(queue: TaskQueue, consumer: Consumer = WORKER) -> list[str]:
    """Claim and ack one after the other until nothing is left; the ids in that order."""
    order: list[str] = []
    while await queue.peek(TOPIC):
        claim = await one(queue, consumer)
        order.append(claim.task.id)
        assert await queue.ack([claim.ref]) == [True]
        await seen(queue, lambda views, ident=claim.task.id: ident not in views)  # type: ignore[misc]
    return order


async def seen(queue: TaskQueue, holds: object, topic: str = TOPIC) -> None:
    """Wait until what `queue` shows of the topic is as it must be; a task it does not show yet is to come."""
    async with asyncio.timeout(LONG):
        while True:
            views = {view.task.id: view for view in await queue.peek(topic)}
            with suppress(KeyError):
                if holds(views):  # type: ignore[operator]
                    return
            await asyncio.sleep(0.005)


class TaskQueueContract:
    """Each test is one promise of `events.queue.port`."""

    async def test_a_task_is_claimed_once_and_done_once(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a")])
        claim = await one(other)
        assert (claim.task.payload, claim.attempt) == (b"a", 1)
        assert await queue.claim(TOPIC, WORKER) == []
        assert await other.ack([claim.ref]) == [True]
        await seen(queue, lambda views: not views)

    async def test_a_repeated_ack_of_the_claim_that_did_it_is_no_lie(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a")])
        claim = await one(queue)
        assert await queue.ack([claim.ref]) == [True]
        assert await queue.ack([claim.ref]) == [True]
        assert await other.ack([claim.ref]) == [True]

    async def test_publishing_an_id_again_does_nothing(self, queue: TaskQueue, other: TaskQueue) -> None:
        [first] = await queue.publish(TOPIC, [task("a")])
        [again] = await other.publish(TOPIC, [NewTask(id="a", payload=b"another")])
        assert (first.duplicate, again.duplicate) == (False, True)
        claim = await one(queue)
        assert claim.task.payload == b"a"
        [claimed] = await other.publish(TOPIC, [task("a")])
        await queue.ack([claim.ref])
        [done] = await other.publish(TOPIC, [task("a")])
        assert claimed.duplicate and done.duplicate
        assert await queue.claim(TOPIC, WORKER) == []

    async def test_one_id_twice_in_one_call_is_one_task(self, queue: TaskQueue) -> None:
        published = await queue.publish(TOPIC, [task("a"), task("a"), task("b")])
        assert [p.duplicate for p in published] == [False, True, False]

    async def test_many_at_once(self, queue: TaskQueue, other: TaskQueue) -> None:
        ids = [f"t{n:04d}" for n in range(700)]
        await queue.publish(TOPIC, [task(ident) for ident in ids])
        got: list[Claim] = []
        while len(got) < len(ids):
            claims = await other.claim(TOPIC, WORKER, most=400, wait_seconds=LONG)
            assert claims
            got += claims
        assert [claim.task.id for claim in got] == ids
        assert await other.ack([claim.ref for claim in got]) == [True] * len(ids)
        await seen(queue, lambda views: not views)

    # --- order --------------------------------------------------------------------------------------------------------

    async def test_the_tasks_of_a_key_come_one_after_the_other(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a1", key="a"), task("a2", key="a"), task("b1", key="b")])
        first, second = await one(queue), await one(queue)
        assert {first.task.id, second.task.id} == {"a1", "b1"}
        assert await queue.claim(TOPIC, WORKER) == [] == await other.claim(TOPIC, WORKER)
        await seen(other, lambda views: views["a2"].status is TaskStatus.BLOCKED)
        a1 = first if first.task.id == "a1" else second
        await queue.ack([a1.ref])
        assert (await one(other)).task.id == "a2"

    async def test_a_failed_task_holds_up_its_key(self, queue: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a1", key="a"), task("a2", key="a", priority=9)])
        claim = await one(queue)
        await queue.nack([claim.ref], reason="not yet", delay_seconds=0.05)
        again = await one(queue)
        assert (again.task.id, again.attempt) == ("a1", 2)

    async def test_the_greatest_priority_comes_first_then_the_oldest(self, queue: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("low", priority=-1), task("x"), task("y"), task("high", priority=5)])
        await seen(queue, lambda views: len(views) == 4)
        assert await drained(queue) == ["high", "x", "y", "low"]

    async def test_a_team_with_many_tasks_does_not_hold_up_another(self, queue: TaskQueue) -> None:
        await queue.publish(TOPIC, [task(f"many{n}", team="many", priority=50) for n in range(5)])
        await queue.publish(TOPIC, [task(f"few{n}", team="few") for n in range(2)])
        await seen(queue, lambda views: len(views) == 7)
        claims = [await one(queue) for _ in range(4)]
        assert sorted(c.task.team for c in claims) == ["few", "few", "many", "many"]

    async def test_a_delayed_task_comes_later(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("later", delay_seconds=0.3), task("now")])
        await seen(other, lambda views: len(views) == 2 and views["later"].status is TaskStatus.PARKED)
        assert (await one(other)).task.id == "now"
        await seen(other, lambda views: views["later"].status in (TaskStatus.DELAYED, TaskStatus.READY))
        assert (await one(other)).task.id == "later"

    # --- a claim's end ------------------------------------------------------------------------------------------------

    async def test_what_a_dead_member_had_is_claimed_again_and_its_late_word_refused(
        self, queue: TaskQueue, other: TaskQueue
    ) -> None:
        await queue.publish(TOPIC, [task("a")])
        old = await one(queue)
        await queue.close()  # type: ignore[attr-defined]
        new = await one(other)
        assert (new.task.id, new.attempt) == ("a", 2)
        assert await other.ack([old.ref]) == [False]
        assert await other.nack([old.ref], reason="late") == [Nacked.STALE]
        assert await other.extend([old.ref], seconds=60) == [False]
        assert await other.ack([new.ref]) == [True]
        assert await other.ack([old.ref]) == [False]

    async def test_a_claim_that_is_not_extended_lapses(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", visible_seconds=0.2)])
        old = await one(queue)
        new = await one(other)
        assert new.attempt == 2
        assert await queue.ack([old.ref]) == [False]
        assert await other.ack([new.ref]) == [True]

    async def test_an_extended_claim_stands(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", visible_seconds=5.0)])
        claim = await one(queue)
        assert await queue.extend([claim.ref], seconds=60.0) == [True]
        assert await other.extend([claim.ref], seconds=0.1) == [True]  # said by another member
        again = await one(other)
        assert again.attempt == 2
        assert await queue.ack([claim.ref]) == [False]

    async def test_a_nack_waits_and_keeps_the_reason(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", back_off_seconds=60.0)])
        claim = await one(queue)
        assert await queue.nack([claim.ref], reason="no room") == [Nacked.WAITING]
        assert await queue.ack([claim.ref]) == [False]
        await seen(other, lambda views: views["a"].status is TaskStatus.DELAYED and views["a"].reason == "no room")
        assert await other.claim(TOPIC, WORKER) == []

    async def test_the_back_off_doubles(self, queue: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", back_off_seconds=0.05, max_attempts=3)])
        loop = asyncio.get_running_loop()
        times: list[float] = []
        for attempt in (1, 2):
            claim = await one(queue)
            assert claim.attempt == attempt
            times.append(loop.time())  # the wait counts from when the nack is taken, which is before it is answered
            await queue.nack([claim.ref], reason="again")
        await one(queue)
        assert loop.time() - times[1] >= 0.1 - 0.01

    async def test_after_its_last_attempt_it_is_a_dead_letter(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", max_attempts=2, back_off_seconds=0.0, team="t")])
        for expected in (Nacked.WAITING, Nacked.DEAD):
            claim = await one(queue)
            assert await queue.nack([claim.ref], reason="it breaks") == [expected]
        [letter] = await other.dead(TOPIC)
        assert (letter.task.id, letter.attempts, letter.reason) == ("a", 2, "it breaks")
        assert await other.dead(TOPIC, team="another") == []
        [again] = await other.publish(TOPIC, [task("a")])
        assert again.duplicate

    async def test_a_task_that_nobody_ends_is_a_dead_letter(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", max_attempts=1, visible_seconds=0.1)])
        claim = await one(queue)
        await seen(queue, lambda views: views["a"].status is not TaskStatus.CLAIMED)
        assert await queue.claim(TOPIC, WORKER) == []
        [letter] = await other.dead(TOPIC)
        assert "claimed 1 times" in letter.reason
        assert await queue.ack([claim.ref]) == [False]

    async def test_a_dead_letter_is_tried_again(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", max_attempts=1)])
        old = await one(queue)
        assert await queue.nack([old.ref], reason="broken", dead=True) == [Nacked.DEAD]
        assert await other.retry(TOPIC, ["a", "b"]) == [True, False]
        again = await one(other)
        assert (again.task.id, again.attempt) == ("a", 2)
        assert await queue.ack([old.ref]) == [False]
        assert await other.nack([again.ref], reason="still") == [Nacked.DEAD]
        [letter] = await queue.dead(TOPIC)
        assert letter.attempts == 2

    async def test_a_withdrawn_task_is_gone_for_its_consumer_too(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a"), task("b")])
        claim = await one(queue)
        assert claim.task.id == "a"
        await seen(other, lambda views: len(views) == 2)
        assert await other.withdraw(TOPIC, ["a", "b", "c"]) == [True, True, False]
        assert await queue.ack([claim.ref]) == [False]
        await seen(queue, lambda views: not views)
        assert await queue.claim(TOPIC, WORKER) == []

    # --- who can ------------------------------------------------------------------------------------------------------

    async def test_what_nobody_can_take_is_parked_and_says_why(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", needs=("arm64",))])
        await seen(queue, lambda views: "a" in views and views["a"].status is TaskStatus.PARKED)
        [view] = await queue.peek(TOPIC)
        assert view.reason == f"nobody takes tasks of topic {TOPIC}"
        assert await other.claim(TOPIC, WORKER) == []
        await seen(queue, lambda views: "expected a consumer that offers arm64" in views["a"].reason)
        able = Consumer(name="able", offers=frozenset({"arm64", "gpu"}))
        assert (await one(other, able)).task.id == "a"

    async def test_a_consumer_that_waits_gets_what_comes(self, queue: TaskQueue, other: TaskQueue) -> None:
        waiting = asyncio.create_task(one(other))
        await seen(queue, lambda views: not views)
        await queue.publish(TOPIC, [task("a")])
        assert (await waiting).task.id == "a"

    async def test_a_consumer_that_goes_leaves_nothing_behind(self, queue: TaskQueue) -> None:
        for n in range(5):
            waiting = asyncio.create_task(queue.claim(TOPIC, WORKER, wait_seconds=LONG))
            await queue.publish(TOPIC, [task(f"t{n}")])
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        got = {(await one(queue)).task.id for _ in range(5)}
        assert got == {f"t{n}" for n in range(5)}

    # --- what is shown, what is refused -------------------------------------------------------------------------------

    async def test_counts(self, queue: TaskQueue, other: TaskQueue) -> None:
        await queue.publish(TOPIC, [task("a", key="k", team="t"), task("b", key="k"), task("c", delay_seconds=60)])
        await seen(other, lambda views: len(views) == 3)
        await one(other)
        await seen(queue, lambda views: views["a"].status is TaskStatus.CLAIMED and views["c"].status != "parked")
        stats = await queue.stats(TOPIC)
        assert (stats.claimed, stats.blocked, stats.delayed, stats.ready) == (1, 1, 1, 0)
        assert stats.consumers == 1
        assert stats.teams["t"] == 1
        assert await queue.topics() == [TOPIC]
        [view] = await queue.peek(TOPIC, team="t")
        assert (view.consumer, view.attempts) == ("worker", 1)

    async def test_what_cannot_be_a_task_is_refused_whole(self, queue: TaskQueue) -> None:
        for bad in (
            task("a/b"),
            task("a", priority=101),
            NewTask(id="a", payload=bytes(300_000)),
            task("a", key="x\n"),
        ):
            with pytest.raises(InvalidTask):
                await queue.publish(TOPIC, [task("good"), bad])
        with pytest.raises(InvalidTask):
            await queue.publish("No Topic", [task("a")])
        assert await queue.peek(TOPIC) == []

    async def test_a_full_topic_says_so(self, queue: TaskQueue) -> None:
        queue._max_tasks = 3  # type: ignore[attr-defined]
        await queue.publish(TOPIC, [task("a"), task("b")])
        await seen(queue, lambda views: len(views) == 2)
        with pytest.raises(QueueFull, match="at most 3"):
            await queue.publish(TOPIC, [task("c"), task("d")])
        await queue.publish("another", [task("c"), task("d")])
