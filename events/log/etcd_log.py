"""The event log on etcd: the adapter that joins claims, pages and the process's one watch behind the port.

Knows keys and pages; batches are the codec's, group commit the writer's, joining catch-up and live the reader's.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import msgspec

from events.log.archive.cold import ColdSegments
from events.log.archive.space import Budget, MeteredSlots, SpaceWatch
from events.log.archive.tiers import TieredStore
from events.log.blobs import BlobStore
from events.log.errors import EtcdRefused, Fenced, LayoutMismatch, LogError, LogUnavailable, RestoreUnfinished
from events.log.etcd_claim import ATTEMPT_TIMEOUT_S, EtcdClaim, win_claim
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_group import GroupCommit
from events.log.etcd_members import EtcdMembers
from events.log.etcd_store import EtcdStore
from events.log.etcd_wire import ModRevisionIs, Put
from events.log.keys import HASH_NAME, LAYOUT_FORMAT, Keys
from events.log.ledger import WINDOW
from events.log.pace import Pace
from events.log.port import Followed, OnDamage, OwnerRecord, PartitionWriter
from events.log.reader import RECHECK_S, LogReader
from events.log.records import StoredEvent
from events.log.recovery import recover
from events.log.runs import Runs
from events.log.snapshots.shelf import SnapshotShelf
from events.log.store import StoredBatch
from events.log.writer import BatchingWriter, WriterLimits

DEFAULT_PARTITIONS = 16


class LogLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What can never change once events are stored."""

    partitions: int
    hash: str = HASH_NAME
    format: int = LAYOUT_FORMAT


