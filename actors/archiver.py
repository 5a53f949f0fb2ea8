"""Archiver: the Ray actor that keeps the event log within etcd's quota, and says how full it is. Only wires.

A process of its own: it holds segments of many MiB in memory, and its death must take nothing else along.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from actors.cluster.event_log import make_event_log
from actors.cluster.shell import ActorShell
from events.log.archive.keeper import ROUND_S, KeeperStatus, LogKeeper
from events.log.archive.manifest import SegmentManifest
from events.log.archive.meter import PartitionUse
from events.log.archive.space import Budget
from events.log.blobs import open_blobs
from events.log.errors import LogError
from events.log.etcd_members import EtcdMembers, MemberStatus

log = structlog.get_logger("archiver")

ARCHIVER = "archiver-0"


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """How the log is kept. `owners`: for each partition of `uses` who serves it and its epoch, ("", 0) for nobody."""

    budget: Budget
    status: KeeperStatus
    members: list[MemberStatus]
    uses: list[PartitionUse]
    owners: list[tuple[str, int]]
    archive: str


class Archiver(ActorShell):
    """One of a pool of one; a second one, while Ray replaces the first, does no harm."""

    async def open(self) -> None:
        """Connect, and begin the rounds."""
        settings = self.settings
        self._log = make_event_log(settings)
        await self._log.open()
        self._members = EtcdMembers(settings.etcd)
        await self._members.open()
        wanted = settings.log_settings
        self._keeper = LogKeeper(
            client=self._log.client,
            members=self._members,
            blobs=open_blobs(wanted.archive),
            partitions=settings.partitions,
            budget=wanted.budget,
            policy=wanted.policy,
            on_warning=lambda words: log.warning("the log needs attention", found=words),
        )
        self.keep(self._rounds(), "rounds")

    async def detail(self) -> str:
        try:
            status = await self._keeper.status()
        except LogError as error:
            return f"etcd does not answer: {error}"
        words = f"{status.space.share:.0%} of etcd's quota in use"
        if status.refusing:
            words += "; appends are refused"
        return f"{words}; {status.trouble}" if status.trouble else words

    async def fine(self) -> bool:
        """Not while appends are refused: then a person may have to look."""
        try:
            return not (await self._keeper.status()).refusing
        except LogError:
            return True

    async def report(self) -> LogReport:
        """How the log is kept now. Raises LogUnavailable."""
        await self.opened()
        owners = [await self._log.owner_of(partition) for partition in range(self.settings.partitions)]
        return LogReport(
            budget=self.settings.log_settings.budget,
            status=await self._keeper.status(),
            members=await self._members.statuses(),
            uses=await self._keeper.uses(),
            owners=[("", 0) if owner is None else (owner.owner, owner.epoch) for owner in owners],
            archive=self.settings.log_settings.archive.url,
        )

    async def archive(self, partitions: Sequence[int], everything: bool) -> list[tuple[int, SegmentManifest]]:
        """Archive now what may go, or `everything` but each partition's last batch: (partition, segment) each."""
        await self.opened()
        return [
            (partition, manifest)
            for partition in partitions
            for manifest in await self._keeper.archive([partition], everything=everything)
        ]

    async def _rounds(self) -> None:
        while True:
            try:
                await self._keeper.round()
            except LogError as error:
                log.info("etcd is away, the next round tries again", error=str(error))
            await asyncio.sleep(ROUND_S)
