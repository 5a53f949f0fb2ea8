"""The task queue in one process's memory, for tests and for trying things out. Keeps every promise but durability.

Members that share a `MemoryTopics` are as members over one etcd; nothing here knows of etcd.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from itertools import count

import msgspec

from events.clock import now_micros
from events.queue.board import Board, Entry
from events.queue.errors import QueueFull
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
    TaskView,
    TopicStats,
    check_id,
    check_topic,
    stored,
)

MAX_TASKS = 100_000


class MemoryTopics:
    """What the members share: the boards, the dead letters, and which ids are used up."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.boards: dict[str, Board] = {}
        self.letters: dict[tuple[str, str], Dead] = {}
        self.done: dict[tuple[str, str], str] = {}
        """(topic, id) → the claim that ended it."""
        self.changed = asyncio.Condition()
        self.revisions = count(1)

    def board(self, topic: str) -> Board:
        """The topic's board."""
        if topic not in self.boards:
            self.boards[topic] = Board(check_topic(topic), self.sessions)
        return self.boards[topic]

    async def tell(self) -> None:
        """Wake whoever waits for tasks."""
        async with self.changed:
            self.changed.notify_all()


class MemoryTaskQueue:
    """See `TaskQueue`."""

    def __init__(
        self, topics: MemoryTopics, *, clock: Callable[[], int] = now_micros, max_tasks: int = MAX_TASKS
    ) -> None:
        self._topics = topics
        self._clock = clock
        self._max_tasks = max_tasks
        self._session = secrets.token_hex(4)
        self._consumers: set[tuple[str, str]] = set()

    async def open(self) -> None:
        """Become a member."""
        self._topics.sessions.add(self._session)

    async def close(self) -> None:
        """Leave: what is claimed here and not acked is anybody's."""
        self._topics.sessions.discard(self._session)
        for topic, name in self._consumers:
            self._topics.board(topic).consumers.pop((self._session, name), None)
        for board in self._topics.boards.values():
            board.session_ended(self._session)
        await self._topics.tell()

    async def publish(self, topic: str, tasks: Sequence[NewTask]) -> list[Published]:
        """See TaskQueue."""
        board, at = self._topics.board(topic), self._clock()
        made = [stored(new, at=at, sequence=index) for index, new in enumerate(tasks)]
        if len(board) + len(made) > self._max_tasks:
            raise QueueFull(f"topic {topic}: expected at most {self._max_tasks} tasks, found {len(board)}")
        ends: list[Published] = []
        for task in made:
            duplicate = board.get(task.id) is not None or (topic, task.id) in self._topics.done
            ends.append(Published(id=task.id, duplicate=duplicate))
            if not duplicate:
                board.published(task, next(self._topics.revisions), self._now())
        await self._topics.tell()
        return ends

    async def claim(self, topic: str, consumer: Consumer, *, most: int = 1, wait_seconds: float = 0.0) -> list[Claim]:
        """See TaskQueue."""
        board = self._topics.board(topic)
        self._consumers.add((topic, check_id(consumer.name)))
        board.consumers[self._session, consumer.name] = consumer.offers
        deadline = self._now() + wait_seconds
        while True:
            board.wake(self._clock(), self._now())
            claims = self._pick(board, consumer, most)
            left = deadline - self._now()
            if claims or left <= 0:
                return claims
            wake = board.next_wake(self._clock(), self._now())
            try:
                async with asyncio.timeout(left if wake is None else min(left, wake + 0.001)), self._topics.changed:
                    await self._topics.changed.wait()
            except TimeoutError:
                continue

    def _pick(self, board: Board, consumer: Consumer, most: int) -> list[Claim]:
        claims: list[Claim] = []
        while len(claims) < most and (entry := board.pick(consumer)) is not None:
            if entry.used_up:
                self._bury(board, entry, f"claimed {entry.attempts} times, and no claim came to an end")
                continue
            revision = next(self._topics.revisions)
            progress = Progress(
                attempts=entry.attempts + 1,
                forgiven=entry.progress.forgiven if entry.progress else 0,
                claim=f"{self._session}-{revision}",
                session=self._session,
                consumer=consumer.name,
                at=self._clock(),
                visible_seconds=entry.task.visible_seconds,
            )
            board.progressed(entry.task.id, progress, revision, self._now())
            ref = ClaimRef(topic=board.topic, task=entry.task.id, claim=progress.claim)
            claims.append(Claim(ref=ref, task=entry.task, attempt=progress.attempts))
        return claims

    async def ack(self, claims: Sequence[ClaimRef]) -> list[bool]:
        """See TaskQueue."""
        ends: list[bool] = []
        for ref in claims:
            entry = self._standing(ref)
            if entry is not None:
                self._topics.done[ref.topic, ref.task] = ref.claim
                self._topics.board(ref.topic).removed(ref.task)
            ends.append(self._topics.done.get((ref.topic, ref.task)) == ref.claim)
        await self._topics.tell()
        return ends

    async def nack(
        self, claims: Sequence[ClaimRef], *, reason: str, delay_seconds: float | None = None, dead: bool = False
    ) -> list[Nacked]:
        """See TaskQueue."""
        ends: list[Nacked] = []
        for ref in claims:
            entry, board = self._standing(ref), self._topics.board(ref.topic)
            if entry is None or entry.progress is None:
                ends.append(Nacked.STALE)
            elif dead or entry.used_up:
                self._bury(board, entry, reason[:MAX_REASON])
                ends.append(Nacked.DEAD)
            else:
                now, at = entry.progress, self._clock()
                tried = now.attempts - now.forgiven
                delay = entry.task.back_off_after(tried) if delay_seconds is None else delay_seconds
                waits = Progress(
                    attempts=now.attempts,
                    forgiven=now.forgiven,
                    at=at,
                    not_before=at + int(delay * 1e6),
                    reason=reason[:MAX_REASON],
                )
                board.progressed(ref.task, waits, next(self._topics.revisions), self._now())
                ends.append(Nacked.WAITING)
        await self._topics.tell()
        return ends

    async def extend(self, claims: Sequence[ClaimRef], *, seconds: float) -> list[bool]:
        """See TaskQueue."""
        ends: list[bool] = []
        for ref in claims:
            entry = self._standing(ref)
            ends.append(entry is not None)
            if entry is not None and entry.progress is not None:
                longer = msgspec.structs.replace(entry.progress, visible_seconds=seconds)
                self._topics.board(ref.topic).progressed(ref.task, longer, next(self._topics.revisions), self._now())
        return ends

    async def withdraw(self, topic: str, ids: Sequence[str]) -> list[bool]:
        """See TaskQueue."""
        board = self._topics.board(topic)
        ends = [board.get(check_id(ident)) is not None for ident in ids]
        for ident in (ident for ident, there in zip(ids, ends, strict=True) if there):
            board.removed(ident)
            self._topics.done[topic, ident] = ""
        await self._topics.tell()
        return ends

    async def topics(self) -> list[str]:
        """See TaskQueue."""
        return sorted(topic for topic, board in self._topics.boards.items() if not board.idle)

    async def peek(self, topic: str, *, limit: int = 100, team: str | None = None) -> list[TaskView]:
        """See TaskQueue."""
        board = self._topics.board(topic)
        board.wake(self._clock(), self._now())
        return [view for view in board.views(self._clock()) if team is None or view.task.team == team][:limit]

    async def stats(self, topic: str) -> TopicStats:
        """See TaskQueue."""
        board = self._topics.board(topic)
        board.wake(self._clock(), self._now())
        return board.stats(self._clock())

    async def dead(self, topic: str, *, limit: int = 100, team: str | None = None) -> list[Dead]:
        """See TaskQueue."""
        letters = [letter for (of, _), letter in sorted(self._topics.letters.items()) if of == topic]
        return [letter for letter in letters if team is None or letter.task.team == team][:limit]

    async def retry(self, topic: str, ids: Sequence[str]) -> list[bool]:
        """See TaskQueue."""
        board, at = self._topics.board(topic), self._clock()
        ends: list[bool] = []
        for ident in ids:
            letter = self._topics.letters.pop((topic, check_id(ident)), None)
            ends.append(letter is not None)
            if letter is not None:
                board.letters.discard(ident)
                del self._topics.done[topic, ident]
                task = msgspec.structs.replace(letter.task, published_at=at, not_before=0)
                board.published(task, next(self._topics.revisions), self._now())
                progress = Progress(attempts=letter.attempts, forgiven=letter.attempts, at=at)
                board.progressed(ident, progress, next(self._topics.revisions), self._now())
        await self._topics.tell()
        return ends

    def _standing(self, ref: ClaimRef) -> Entry | None:
        entry = self._topics.board(ref.topic).get(check_id(ref.task))
        stands = entry is not None and entry.progress is not None and entry.progress.claim == ref.claim
        return entry if stands else None

    def _bury(self, board: Board, entry: Entry, reason: str) -> None:
        ident = entry.task.id
        self._topics.letters[board.topic, ident] = Dead(
            task=entry.task, attempts=entry.attempts, reason=reason, at=self._clock()
        )
        self._topics.done[board.topic, ident] = "dead"
        board.letters.add(ident)
        board.removed(ident)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
