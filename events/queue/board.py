"""One topic in memory: which task may be claimed next, and why another may not. No I/O and no clock of its own.

It is told what is stored, in order, and never decides what becomes stored: a task it hands out may be somebody else's
already, which the claim's transaction finds out.
"""

import heapq
from collections.abc import Collection, Iterator
from enum import Enum

from events.queue.task import Consumer, Progress, Task, TaskStatus, TaskView, TopicStats

Order = tuple[int, int, str]
"""Revision of publishing, sequence within its transaction, and the id so that no two are equal."""
_Group = tuple[str, tuple[str, ...]]
"""Team and needs: what is equal in these is told apart by priority and order alone."""


class _Place(Enum):
    READY = "ready"
    DELAYED = "delayed"
    BLOCKED = "blocked"
    CLAIMED = "claimed"


class Entry:
    """A task on the board. `revision` is its progress's, 0 while there is none."""

    __slots__ = ("lapsed", "order", "place", "progress", "reserved", "revision", "task")

    def __init__(self, task: Task, order: Order, progress: Progress | None, revision: int) -> None:
        self.task = task
        self.order = order
        self.progress = progress
        self.revision = revision
        self.lapsed = 0  # the revision of the claim that stands no more although its session lives
        self.reserved = False
        self.place: _Place | None = None

    @property
    def attempts(self) -> int:
        return self.progress.attempts if self.progress else 0

    @property
    def used_up(self) -> bool:
        """Whether it had its last attempt."""
        forgiven = self.progress.forgiven if self.progress else 0
        return self.attempts - forgiven >= self.task.max_attempts


