"""EventlogPartition: the Ray actor around the log store and its TCP server. Lines never pass through Ray."""

import asyncio
import time
from functools import partial

import structlog

from actors.cluster.rates import Rate
from actors.cluster.shell import WORK, ActorShell
from actors.logs import relay
from actors.logs.archive import SegmentArchive
from actors.logs.intake.service import LogIntake
from actors.logs.keeper import Keeper, KeepSettings
from actors.logs.rules import NamedPolicies
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.logs.totals import StoreTotals, Totals
from events.log.blobs import open_blobs
from projections.database import Database
from projections.errors import ProjectionsError
from projections.queries import component_names, log_rules

log = structlog.get_logger("eventlog")

CHECK_SECONDS = 1.0
LEARN_SECONDS = 10.0


class EventlogPartition(ActorShell):
    """One of a pool, keyed by service_id; takes application, build and router lines, stores them, serves tails."""

    _server: EventlogServer
    _keeper: Keeper
    _store: LogStore
    _totals: Totals
    _rate: Rate

    async def open(self) -> None:
        """Open the store and listen; the address goes to a file that clients read at each connect."""
        settings = self.settings
        root = settings.data_dir / "logs"
        archive = SegmentArchive(open_blobs(settings.log_settings.archive), root)
        policies = NamedPolicies(settings.lines)
        database = Database(settings.database_url)
        await self._learn(policies, database)
        keep = KeepSettings(
            archive_seconds=settings.lines.archive_hours * 3600, local_bytes=settings.lines.local_mib << 20
        )
        store = self._store = LogStore(root, policies=policies, archive=archive, member=self.name)
        await store.start()
        self._keeper = Keeper(store, policies, archive, keep)
        self._keeper.start()
        self._server = EventlogServer(
            store,
            settings.log_token_file.read_text().strip(),
            port_file=settings.eventlog_addresses / f"{self.name}.addr",
            member=self.name,
            host=settings.reached_at,
            mesh_directory=settings.eventlog_addresses,
            policies=policies,
        )
        self._server.learn = partial(self._learn, policies, database)
        self._totals = Totals(store)
        self._totals.start()
        self._rate = Rate()
        self._server.totals = self._told
        await self._server.start()
        intake = LogIntake(
            settings.eventlog_addresses / f"{self.name}.grpc",
            settings.log_token_file.read_text().strip(),
            partial(relay.write, self._server),
        )
        await intake.start()
        self.keep(self._check(store), "check")
        self.keep(self._go_on_learning(policies, database), "names")

    @staticmethod
    async def _learn(policies: NamedPolicies, database: Database) -> None:
        """Whose streams they are; while the read models cannot be asked, what was known before stands."""
        try:
            names = await asyncio.to_thread(component_names, database)
            policies.learn(names, await asyncio.to_thread(log_rules, database))
        except ProjectionsError as error:
            log.warning("whose log streams they are is not known anew", error=str(error))

    async def _go_on_learning(self, policies: NamedPolicies, database: Database) -> None:
        while True:
            await asyncio.sleep(LEARN_SECONDS)
            await self._learn(policies, database)

    async def _check(self, store: LogStore) -> None:
        """A store that can commit no more must not go on taking lines."""
        while True:
            store.check()
            self._server.check()
            await asyncio.sleep(CHECK_SECONDS)

    async def drained(self) -> bool:
        """Store what is in hand, and answer nobody any more: its streams are found with the members that stay."""
        await self._keeper.aclose()
        await self._totals.aclose()
        await self._server.aclose()
        await self._store.aclose()
        return True

    async def gauges(self) -> dict[str, float]:
        """Lines a second are what the pool is scaled by."""
        rate = self._rate.of(float(self._store.stats.lines))
        return {WORK: rate, "lines_per_second": rate}

    def _told(self) -> StoreTotals:
        kept = self._keeper.stats
        return StoreTotals(
            streams=self._totals.streams,
            store=self._server.store.stats,
            sealed=kept.sealed,
            archived=kept.archived,
            expired=kept.expired,
            tails=self._server.stats.tails,
            losses=self._totals.losses(time.time()),
            held_back=self._server.shares.held_back,
        )

    async def detail(self) -> str:
        stats = self._server.stats
        members = 1 if self._server.mesh is None else len(self._server.mesh.loads())
        return (
            f"{members} members, {stats.connections} connections, {stats.tails} tails, {stats.refused_tokens} refused"
        )
