"""One member's view of the pool: which streams are its own, whom to ask for the others, what it ought to give away.

Where a stream is follows, in this order, from who has it open here, who said that it has it, who claimed it last, and
the placement of a new one. Views may differ for a moment; the claim decides, and the loser is told.
"""

import asyncio
import time
from collections.abc import Callable

from actors.logs.errors import StreamMoved
from actors.logs.mesh import Mesh
from actors.logs.placement import place, to_give
from actors.logs.store import LogStore

REVIEW_SECONDS = 2.0
_HALF_LIFE_SECONDS = 5.0


class Rates:
    """Bytes a second of each stream, fading with time, so that a burst of a moment moves nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: dict[str, tuple[float, float]] = {}
        self._total = (0.0, clock())

    def add(self, stream: str, size: int) -> None:
        """Count `size` bytes that were taken for `stream`."""
        now = self._clock()
        per_second = size / _HALF_LIFE_SECONDS * 0.6931
        self._streams[stream] = (self._faded(self._streams.get(stream, (0.0, now)), now) + per_second, now)
        self._total = (self._faded(self._total, now) + per_second, now)

    def total(self) -> float:
        """Bytes a second of all."""
        return self._faded(self._total, self._clock())

    def of(self, streams: list[str]) -> dict[str, float]:
        """Bytes a second of each; what is not among `streams` any more is forgotten."""
        now = self._clock()
        rates = {name: self._faded(self._streams[name], now) for name in streams if name in self._streams}
        self._streams = {name: self._streams[name] for name in rates}
        return {name: rates.get(name, 0.0) for name in streams}

    @staticmethod
    def _faded(value: tuple[float, float], now: float) -> float:
        rate, at = value
        return float(rate * 0.5 ** ((now - at) / _HALF_LIFE_SECONDS))


class PoolMember:
    """Routes for one server. `run` beside it gives away what belongs elsewhere."""

    def __init__(self, store: LogStore, mesh: Mesh, rates: Rates) -> None:
        self._store = store
        self._mesh = mesh
        self._rates = rates

    async def elsewhere(self, stream: str) -> str:
        """The member to ask for the stream; empty when it is this one. Raises StorageFailed."""
        if self._store.has(stream):
            return ""
        owner = self._mesh.owner_of(stream)
        loads = self._mesh.loads()
        if owner is None:
            owner = await asyncio.to_thread(self._store.owner_of, stream)
        if owner not in loads:
            owner = place(stream, loads)
        if owner != self._mesh.member:
            return owner
        self._store.take(stream)
        if self._mesh.owner_of(stream) != owner:
            await self._mesh.tell(stream, owner)
        return ""

    async def must_be_here(self, stream: str) -> None:
        """Raises StreamMoved with the address of whoever has it."""
        if member := await self.elsewhere(stream):
            message = f"expected the writer of {stream}, found another member of the pool; ask {member}"
            raise StreamMoved(message, self._mesh.address_of(member))

    async def run(self) -> None:
        """For ever: leave streams to members that have joined, and to others while this one is loaded."""
        seen = frozenset(self._mesh.loads())
        while True:
            await asyncio.sleep(REVIEW_SECONDS)
            self._mesh.check()
            loads = self._mesh.loads()
            joined, seen = frozenset(loads) - seen, frozenset(loads)
            rates = self._rates.of(self._store.open_streams())
            for stream, member in to_give(self._mesh.member, rates, loads, joined).items():
                await self._store.give(stream, member)
                await self._mesh.tell(stream, member)
