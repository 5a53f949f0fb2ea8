"""How fast each team's lines are taken: within its own rate, and by turns with other teams where there is no room.

Whoever is too fast is acknowledged later and so sends later; nobody else waits for that. A team's rate is one for all
members of the pool, who tell each other how much of it each takes. Knows teams and bytes only.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from actors.logs.errors import TooFast
from actors.logs.rates import Rates

LONGEST_WAIT_SECONDS = 4.0
"""So long an acknowledgement is held back at most: less than a client waits for one. Beyond it lines are refused."""
BURST_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 30.0
_FORGET_ABOVE = 4_096
_HALF_LIFE_SECONDS = 1.0
_WORTH_TELLING = 1024.0
"""Bytes a second below which other members need not know of a team here."""


def allowed_here(per_second: float, elsewhere: Sequence[float]) -> float:
    """A member's part of a team's rate, where others take `elsewhere` of it, each as many bytes a second.

    Max-min fair: what others do not want is theirs who do, in even parts. It is computed from what was taken, so
    members that learn of each other come to it step by step, and none has less than an even part of the whole.
    """
    left, members = per_second, 1 + len(elsewhere)
    for rate in sorted(elsewhere):
        if rate * members >= left:
            break
        left -= rate
        members -= 1
    return left / members


class _Bucket:
    """What a team has sent beyond its rate, in bytes, at a time."""

    __slots__ = ("at", "debt")

    def __init__(self, at: float) -> None:
        self.at = at
        self.debt = 0.0


class Shares:
    """`room`: bytes that all teams together may have under way."""

    def __init__(self, room: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.held_back: dict[str, int] = {}
        """Appends of each team that waited or were refused."""
        self._room = room
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._under_way: dict[str, int] = {}
        self._taken = Rates(_HALF_LIFE_SECONDS, clock)

    def rates(self) -> dict[str, float]:
        """Bytes a second taken of each team that has a rate and sends enough to matter elsewhere."""
        taken = self._taken.of(self._buckets).items()
        return {team: rate for team, rate in taken if rate >= _WORTH_TELLING}

    def enter(self, team: str, size: int, per_second: float, *, must: bool = False) -> float:
        """Take `size` bytes of `team`; `leave` gives them back. The seconds after which they may be acknowledged.

        `per_second` 0: no limit. `must`: what nobody can hold back, such as lines of the gateway; it only counts.
        Raises TooFast, and has taken nothing.
        """
        bucket = self._bucket(team, per_second)
        wait = max(bucket.debt + size - per_second * BURST_SECONDS, 0.0) / per_second if per_second else 0.0
        own = self._under_way.get(team, 0)
        if not must:
            # Where there is no debt even the largest batch is taken: it could not come in smaller ones.
            if bucket.debt and wait > LONGEST_WAIT_SECONDS:
                self._count(team)
                again = min(wait - LONGEST_WAIT_SECONDS, bucket.debt / per_second, LONGEST_RETRY_SECONDS)
                raise TooFast(f"team {team} prints more than {per_second / 1024:.0f} KiB/s", again)
            if own and own + size > self._share(team):
                self._count(team)
                raise TooFast(f"team {team} has {own} bytes under way, its share of what there is room for")
        if wait:
            self._count(team)
        bucket.debt += size
        if per_second:
            self._taken.add(team, size)
        self._under_way[team] = own + size
        return 0.0 if must else min(wait, LONGEST_WAIT_SECONDS)

    def leave(self, team: str, size: int) -> None:
        """So many bytes of `team` are durable, or refused."""
        left = self._under_way.get(team, 0) - size
        if left > 0:
            self._under_way[team] = left
        else:
            self._under_way.pop(team, None)

    def _share(self, team: str) -> int:
        """Half the room where no other team has any under way, and less the more there are: one finds room always."""
        return self._room // (1 + len(self._under_way.keys() | {team}))

    def _bucket(self, team: str, per_second: float) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(team, _Bucket(now))
        self._buckets.move_to_end(team)
        bucket.debt = max(bucket.debt - (now - bucket.at) * per_second, 0.0) if per_second else 0.0
        bucket.at = now
        while len(self._buckets) > _FORGET_ABOVE:
            self._buckets.popitem(last=False)
        return bucket

    def _count(self, team: str) -> None:
        self.held_back[team] = self.held_back.get(team, 0) + 1
