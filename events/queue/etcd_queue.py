"""The task queue on etcd: any number of members over the same keys, none of them in charge.

A member picks from its mirror and claims by transaction, so two that pick the same task differ in who is told no. It
knows nothing of what tasks are about.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from itertools import count

import msgspec
import structlog

from events.clock import now_micros
from events.failpoints import failpoint
from events.log.errors import EtcdRefused, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.queue.board import Board
from events.queue.claiming import Claimer, Held
from events.queue.commit import GroupCommit
from events.queue.errors import QueueFull
from events.queue.keys import QueueKeys
from events.queue.mirror import Mirror
from events.queue.session import DedupeLease, Session
from events.queue.steps import Step, TopicSteps, decode_dead, decode_progress, decode_task
from events.queue.task import (
    MAX_REASON,
    Claim,
    ClaimRef,
    Consumer,
    Dead,
    Nacked,
    NewTask,
    Progress,
    Published,
    Task,
    TaskView,
    TopicStats,
    check_id,
    check_topic,
    stored,
)

log = structlog.get_logger("queue")

MAX_TASKS = 100_000
"""Of one topic: 100,000 tasks of 1 KiB are 5 % of the quota of etcd here, and about 150 MB in each member."""
IDLE_CONSUMER_SECONDS = 30.0
OPEN_SECONDS = 20.0
PEEK_MOST = 1000


class EtcdTaskQueue:
    """See `TaskQueue`. `name` is for people; `alone` ends the sessions of whoever else has the name."""

    def __init__(self, client: EtcdClient, *, name: str, alone: bool = False, max_tasks: int = MAX_TASKS) -> None:
        self._client = client
        self._keys = QueueKeys(client.settings.namespace)
        self._name = name
        self._max_tasks = max_tasks
        self._numbers = count(1)
        self._steps: dict[str, TopicSteps] = {}
        self._commit = GroupCommit(client)
        self._mirror = Mirror(client, self._keys, lambda topics: self._claimer.wake(topics))
        self._session = Session(client, self._keys, name, alone=alone, came_up=lambda: self._claimer.wake_all())
        self._claimer = Claimer(
            commit=self._commit, mirror=self._mirror, session=self._session, steps_of=self._of, numbers=self._numbers
        )
        self._dedupe = DedupeLease(client)
        self._consumers: dict[tuple[str, str], tuple[Consumer, float, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Become a member. Raises LogUnavailable."""
        for work in (self._commit.run(), self._session.run(), self._mirror.run(), self._forget_idle()):
            self._keep(work)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._session.up.wait()
                await self._mirror.ready.wait()
        except TimeoutError:
            await self.close()
            raise LogUnavailable(f"the queue was not open within {OPEN_SECONDS:g} s; is etcd running?") from None

    async def close(self) -> None:
        """Leave: what is claimed here and not acked is anybody's at once."""
        await self._claimer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._commit.close()

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the queue's member can not go on", member=self._name, exc_info=error)
            self._commit.close()

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, tasks: Sequence[NewTask]) -> list[Published]:
        """See TaskQueue."""
        steps, at = self._of(topic), now_micros()
        made = [stored(new, at=at, sequence=next(self._numbers)) for new in tasks]
        here = len(self._mirror.board(topic))
        if here + len(made) > self._max_tasks:
            raise QueueFull(f"topic {topic}: expected at most {self._max_tasks} tasks, found {here}; publish later")
        failpoint("queue.publish")
        verdicts = await self._commit.submit([steps.publish(task) for task in made])
        return [Published(id=new.id, duplicate=not v.ok) for new, v in zip(tasks, verdicts, strict=True)]

    # --- claiming -----------------------------------------------------------------------------------------------------

    async def claim(self, topic: str, consumer: Consumer, *, most: int = 1, wait_seconds: float = 0.0) -> list[Claim]:
        """See TaskQueue."""
        check_topic(topic)
        await self._announce(topic, consumer)
        return await self._claimer.claim(topic, consumer, most, wait_seconds)

    # --- the consumer's word ------------------------------------------------------------------------------------------

    async def ack(self, claims: Sequence[ClaimRef]) -> list[bool]:
        """See TaskQueue."""
        failpoint("queue.ack")
        for tries in (1, 2):
            lease = await self._dedupe.get(len(claims))
            steps: list[Step] = []
            for ref in claims:
                revision, _, task = await self._stands(ref)
                steps.append(self._of(ref.topic).finish(ref, task, revision, lease))
            try:
                verdicts = await self._commit.submit(steps)
            except EtcdRefused:
                # This process was stopped for so long that the lease ended meanwhile.
                self._dedupe = DedupeLease(self._client)
                if tries == 2:
                    raise
                continue
            break
        for ref in claims:
            self._claimer.held.pop(ref, None)
        return [verdict.ok for verdict in verdicts]

    async def nack(
        self, claims: Sequence[ClaimRef], *, reason: str, delay_seconds: float | None = None, dead: bool = False
    ) -> list[Nacked]:
        """See TaskQueue."""
        reason, at = reason[:MAX_REASON], now_micros()
        ends: list[Nacked] = []
        steps: list[Step] = []
        for ref in claims:
            revision, progress, task = await self._stands(ref)
            if progress is None or task is None:
                ends.append(Nacked.STALE)
                continue
            attempts, of = progress.attempts, self._of(ref.topic)
            if dead or attempts - progress.forgiven >= task.max_attempts:
                letter = Dead(task=task, attempts=attempts, reason=reason, at=at)
                steps.append(of.bury(letter, claim=ref.claim, since=revision))
                ends.append(Nacked.DEAD)
                continue
            delay = task.back_off_after(attempts - progress.forgiven) if delay_seconds is None else delay_seconds
            waits = Progress(
                attempts=attempts, forgiven=progress.forgiven, at=at, not_before=at + int(delay * 1e6), reason=reason
            )
            steps.append(of.write(ref.task, ref.claim, revision, waits))
            ends.append(Nacked.WAITING)
        verdicts = iter(await self._commit.submit(steps))
        for ref in claims:
            self._claimer.held.pop(ref, None)
        return [end if end is Nacked.STALE or next(verdicts).ok else Nacked.STALE for end in ends]

    async def extend(self, claims: Sequence[ClaimRef], *, seconds: float) -> list[bool]:
        """See TaskQueue."""
        at = now_micros()
        known: list[tuple[ClaimRef, Held]] = []
        for ref in claims:
            revision, progress, task = await self._stands(ref)
            if progress is not None and task is not None:
                longer = msgspec.structs.replace(progress, at=at, visible_seconds=seconds)
                known.append((ref, Held(revision, longer, task)))
        steps = [self._of(ref.topic).write(ref.task, ref.claim, held.revision, held.progress) for ref, held in known]
        stands: set[ClaimRef] = set()
        for (ref, held), verdict in zip(known, await self._commit.submit(steps), strict=True):
            if verdict.ok:
                stands.add(ref)
                if ref in self._claimer.held:
                    self._claimer.held[ref] = msgspec.structs.replace(held, revision=verdict.revision)
            else:
                self._claimer.held.pop(ref, None)
        return [ref in stands for ref in claims]

    async def _stands(self, ref: ClaimRef) -> tuple[int, Progress | None, Task | None]:
        """Where the claim's progress is and what it holds, as far as known; (0, None, None): it does not stand."""
        check_topic(ref.topic)
        check_id(ref.task)
        held = self._claimer.held.get(ref)
        if held is not None:
            return held.revision, held.progress, held.task
        # Made by another member, or before this one started. What the board has may be late.
        entry = self._mirror.board(ref.topic).get(ref.task)
        if entry is not None and entry.progress is not None and entry.progress.claim == ref.claim:
            return entry.revision, entry.progress, entry.task
        item = await self._client.get(self._keys.progress(ref.topic, ref.task))
        own = await self._client.get(self._keys.task(ref.topic, ref.task))
        if item is None or own is None or (progress := decode_progress(item.value)).claim != ref.claim:
            return 0, None, None
        return item.mod_revision, progress, decode_task(own.value)

    # --- for people ---------------------------------------------------------------------------------------------------

    async def withdraw(self, topic: str, ids: Sequence[str]) -> list[bool]:
        """See TaskQueue."""
        lease = await self._dedupe.get(len(ids))
        nonce = f"withdrawn-{self._session.id}-{next(self._numbers)}"
        steps: dict[str, Step] = {}
        for ident in ids:
            item = await self._client.get(self._keys.task(check_topic(topic), check_id(ident)))
            if item is not None:
                steps[ident] = self._of(topic).withdraw(decode_task(item.value), lease, nonce)
        verdicts = dict(zip(steps, await self._commit.submit(list(steps.values())), strict=True))
        return [ident in verdicts and verdicts[ident].ok for ident in ids]

    async def topics(self) -> list[str]:
        """See TaskQueue."""
        return sorted(topic for topic, board in self._mirror.boards.items() if not board.idle)

    async def peek(self, topic: str, *, limit: int = 100, team: str | None = None) -> list[TaskView]:
        """See TaskQueue."""
        board = self._look(topic)
        views: list[TaskView] = []
        for view in board.views(now_micros()):
            if team is None or view.task.team == team:
                views.append(view)
            if len(views) >= min(limit, PEEK_MOST):
                break
        return views

    async def stats(self, topic: str) -> TopicStats:
        """See TaskQueue."""
        return self._look(topic).stats(now_micros())

    def _look(self, topic: str) -> Board:
        board = self._mirror.boards.get(check_topic(topic)) or Board(topic, self._mirror.sessions)
        board.wake(now_micros(), asyncio.get_running_loop().time())
        return board

    async def dead(self, topic: str, *, limit: int = 100, team: str | None = None) -> list[Dead]:
        """See TaskQueue."""
        listing = await self._client.get_prefix(self._keys.dead_of(check_topic(topic)))
        letters = (decode_dead(item.value) for item in listing)
        return [letter for letter in letters if team is None or letter.task.team == team][:limit]

    async def retry(self, topic: str, ids: Sequence[str]) -> list[bool]:
        """See TaskQueue."""
        check_topic(topic)
        steps: dict[str, Step] = {}
        at = now_micros()
        for ident in ids:
            item = await self._client.get(self._keys.dead(topic, check_id(ident)))
            if item is not None:
                letter = decode_dead(item.value)
                again = msgspec.structs.replace(
                    letter.task, published_at=at, sequence=next(self._numbers), not_before=0
                )
                steps[ident] = self._of(topic).retry(letter, item.mod_revision, again)
        verdicts = dict(zip(steps, await self._commit.submit(list(steps.values())), strict=True))
        return [ident in verdicts and verdicts[ident].ok for ident in ids]

    # --- consumers ----------------------------------------------------------------------------------------------------

    async def _announce(self, topic: str, consumer: Consumer) -> None:
        """Let everybody see that tasks of this topic are taken, and which."""
        place, now = (topic, consumer.name), asyncio.get_running_loop().time()
        known = self._consumers.get(place)
        self._consumers[place] = (consumer, now, self._session.id)
        if known is not None and known[0] == consumer and known[2] == self._session.id:
            return
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._session.up.wait()
        except TimeoutError:
            raise LogUnavailable("the queue has no session with etcd; is it running?") from None
        session, lease = self._session.id, self._session.lease
        self._consumers[place] = (consumer, now, session)
        key = self._keys.consumer(session, topic, check_id(consumer.name))
        try:
            await self._client.put(key, "\n".join(sorted(consumer.offers)).encode(), lease=lease)
        except EtcdRefused as error:
            raise LogUnavailable(f"the queue's session just ended: {error}; try again") from error

    async def _forget_idle(self) -> None:
        """A consumer that asks no more is none any more."""
        while True:
            await asyncio.sleep(IDLE_CONSUMER_SECONDS / 3)
            now = asyncio.get_running_loop().time()
            for (topic, name), (_, last, session) in list(self._consumers.items()):
                waiting = self._claimer.waits(topic, name)
                if (
                    waiting
                    or now - last < IDLE_CONSUMER_SECONDS
                    or any(
                        ref.topic == topic and held.progress.consumer == name
                        for ref, held in self._claimer.held.items()
                    )
                ):
                    continue
                del self._consumers[topic, name]
                try:
                    await self._client.delete(self._keys.consumer(session, topic, name))
                except LogUnavailable as error:
                    log.info("a consumer is forgotten with its session only", consumer=name, error=str(error))

    def _of(self, topic: str) -> TopicSteps:
        steps = self._steps.get(topic)
        if steps is None:
            steps = self._steps[topic] = TopicSteps(self._keys, check_topic(topic))
        return steps