class Board:
    """`alive`: the sessions that are, shared by all boards of a member.

    Times: `wall` in microseconds UTC, against which delays are held; `now` in seconds of any steady clock, on which a
    claim's visibility counts since it was seen here: no two machines' clocks are compared for it."""

    def __init__(self, topic: str, alive: Collection[str]) -> None:
        self.topic = topic
        self.consumers: dict[tuple[str, str], frozenset[str]] = {}
        """(session, name) → what it offers."""
        self.letters: set[str] = set()
        """Ids of the dead letters."""
        self._alive = alive
        self._entries: dict[str, Entry] = {}
        self._early: dict[str, tuple[Progress, int, float]] = {}
        self._lanes: dict[str, list[Order]] = {}
        self._ready: dict[_Group, list[tuple[int, Order]]] = {}
        self._later: list[tuple[int, str]] = []
        self._lapsing: list[tuple[float, str, int]] = []
        self._by_session: dict[str, set[str]] = {}
        self._claimed: dict[str, int] = {}
        self._served: dict[str, int] = {}
        self._turn = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, task: str) -> Entry | None:
        """The task's entry."""
        return self._entries.get(task)

    @property
    def idle(self) -> bool:
        """Nothing is here that anybody could want to know of."""
        return not (self._entries or self.consumers or self.letters)

    # --- what is stored ---------------------------------------------------------------------------------------------

    def published(self, task: Task, revision: int, now: float) -> None:
        """A task was stored at `revision`; to be told in the order of publishing."""
        if task.id in self._entries:
            return
        progress, at, seen = self._early.pop(task.id, (None, 0, now))
        entry = Entry(task, (revision, task.sequence, task.id), None, 0)
        self._entries[task.id] = entry
        if task.key:
            heapq.heappush(self._lanes.setdefault(task.key, []), entry.order)
        if progress is not None:
            self._progressed(entry, progress, at, seen)
        self._settle(entry)

    def progressed(self, task: str, progress: Progress, revision: int, now: float) -> None:
        """What became of a task was stored at `revision`."""
        entry = self._entries.get(task)
        if entry is None:
            self._early[task] = (progress, revision, now)
        elif revision > entry.revision:
            self._progressed(entry, progress, revision, now)
            self._settle(entry)

    def _progressed(self, entry: Entry, progress: Progress, revision: int, now: float) -> None:
        if entry.progress is not None:
            self._by_session.get(entry.progress.session, set()).discard(entry.task.id)
        entry.progress, entry.revision, entry.reserved = progress, revision, False
        if progress.claim:
            self._by_session.setdefault(progress.session, set()).add(entry.task.id)
            heapq.heappush(self._lapsing, (now + progress.visible_seconds, entry.task.id, revision))

    def removed(self, task: str) -> None:
        """A task is gone: done, dead or withdrawn."""
        self._early.pop(task, None)
        entry = self._entries.pop(task, None)
        if entry is None:
            return
        self._move(entry, None)
        if entry.progress is not None:
            self._by_session.get(entry.progress.session, set()).discard(task)
        if entry.task.key and (head := self._head(entry.task.key)) is not None:
            self._settle(head)

    def session_ended(self, session: str) -> None:
        """A member is no more: what it had claimed is anybody's."""
        for task in self._by_session.pop(session, set()):
            self._settle(self._entries[task])

    # --- who is next ------------------------------------------------------------------------------------------------

    def wake(self, wall: int, now: float) -> None:
        """Let delays that are over and claims that lapsed take their effect."""
        while self._later and self._later[0][0] <= wall:
            entry = self._entries.get(heapq.heappop(self._later)[1])
            if entry is not None and entry.place is _Place.DELAYED and self._due(entry) <= wall:
                self._move(entry, _Place.READY)
        while self._lapsing and self._lapsing[0][0] <= now:
            _, task, revision = heapq.heappop(self._lapsing)
            entry = self._entries.get(task)
            if entry is not None and entry.revision == revision:
                entry.lapsed = revision
                self._settle(entry)

    def next_wake(self, wall: int, now: float) -> float | None:
        """Seconds until `wake` may have something to do."""
        times = []
        if self._later:
            times.append((self._later[0][0] - wall) / 1e6)
        if self._lapsing:
            times.append(self._lapsing[0][0] - now)
        return max(0.0, min(times)) if times else None

    def pick(self, consumer: Consumer) -> Entry | None:
        """The task that `consumer` should claim now, reserved for it until its progress is heard of again."""
        best: tuple[int, int, tuple[int, Order]] | None = None
        group: _Group | None = None
        for candidate, heap in list(self._ready.items()):
            if not consumer.offers.issuperset(candidate[1]):
                continue
            if not self._top(heap):
                del self._ready[candidate]
                continue
            team = candidate[0]
            rank = (self._claimed.get(team, 0), self._served.get(team, 0), heap[0])
            if best is None or rank < best:
                best, group = rank, candidate
        if best is None or group is None:
            return None
        entry = self._entries[best[2][1][2]]
        entry.reserved = True
        self._turn += 1
        self._served[group[0]] = self._turn
        self._move(entry, _Place.CLAIMED)
        return entry

    def reserve(self, task: str) -> None:
        """Keep it from being picked: a transaction about it is under way."""
        entry = self._entries.get(task)
        if entry is not None:
            entry.reserved = True
            self._settle(entry)

    def answered(self, task: str, revision: int) -> None:
        """The transaction about a reserved task is over. It wrote, or found written, its progress at `revision` (0:
        none): until that is heard of here the task stays reserved."""
        entry = self._entries.get(task)
        if entry is not None and entry.reserved and entry.revision >= revision:
            entry.reserved = False
            self._settle(entry)

    def claimed_by(self, session: str) -> list[Entry]:
        """What a session has claimed."""
        return [self._entries[task] for task in self._by_session.get(session, ())]

    def abandoned(self, task: str, revision: int) -> None:
        """The claim stored at `revision` has nobody behind it."""
        entry = self._entries.get(task)
        if entry is not None and entry.revision == revision:
            entry.lapsed = revision
            self._settle(entry)

    # --- what a person sees -----------------------------------------------------------------------------------------

    def views(self, wall: int) -> Iterator[TaskView]:
        """Every task in the order of publishing."""
        for entry in sorted(self._entries.values(), key=lambda e: e.order):
            yield self._view(entry, wall)

    def stats(self, wall: int) -> TopicStats:
        """Counts now."""
        counts = dict.fromkeys(TaskStatus, 0)
        teams: dict[str, int] = {}
        oldest = wall
        for entry in self._entries.values():
            status = self._status(entry, wall)[0]
            counts[status] += 1
            teams[entry.task.team] = teams.get(entry.task.team, 0) + 1
            if status is not TaskStatus.CLAIMED:
                oldest = min(oldest, entry.task.published_at)
        return TopicStats(
            topic=self.topic,
            ready=counts[TaskStatus.READY],
            delayed=counts[TaskStatus.DELAYED],
            blocked=counts[TaskStatus.BLOCKED],
            parked=counts[TaskStatus.PARKED],
            claimed=counts[TaskStatus.CLAIMED],
            dead=len(self.letters),
            consumers=len(self.consumers),
            oldest_seconds=round((wall - oldest) / 1e6, 3),
            teams=teams,
        )

    def _view(self, entry: Entry, wall: int) -> TaskView:
        status, reason = self._status(entry, wall)
        consumer = entry.progress.consumer if entry.progress and status is TaskStatus.CLAIMED else ""
        return TaskView(task=entry.task, status=status, attempts=entry.attempts, reason=reason, consumer=consumer)

    def _status(self, entry: Entry, wall: int) -> tuple[TaskStatus, str]:
        last = entry.progress.reason if entry.progress else ""
        if entry.place is _Place.CLAIMED:
            return TaskStatus.CLAIMED, ""
        if entry.place is _Place.BLOCKED:
            return TaskStatus.BLOCKED, f"an earlier task of key {entry.task.key!r} is not done"
        if why := self._nobody_for(entry.task):
            return TaskStatus.PARKED, why
        if entry.place is _Place.DELAYED and self._due(entry) > wall:
            return TaskStatus.DELAYED, last
        return TaskStatus.READY, last

    def _nobody_for(self, task: Task) -> str:
        if not self.consumers:
            return f"nobody takes tasks of topic {self.topic}"
        if any(offers.issuperset(task.needs) for offers in self.consumers.values()):
            return ""
        offered = "; ".join(
            f"{name} offers {', '.join(sorted(offers)) or 'nothing'}"
            for (_, name), offers in sorted(self.consumers.items())[:3]
        )
        return f"expected a consumer that offers {', '.join(task.needs)}; of {len(self.consumers)}: {offered}"

    # --- places -----------------------------------------------------------------------------------------------------

    def _settle(self, entry: Entry) -> None:
        """Put the entry where what is stored says it is."""
        progress = entry.progress
        stands = progress is not None and progress.claim and entry.lapsed != entry.revision
        if entry.reserved or (stands and progress is not None and progress.session in self._alive):
            self._move(entry, _Place.CLAIMED)
        elif entry.task.key and self._head(entry.task.key) is not entry:
            self._move(entry, _Place.BLOCKED)
        elif self._due(entry):
            # Delays are held against the clock in `wake` only.
            self._move(entry, _Place.DELAYED)
            heapq.heappush(self._later, (self._due(entry), entry.task.id))
        else:
            self._move(entry, _Place.READY)

    def _due(self, entry: Entry) -> int:
        return entry.progress.not_before if entry.progress is not None else entry.task.not_before

    def _move(self, entry: Entry, place: _Place | None) -> None:
        team = entry.task.team
        if entry.place is _Place.CLAIMED:
            self._claimed[team] -= 1
            if not self._claimed[team]:
                del self._claimed[team]
        entry.place = place
        if place is _Place.CLAIMED:
            self._claimed[team] = self._claimed.get(team, 0) + 1
        elif place is _Place.READY:
            heap = self._ready.setdefault((team, entry.task.needs), [])
            heapq.heappush(heap, (-entry.task.priority, entry.order))

    def _top(self, heap: list[tuple[int, Order]]) -> bool:
        """Whether the heap has a ready task; drops from its top what is none any more."""
        while heap:
            entry = self._entries.get(heap[0][1][2])
            if entry is not None and entry.order == heap[0][1] and entry.place is _Place.READY:
                return True
            heapq.heappop(heap)
        return False

    def _head(self, key: str) -> Entry | None:
        """The earliest task of a key."""
        lane = self._lanes.get(key, [])
        while lane:
            entry = self._entries.get(lane[0][2])
            if entry is not None and entry.order == lane[0]:
                return entry
            heapq.heappop(lane)
        self._lanes.pop(key, None)
        return None
