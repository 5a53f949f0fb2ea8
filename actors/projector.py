"""Projector: the Ray actor that hosts the projector of the SQL read models. Only wires it to etcd and the database."""

import asyncio
from collections.abc import Sequence

from actors.cluster.event_log import make_event_log
from actors.cluster.rates import Rate
from actors.cluster.shell import WORK, ActorShell, Serving
from projections.database import Database
from projections.projector import Projector as ReadModels

CATCH_UP_SECONDS = 10.0  # what is behind should be folded within this time


class Projector(ActorShell):
    """One of a pool, keyed by partition: each folds the partitions that it is given, and their checkpoints are what
    keeps two from folding one."""

    _models: ReadModels

    async def open(self) -> None:
        """Bring the schema up to date; follow the log once there are partitions to follow."""
        database = Database(self.settings.database_url)
        await asyncio.to_thread(database.migrate)
        event_log = make_event_log(self.settings)
        await event_log.open()
        self._rate = Rate()
        hand = self.settings.platform_logs / f"{self.name}.hand"
        self._models = ReadModels(database, event_log, partitions=(), hand=hand)
        self.keep(self._models.run(), "follow")

    async def detail(self) -> str:
        if self._models.refused:
            return self._models.refused
        folded = f"{sum(self._models.positions().values())} events folded"
        return "; ".join((folded, *self._models.damaged.values()))

    async def fine(self) -> bool:
        """False while the log lacks what the read models have folded, or a part of it cannot be read."""
        return not self._models.refused and not self._models.damaged

    async def gauges(self) -> dict[str, float]:
        """Events a second, and those that are behind, are what the pool is scaled by."""
        behind = float(self._models.backlog)
        rate = self._rate.of(float(sum(self._models.positions().values())))
        return {WORK: rate + behind / CATCH_UP_SECONDS, "events_per_second": rate, "events_behind": behind}

    async def serving(self, streams: Sequence[str]) -> Serving:
        """The partitions that are folded here."""
        await self.opened()
        return Serving(partitions=self._models.partitions())

    async def assign(self, partitions: Sequence[int], streams: Sequence[str] = ()) -> Serving:
        """Fold exactly these partitions from now on."""
        await self.opened()
        await self._models.assign(partitions)
        return await self.serving(streams)

    async def rebuild(self, name: str) -> int:
        """Empty a read model, as far as it is folded here, and fold it again; returns the events read. Raises
        UnknownProjection."""
        await self.opened()
        return await self._models.rebuild(name)

    async def retry_parked(self, name: str, stream: str) -> str | None:
        """Fold what waits in a stream that a read model has set aside; returns why it still is, "" when it is not, None
        when it is not folded here. Raises UnknownProjection."""
        await self.opened()
        return await self._models.retry_parked(name, stream)
