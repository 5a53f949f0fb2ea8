"""How large each pool should be: as it was started, unless the log says otherwise, and as its work asks where told so.

What the log says is told by whoever owns the pool's stream; nothing here reads or writes it.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from actors.cluster.autoscale import SHRINK_AFTER_SECONDS, Measure, Wanted, resize
from actors.cluster.machines import Machine
from actors.cluster.pools import Pool
from actors.cluster.shell import WORK, Health
from events.model.pool import PoolState


class PoolReport(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as it is. `most`: no more are of use; `measured`: whether its size can follow its work; `state`: what was
    decided about it; `work`: in actors, as measured."""

    name: str
    size: int
    most: int
    why_most: str
    measured: bool
    per_node: bool
    state: PoolState
    actors: list[Health]
    draining: list[str]
    partitions: dict[str, list[int]]
    moving: int
    work: float


class Sizes:
    """Of all pools. `known` once the log has been heard: until then nothing may be ended."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._states: dict[str, PoolState] = {pool.name: PoolState(name=pool.name) for pool in pools}
        self._measures: dict[str, deque[Measure]] = {pool.name: deque() for pool in pools}
        self._changed_at: dict[str, float] = {}
        self._last: dict[str, int] = {}
        self.known = False

    def learn(self, state: PoolState) -> None:
        """What the log says of a pool; of one that is not there it says nothing here."""
        if state.name in self._states:
            self._states[state.name] = state

    def of(self, pool: Pool) -> int:
        """The wanted size."""
        return min(self._states[pool.name].size or pool.size, max(pool.most, pool.size))

    def resized(self, pool: Pool, actors: Sequence[Health], now: float) -> Wanted | None:
        """Measure a pool's work; another size for it, if it follows its work and that asks for one."""
        size = self.of(pool)
        if self._last.setdefault(pool.name, size) != size:
            self._last[pool.name], self._changed_at[pool.name] = size, now
        measures = self._measures[pool.name]
        if pool.unit <= 0 or len(actors) < size:
            return None  # who does not answer cannot say what it has to do
        work = sum(actor.gauges.get(WORK, 0.0) for actor in actors) / pool.unit
        measures.append(Measure(at=now, work=work, words=f"work for {work:.1f} of {pool.name}"))
        while measures[0].at < now - 2 * SHRINK_AFTER_SECONDS:
            measures.popleft()
        state = self._states[pool.name]
        if not state.automatic or not self.known:
            return None
        return resize(
            size=size,
            least=min(state.least, pool.most),
            most=min(state.most, pool.most),
            scaled_at=self._changed_at.get(pool.name, 0.0),
            measures=measures,
        )

    def report(
        self,
        pool: Pool,
        *,
        size: int,
        machines: Sequence[Machine],
        actors: list[Health],
        draining: list[str],
        partitions: dict[str, list[int]],
        moving: int,
    ) -> PoolReport:
        """What is to be told of a pool."""
        there = len(machines)
        few = f", and there {'is 1 machine' if there == 1 else f'are {there} machines'}" if pool.one_a_machine else ""
        measures = self._measures[pool.name]
        return PoolReport(
            name=pool.name,
            size=size,
            most=pool.most_on(machines),
            why_most=f"{pool.why_most}{few}",
            measured=pool.unit > 0,
            per_node=pool.per_node,
            state=self._states[pool.name],
            actors=actors,
            draining=draining,
            partitions=partitions,
            moving=moving,
            work=measures[-1].work if measures else 0.0,
        )
