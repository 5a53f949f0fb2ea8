"""Whose query is next: so many at once over all teams, fewer of one, and a short queue for each.

A team that asks much waits for itself and nobody else. Knows teams by name and nothing of queries.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.logs.errors import TooManyQueries

AT_ONCE = 8
TEAM_AT_ONCE = 2
TEAM_WAITING = 16
WAIT_SECONDS = 20.0


class Turns:
    """Hands out turns; what one may do with it is bounded by whoever takes it."""

    def __init__(self, *, at_once: int = AT_ONCE, team_at_once: int = TEAM_AT_ONCE) -> None:
        self._all = asyncio.Semaphore(at_once)
        self._team_at_once = team_at_once
        self._teams: dict[str, asyncio.Semaphore] = {}
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def turn(self, team: str) -> AsyncIterator[None]:
        """Wait for a turn of `team` and hold it. Raises TooManyQueries."""
        users = self._users.get(team, 0)
        if users >= self._team_at_once + TEAM_WAITING:
            raise TooManyQueries(f"{users} queries of this team are under way or wait; ask again when one has ended")
        self._users[team] = users + 1
        try:
            async with _within(self._teams.setdefault(team, asyncio.Semaphore(self._team_at_once))), _within(self._all):
                yield
        finally:
            self._users[team] -= 1
            if not self._users[team]:
                del self._users[team], self._teams[team]


@asynccontextmanager
async def _within(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await turns.acquire()
    except TimeoutError:
        raise TooManyQueries(f"no turn for this query came within {WAIT_SECONDS:.0f} s; ask again later") from None
    try:
        yield
    finally:
        turns.release()
