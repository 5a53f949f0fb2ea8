"""Claims of one member: who waits for tasks, what is picked for whom, and which claims are held here.

Knows the board and the claim's transaction; nothing of what a consumer says afterwards.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence

import msgspec
import structlog

from events.clock import now_micros
from events.failpoints import failpoint
from events.log.errors import LogUnavailable
from events.queue.board import Entry
from events.queue.commit import GroupCommit
from events.queue.mirror import Mirror
from events.queue.session import Session
from events.queue.steps import BLIND, GONE, NO_SESSION, Step, TopicSteps, Verdict
from events.queue.task import Claim, ClaimRef, Consumer, Dead, Progress, Task

log = structlog.get_logger("queue")


class Held(msgspec.Struct, frozen=True):
    """A claim made here: where its progress was last and what it holds, and its task in case it dies in our hands."""

    revision: int
    progress: Progress
    task: Task


class _Waiter:
    def __init__(self, consumer: Consumer, most: int, *, once: bool) -> None:
        self.consumer = consumer
        self.most = most
        self.once = once
        """It is not put back when what was picked for it was somebody else's."""
        self.claims: asyncio.Future[list[Claim]] = asyncio.get_running_loop().create_future()
        # Whoever waited may have been cancelled.
        self.claims.add_done_callback(lambda done: done.cancelled() or done.exception())

    def answer(self, claims: list[Claim]) -> None:
        if not self.claims.done():
            self.claims.set_result(claims)


class _Attempt(msgspec.Struct, frozen=True):
    """One picked task: the claim that is being made, or that it is being buried instead."""

    entry: Entry
    progress: Progress
    step: Step
    buried: bool


