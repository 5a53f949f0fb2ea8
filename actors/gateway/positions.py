"""Which log positions Envoy has taken: the catalog's generations translated back into the vector of offsets.

Knows generations and offsets only; who acknowledges them is the session's business.
"""

import asyncio
from collections import deque

from actors.gateway.errors import NotAppliedError
from events.log.records import Position

MAX_PENDING = 4096
"""Generations remembered one by one while Envoy is behind."""


class AppliedPositions:
    """A vector of offsets by partition that only grows, and waiters for it."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, dict[int, int]]] = deque()
        self._applied: dict[int, int] = {}
        self._settled = -1
        self._waiters: dict[Position, list[asyncio.Future[None]]] = {}

    @property
    def applied(self) -> dict[int, int]:
        return dict(self._applied)

    def record(self, generation: int, partition: int, offset: int) -> None:
        """Note that `partition:offset` is applied once `generation` is settled."""
        if generation <= self._settled:
            self._raise_to(partition, offset)
            return
        if not self._pending or self._pending[-1][0] != generation:
            self._pending.append((generation, {}))
        vector = self._pending[-1][1]
        vector[partition] = max(offset, vector.get(partition, -1))
        if len(self._pending) > MAX_PENDING:
            self._merge_oldest()

    def settle(self, generation: int) -> None:
        """Note that Envoy holds everything up to `generation`; a lower one than before means a new conversation."""
        self._settled = generation
        while self._pending and self._pending[0][0] <= generation:
            for partition, offset in self._pending.popleft()[1].items():
                self._raise_to(partition, offset)

    async def wait(self, position: Position, timeout: float) -> None:
        """Return once `position` is applied; raises NotAppliedError after `timeout` seconds."""
        if self._applied.get(position.partition, -1) >= position.offset:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(position, []).append(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError as error:
            found = self._applied.get(position.partition)
            raise NotAppliedError(
                f"expected Envoy to have applied {position} within {timeout:g} s, found offset {found} of partition "
                f"{position.partition}; look at the gateway's health for a lost connection or a rejection"
            ) from error
        finally:
            waiters = self._waiters.get(position, [])
            if future in waiters:
                waiters.remove(future)
            if not waiters:
                self._waiters.pop(position, None)

    def _merge_oldest(self) -> None:
        """Tell two generations' positions together with the later: while Envoy is away this must not grow for ever."""
        _, older = self._pending.popleft()
        vector = self._pending[0][1]
        for partition, offset in older.items():
            vector[partition] = max(offset, vector.get(partition, -1))

    def _raise_to(self, partition: int, offset: int) -> None:
        if offset <= self._applied.get(partition, -1):
            return
        self._applied[partition] = offset
        due = [at for at in self._waiters if at.partition == partition and at.offset <= offset]
        for position in due:
            for future in self._waiters.pop(position):
                if not future.done():
                    future.set_result(None)
