"""Projector: the Ray actor that hosts the projector of the SQL read models. Only wires it to etcd and the database."""

import asyncio

from actors.cluster.event_log import make_event_log
from actors.cluster.shell import ActorShell
from projections.database import Database
from projections.projector import Projector as ReadModels


class Projector(ActorShell):
    """One of a pool, keyed by partition; this first pool has one, which folds them all."""

    _models: ReadModels

    async def open(self) -> None:
        """Bring the schema up to date and follow the log."""
        database = Database(self.settings.database_url)
        await asyncio.to_thread(database.migrate)
        event_log = make_event_log(self.settings)
        await event_log.open()
        self._models = ReadModels(database, event_log)
        self.keep(self._models.run(), "follow")

    async def detail(self) -> str:
        return self._models.refused or f"{sum(self._models.positions().values())} events folded"

    async def fine(self) -> bool:
        """False while the log lacks what the read models have folded."""
        return not self._models.refused

    async def rebuild(self, name: str) -> int:
        """Empty a read model and fold it again; returns the events read. Raises UnknownProjection."""
        await self.opened()
        return await self._models.rebuild(name)
