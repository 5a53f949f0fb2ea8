"""What a store counted since it started: lines, bytes, levels, statuses and latencies of each stream, and its losses.

Counted a little after lines are stored, at low priority, so that appending does not wait for it. Values and their
counting; knows nothing of who shows them.
"""

import asyncio
import logging
import time
from collections import deque

import msgspec

from actors.logs.background import Background
from actors.logs.errors import LogError
from actors.logs.measure import Counts
from actors.logs.search import Searcher, Tally
from actors.logs.store import LogStore, StoreStats

_log = logging.getLogger(__name__)

COUNT_SECONDS = 5.0
"""So old the counts may be, while the machine keeps up."""
OTHERS = "others"
"""Streams that are no component's, such as builds, together."""
ALARM_SECONDS = 3600.0
"""So long a loss is told as an alarm, beside being counted for ever."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """`lines` lost within ALARM_SECONDS, and when the last of them were counted, unix seconds."""

    lines: int
    at: float

    def plus(self, other: "Loss") -> "Loss":
        """Both together."""
        return Loss(lines=self.lines + other.lines, at=max(self.at, other.at))


class StoreTotals(msgspec.Struct, frozen=True, kw_only=True):
    """`streams`: by service id, and `OTHERS`; `archived`, `sealed`, `expired` segments; `store` as the store has it;
    `held_back`: by team, appends that waited or came again because they were too many; `losses`: by stream, the
    recent ones."""

    streams: dict[str, Counts] = {}
    store: StoreStats = msgspec.field(default_factory=StoreStats)
    sealed: int = 0
    archived: int = 0
    expired: int = 0
    tails: int = 0
    held_back: dict[str, int] = {}
    losses: dict[str, Loss] = {}

    def plus(self, other: "StoreTotals") -> "StoreTotals":
        """Both together; a stream that moved was counted at both places."""
        streams = {name: msgspec.structs.replace(counts) for name, counts in self.streams.items()}
        for name, counts in other.streams.items():
            streams.setdefault(name, Counts()).add(counts)
        losses = dict(self.losses)
        for name, loss in other.losses.items():
            losses[name] = loss.plus(losses[name]) if name in losses else loss
        mine, theirs = (msgspec.structs.asdict(each.store) for each in (self, other))
        return StoreTotals(
            streams=streams,
            store=StoreStats(**{name: mine[name] + theirs[name] for name in mine}),
            sealed=self.sealed + other.sealed,
            archived=self.archived + other.archived,
            expired=self.expired + other.expired,
            tails=self.tails + other.tails,
            losses=losses,
            held_back={
                team: self.held_back.get(team, 0) + other.held_back.get(team, 0)
                for team in self.held_back | other.held_back
            },
        )


class Totals:
    """Follows what is appended to `store`. Use `start` before, `aclose` after."""

    def __init__(self, store: LogStore) -> None:
        self.streams: dict[str, Counts] = {}
        self._losses: deque[tuple[str, Loss]] = deque()
        self._store = store
        self._counted: dict[str, int] = {}
        self._worker = Searcher(1, nice=10)
        self._tasks = Background("log totals")

    def start(self) -> None:
        """Begin to count."""
        self._tasks.start(self._run())

    async def aclose(self) -> None:
        """Stop; counts end with the process."""
        await self._tasks.aclose()
        await self._worker.aclose()

    def losses(self, now: float) -> dict[str, Loss]:
        """By stream, what was lost within ALARM_SECONDS before `now`, unix seconds."""
        while self._losses and self._losses[0][1].at < now - ALARM_SECONDS:
            self._losses.popleft()
        recent: dict[str, Loss] = {}
        for name, loss in self._losses:
            recent[name] = loss.plus(recent[name]) if name in recent else loss
        return recent

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Count what was appended since the last time."""
        for stream, first in self._store.take_appended().items():
            try:
                await self._count(stream, self._counted.setdefault(stream, first))
            except LogError as error:
                _log.warning("log totals: %s; counted with what comes next", error)

    async def _count(self, stream: str, cursor: int) -> None:
        view = await self._store.view(stream)
        while cursor < view.next_number:
            work = Tally(view=view, cursor=cursor, stop=view.next_number)
            counts, cursor, wanted = await self._worker.tally(work)
            if wanted:
                await self._store.fetch(stream, wanted)
            name = OTHERS if "/" in stream else stream
            self.streams.setdefault(name, Counts()).add(counts)
            if counts.lost:
                self._losses.append((name, Loss(lines=counts.lost, at=time.time())))
                _log.warning("log stream %s: %d lines were lost, see the gaps in it", stream, counts.lost)
            self._counted[stream] = cursor