class Claimer:
    """`wake` it whenever a topic's board changed."""

    def __init__(
        self,
        *,
        commit: GroupCommit,
        mirror: Mirror,
        session: Session,
        steps_of: Callable[[str], TopicSteps],
        numbers: Iterator[int],
    ) -> None:
        self.held: dict[ClaimRef, Held] = {}
        self._commit = commit
        self._mirror = mirror
        self._session = session
        self._steps_of = steps_of
        self._numbers = numbers
        self._abandoned: set[str] = set()
        self._waiting: dict[str, deque[_Waiter]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def waits(self, topic: str, name: str) -> bool:
        """Whether a consumer of this name waits."""
        return any(waiter.consumer.name == name for waiter in self._waiting.get(topic, ()))

    async def claim(self, topic: str, consumer: Consumer, most: int, wait_seconds: float) -> list[Claim]:
        """See TaskQueue."""
        waiter = _Waiter(consumer, most, once=not wait_seconds)
        waiters = self._waiting.setdefault(topic, deque())
        waiters.append(waiter)
        self._dispatch(topic)
        try:
            if not wait_seconds:
                return [] if waiter in waiters else await asyncio.shield(waiter.claims)
            await asyncio.wait((waiter.claims,), timeout=wait_seconds)
            waiter.once = True
            if not waiter.claims.done() and waiter in waiters:
                return []
            # What was picked in the last moment is still to come.
            return await asyncio.shield(waiter.claims)
        except asyncio.CancelledError:
            waiter.once = True
            if waiter not in waiters:
                await asyncio.shield(self._return(waiter))
            raise
        finally:
            if waiter in waiters:
                waiters.remove(waiter)

    def wake(self, topics: set[str]) -> None:
        """Something changed there."""
        for topic in topics:
            self._drop_abandoned(topic)
            if self._waiting.get(topic):
                self._dispatch(topic)

    def wake_all(self) -> None:
        """There is a session."""
        self.wake(set(self._waiting))

    async def close(self) -> None:
        """Nobody waits any more."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.answer([])

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give back at once what nobody began with; it is no attempt."""
        steps: list[Step] = []
        for claim in claims:
            held = self.held.pop(claim.ref, None)
            if held is not None:
                now = held.progress
                waits = Progress(attempts=now.attempts, forgiven=now.forgiven + 1, at=now_micros())
                of = self._steps_of(claim.ref.topic)
                steps.append(of.write(claim.ref.task, claim.ref.claim, held.revision, waits))
        await self._commit.submit(steps)

    async def _return(self, waiter: _Waiter) -> None:
        """The consumer went while its claims were being made: nobody else could have them until they lapse."""
        try:
            await self.release(await waiter.claims)
        except LogUnavailable as error:
            log.info("claims of a consumer that went are left to lapse", error=str(error))

    def _dispatch(self, topic: str) -> None:
        """Hand out what may be handed out, and set the clock for what may be later."""
        waiters = self._waiting.get(topic)
        if not waiters or not self._session.id:
            return
        board, loop = self._mirror.board(topic), asyncio.get_running_loop()
        board.wake(now_micros(), loop.time())
        for waiter in list(waiters):
            picked: list[Entry] = []
            while len(picked) < waiter.most and (entry := board.pick(waiter.consumer)) is not None:
                picked.append(entry)
            if picked:
                waiters.remove(waiter)
                self._mirror.in_flight.update((topic, entry.task.id) for entry in picked)
                attempts = [self._attempt(topic, waiter.consumer, entry) for entry in picked]
                self._start(self._carry_out(topic, waiter, attempts))
        if (timer := self._timers.pop(topic, None)) is not None:
            timer.cancel()
        if waiters and (seconds := board.next_wake(now_micros(), loop.time())) is not None:
            self._timers[topic] = loop.call_later(seconds + 0.001, self._dispatch, topic)

    def _attempt(self, topic: str, consumer: Consumer, entry: Entry) -> _Attempt:
        session, at, steps = self._session.id, now_micros(), self._steps_of(topic)
        forgiven = entry.progress.forgiven if entry.progress else 0
        progress = Progress(
            attempts=entry.attempts + 1,
            forgiven=forgiven,
            claim=f"{session}-{next(self._numbers)}",
            session=session,
            consumer=consumer.name,
            at=at,
            visible_seconds=entry.task.visible_seconds,
        )
        if entry.used_up:
            step = steps.bury(_letter(entry, at), claim="", since=entry.revision)
        else:
            step = steps.claim(entry.task, progress, since=entry.revision, made=entry.order[0])
        return _Attempt(entry, progress, step, entry.used_up)

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, topic: str, waiter: _Waiter, attempts: Sequence[_Attempt]) -> None:
        """Claim what was picked; the waiter waits on when none of it could be had."""
        try:
            verdicts = await self._commit.submit([attempt.step for attempt in attempts])
            failpoint("queue.claimed")
        except Exception as error:
            # Whoever waits must hear of it, whatever it is.
            self._give_up(topic, attempts)
            if not waiter.claims.done():
                waiter.claims.set_exception(error)
            return
        except BaseException:
            waiter.claims.cancel()
            raise
        claims = self._claims_of(topic, attempts, verdicts)
        if claims or waiter.once:
            waiter.answer(claims)
        else:
            self._waiting.setdefault(topic, deque()).appendleft(waiter)
        self._dispatch(topic)

    def _claims_of(self, topic: str, attempts: Sequence[_Attempt], verdicts: Sequence[Verdict]) -> list[Claim]:
        claims: list[Claim] = []
        board = self._mirror.board(topic)
        for attempt, verdict in zip(attempts, verdicts, strict=True):
            task = attempt.entry.task
            self._mirror.in_flight.discard((topic, task.id))
            if verdict.word in (GONE, BLIND):
                # It stays reserved until that is heard of here, or until the board is a new one.
                if verdict.word == BLIND:
                    self._mirror.look_again()
                continue
            board.answered(task.id, verdict.revision)
            if verdict.word == NO_SESSION:
                self._session.gone(attempt.progress.session)
            if verdict.ok and not attempt.buried:
                ref = ClaimRef(topic=topic, task=task.id, claim=attempt.progress.claim)
                self.held[ref] = Held(verdict.revision, attempt.progress, task)
                claims.append(Claim(ref=ref, task=task, attempt=attempt.progress.attempts))
        return claims

    def _give_up(self, topic: str, attempts: Sequence[_Attempt]) -> None:
        """Whether these claims were made nobody can tell: whichever turns up has nobody behind it."""
        for attempt in attempts:
            self._abandoned.add(attempt.progress.claim)
            self._mirror.in_flight.discard((topic, attempt.entry.task.id))
            self._mirror.board(topic).answered(attempt.entry.task.id, 0)

    def _drop_abandoned(self, topic: str) -> None:
        if not self._abandoned:
            return
        board = self._mirror.board(topic)
        for entry in board.claimed_by(self._session.id):
            if entry.progress is not None and entry.progress.claim in self._abandoned:
                self._abandoned.discard(entry.progress.claim)
                board.abandoned(entry.task.id, entry.revision)


def _letter(entry: Entry, at: int) -> Dead:
    said = entry.progress.reason if entry.progress else ""
    reason = f"claimed {entry.attempts} times, and no claim came to an end"
    return Dead(task=entry.task, attempts=entry.attempts, reason=f"{reason}; {said}" if said else reason, at=at)
