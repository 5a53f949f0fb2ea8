"""A log over a small etcd with the gate of its writer and its keeper, as the quota's tests want it."""

import os

from events.log.archive.keeper import LogKeeper
from events.log.archive.space import Budget
from events.log.blobs import BlobStore
from events.log.errors import LogFull, LogUnavailable
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_members import EtcdMembers
from events.log.port import PartitionWriter
from events.log.records import EventRecord
from tests.events.log.contract import event

MIB = 1 << 20


class Household:
    """A log, its writer's gate and its keeper, over one small etcd."""

    def __init__(self, settings: EtcdSettings, blobs: BlobStore, *, quota: int = 16 * MIB, gate: bool = True) -> None:
        self.budget = Budget(quota_bytes=quota)
        self.log = EtcdEventLog(settings, partitions=2, blobs=blobs, budget=self.budget if gate else None)
        self.members = EtcdMembers(settings)
        self.said: list[str] = []
        self.keeper = self.new_keeper(blobs)
        self.acked: list[int] = []
        self._writer: PartitionWriter | None = None
        self._version = 0

    def new_keeper(self, blobs: BlobStore) -> LogKeeper:
        return LogKeeper(
            client=self.log.client,
            members=self.members,
            blobs=blobs,
            partitions=2,
            budget=self.budget,
            on_warning=self.said.append,
        )

    async def __aenter__(self) -> "Household":
        await self.log.open()
        await self.members.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.members.close()
        await self.log.close()

    def noise(self, size: int) -> EventRecord:
        self._version += 1
        return event("s/1", self._version, os.urandom(size), command=f"c{self._version}")

    async def append(self, size: int = 100_000) -> None:
        """One event that cannot be compressed. What is refused or unknown is not counted, and is sent again."""
        if self._writer is None:
            self._writer = await self.log.claim(0, "a")
        noted = self.noise(size)
        while True:
            try:
                done = await self._writer.append(noted.command_id, [noted])
            except LogFull:
                self._version -= 1
                raise
            except LogUnavailable:
                await self.keeper.round()
                continue
            self.acked.append(done.first.offset)
            return

    async def fill(self) -> LogFull:
        """Append until the gate refuses."""
        while True:
            try:
                await self.append()
            except LogFull as refusal:
                return refusal