class EtcdEventLog:
    """An `EventLog` on etcd. Use one per process and event loop; its client is shared by everything it does.

    `pace`: how often this process's writers begin a transaction; without one, as soon as the last is done.
    `client` and `members` are for another way to reach etcd than the settings' endpoints (a simulated one); the log
    closes them.
    """

    def __init__(
        self,
        settings: EtcdSettings,
        *,
        partitions: int = DEFAULT_PARTITIONS,
        blobs: BlobStore | None = None,
        budget: Budget | None = None,
        limits: WriterLimits | None = None,
        ledger_window: int = WINDOW,
        recheck_s: float = RECHECK_S,
        pace: Pace | None = None,
        client: EtcdClient | None = None,
        members: EtcdMembers | None = None,
    ) -> None:
        self._partitions = partitions
        self._limits = limits
        self._ledger_window = ledger_window
        self._keys = Keys(settings.namespace)
        self.client = client or EtcdClient(settings)
        self._appends = GroupCommit(self.client, ATTEMPT_TIMEOUT_S, pace)
        self._pace = pace
        self._store = EtcdStore(self.client, self._keys)
        self._blobs = blobs
        self._tiers = TieredStore(self._store, ColdSegments(self._store.manifests, blobs))
        self._reader = LogReader(self._tiers, recheck_s=recheck_s)
        self._keepers: dict[BatchingWriter, asyncio.Task[None]] = {}
        self._members = members or EtcdMembers(settings)
        self._space = None if budget is None else SpaceWatch(self._members, budget)
        self._space_lock = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    @property
    def partitions(self) -> int:
        return self._partitions

    async def open(self) -> None:
        await self.client.open()
        wanted = LogLayout(partitions=self._partitions)
        # Looked at first: an etcd without space takes no put, and whoever is to make room there must get in.
        stored = await self.client.get(self._keys.layout)
        if stored is None:
            # Not while a backup is being restored: half a log must be neither read nor written.
            free = [ModRevisionIs(self._keys.layout, 0), ModRevisionIs(self._keys.restore, 0)]
            await self.client.txn(when=free, then=[Put(self._keys.layout, msgspec.json.encode(wanted))])
            stored = await self.client.get(self._keys.layout)
        if stored is None:
            raise RestoreUnfinished(
                f"expected a log or an empty namespace, found {self._keys.restore}: a restore has not ended; run the "
                "same rayfold backup restore again, or take an empty data directory"
            )
        found = stored.value
        if msgspec.json.decode(found, type=LogLayout) != wanted:
            raise LayoutMismatch(
                f"{self._keys.layout}: expected {wanted}, found {found!r}; these are fixed when a log is made: "
                "configure this process like the log, or use another namespace"
            )

    async def close(self) -> None:
        for writer, keeper in list(self._keepers.items()):
            keeper.cancel()
            await writer.abort()
        await self._appends.close()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
        await self._members.close()
        await self._store.hub.close()
        await self.client.close()

    async def claim(self, partition: int, owner: str, *, force: bool = False) -> PartitionWriter:
        self._check(partition)
        claim = await win_claim(
            self.client, self._appends, self._keys, partition, owner, force=force, archived=self._tiers.batch
        )
        epoch = claim.record.epoch
        shelf: SnapshotShelf | None = None
        if self._blobs is not None:
            shelf = SnapshotShelf(partition=partition, epoch=epoch, blobs=self._blobs, pointer=claim)
        try:
            snapshot = await shelf.load() if shelf else None
            recovered = await recover(self._tiers, partition, self._ledger_window, snapshot)
        except LogError:
            await claim.give_up(None)
            raise
        space = await self._watch_space()
        writer = BatchingWriter(
            partition=partition,
            epoch=epoch,
            recovered=recovered,
            slots=claim if space is None else MeteredSlots(claim, space),
            limits=self._limits,
            refuse=(lambda: None) if space is None else space.refuse,
            snapshots=shelf,
            pace=self._pace,
        )
        self._keep(claim, writer)
        return writer

    def read(self, partition: int, from_offset: int, *, stream: str | None = None) -> AsyncIterator[list[StoredEvent]]:
        self._check(partition)
        return self._reader.read(partition, from_offset, stream=stream)

    def read_to_fold(self, partition: int, from_offset: int) -> AsyncIterator[Sequence[StoredBatch] | Runs]:
        self._check(partition)
        return self._tiers.read_to_fold(self._reader, partition, from_offset)

    def follow(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredEvent]]:
        return self.follow_all({partition: from_offset})

    def follow_all(
        self, from_offsets: Mapping[int, int], on_damage: OnDamage | None = None
    ) -> AsyncIterator[list[StoredEvent]]:
        for partition in from_offsets:
            self._check(partition)
        return self._reader.follow_all(from_offsets, on_damage)

    def follow_types(
        self, from_offsets: Mapping[int, int], types: Collection[str], on_damage: OnDamage | None = None
    ) -> AsyncIterator[Followed]:
        for partition in from_offsets:
            self._check(partition)
        return self._reader.follow_types(from_offsets, types, on_damage)

    async def tail(self, partition: int) -> int:
        self._check(partition)
        return await self._store.tail(partition)

    async def owner_of(self, partition: int) -> OwnerRecord | None:
        self._check(partition)
        own = await self.client.get(self._keys.own(partition))
        return None if own is None else msgspec.json.decode(own.value, type=OwnerRecord)

    async def _watch_space(self) -> SpaceWatch | None:
        """The gate of this process's writers, watched from the first claim on."""
        if self._space is None:
            return None
        async with self._space_lock:
            if self._watching is None:
                await self._members.open()
                try:
                    await self._space.refresh()
                except (LogUnavailable, EtcdRefused):
                    # It goes on trying; until it knows more it refuses nothing.
                    pass
                self._watching = asyncio.create_task(self._space.run(), name="log-space")
        return self._space

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"expected a partition from 0 to {self._partitions - 1}, found {partition}")

    def _keep(self, claim: EtcdClaim, writer: BatchingWriter) -> None:
        """Run the claim's keeper for as long as the writer lives."""

        async def keep_until_closed() -> None:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(claim.keep(writer.notice_fence))
                await writer.ended()
                keeping.cancel()

        keeper = asyncio.create_task(keep_until_closed(), name=f"log-keeper-{claim.partition}")
        self._keepers[writer] = keeper
        keeper.add_done_callback(lambda done: self._on_keeper_done(writer, done))

    def _on_keeper_done(self, writer: BatchingWriter, keeper: "asyncio.Task[None]") -> None:
        self._keepers.pop(writer, None)
        if not keeper.cancelled() and (error := keeper.exception()) is not None:
            # Without its keeper the owner record lapses and this writer would look dead while it writes: stop it.
            writer.notice_fence(Fenced(f"partition {writer.partition}: the keeper of its claim died of {error!r}"))
