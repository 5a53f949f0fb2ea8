"""One member's view of the pool: which streams are its own, whom to ask for the others, what it ought to give away.

Where a stream is follows, in this order, from who has it open here, who said that it has it, who claimed it last, and
the placement of a new one. Views may differ for a moment; the claim decides, and the loser is told.
"""

import asyncio

from actors.logs.errors import StreamMoved
from actors.logs.mesh import Mesh
from actors.logs.placement import place, to_give
from actors.logs.rates import Rates
from actors.logs.store import LogStore

REVIEW_SECONDS = 2.0
HALF_LIFE_SECONDS = 5.0
"""Of the rates that placement looks at: a burst of a moment moves no stream."""


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
