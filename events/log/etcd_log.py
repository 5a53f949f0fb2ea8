"""The event log on etcd: the adapter that joins claims, pages and the process's one watch behind the port.

Knows keys and pages; batches are the codec's, group commit the writer's, joining catch-up and live the reader's.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping

import msgspec

from events.log.codec import decode_header
from events.log.errors import Fenced, LayoutMismatch, LogError
from events.log.etcd_claim import EtcdClaim, win_claim
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_hub import WatchHub
from events.log.keys import HASH_NAME, LAYOUT_FORMAT, Keys
from events.log.ledger import WINDOW
from events.log.port import OwnerRecord, PartitionWriter
from events.log.reader import RECHECK_S, LogReader
from events.log.records import Position, StoredEvent
from events.log.recovery import recover
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS, StoredBatch, Subscription
from events.log.writer import BatchingWriter, WriterLimits

DEFAULT_PARTITIONS = 16


class LogLayout(msgspec.Struct, frozen=True, kw_only=True):
    """What can never change once events are stored."""

    partitions: int
    hash: str = HASH_NAME
    format: int = LAYOUT_FORMAT


class EtcdStore:
    """Reading side: pages by key range with a tight upper bound, and the hub's live batches."""

    def __init__(self, client: EtcdClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self.hub = WatchHub(client, keys)

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        listing = await self._client.range(
            self._keys.batch(partition, base), self._keys.batch(partition, base + PAGE_OFFSETS), limit=PAGE_BATCHES
        )
        return [StoredBatch(self._base(item.key), item.mod_revision, item.value) for item in listing]

    async def tail_hint(self, partition: int) -> int:
        hint = await self._client.get(self._keys.tail_hint(partition))
        return int(hint.value) if hint is not None and hint.value.isdigit() else 0

    async def subscribe(self, partitions: Iterable[int]) -> Subscription:
        return self.hub.subscribe(partitions)

    def unsubscribe(self, subscription: Subscription) -> None:
        self.hub.unsubscribe(subscription)

    async def tail(self, partition: int) -> int:
        """Hop over keys alone from the hint; contiguous offsets make the first absent base the tail."""
        start = await self.tail_hint(partition)
        if start and await self._client.get(self._keys.batch(partition, start)) is None:
            start = 0
        while True:
            listing = await self._client.range(
                self._keys.batch(partition, start),
                self._keys.batch(partition, start + PAGE_OFFSETS),
                limit=PAGE_OFFSETS,
                keys_only=True,
            )
            if not listing.items:
                return start
            newest = await self._client.get(listing.items[-1].key)
            if newest is None:
                # Archived between the two reads: what is newer is still there.
                start = self._base(listing.items[-1].key) + 1
                continue
            base = self._base(newest.key)
            end = decode_header(newest.value, Position(partition, base)).end
            if end < start + PAGE_OFFSETS:
                return end
            start = end

    def _base(self, key: str) -> int:
        return int(key.rpartition("/")[2], 16)


class EtcdEventLog:
    """An `EventLog` on etcd. Use one per process and event loop; its client is shared by everything it does.

    `client` is for another way to reach etcd than the settings' endpoints (a simulated one); the log closes it.
    """

    def __init__(
        self,
        settings: EtcdSettings,
        *,
        partitions: int = DEFAULT_PARTITIONS,
        limits: WriterLimits | None = None,
        ledger_window: int = WINDOW,
        recheck_s: float = RECHECK_S,
        client: EtcdClient | None = None,
    ) -> None:
        self._partitions = partitions
        self._limits = limits
        self._ledger_window = ledger_window
        self._keys = Keys(settings.namespace)
        self.client = client or EtcdClient(settings)
        self._store = EtcdStore(self.client, self._keys)
        self._reader = LogReader(self._store, recheck_s=recheck_s)
        self._keepers: dict[BatchingWriter, asyncio.Task[None]] = {}

    @property
    def partitions(self) -> int:
        return self._partitions

    async def open(self) -> None:
        await self.client.open()
        wanted = LogLayout(partitions=self._partitions)
        await self.client.put_if_absent(self._keys.layout, msgspec.json.encode(wanted))
        stored = await self.client.get(self._keys.layout)
        found = None if stored is None else stored.value
        if found is None or msgspec.json.decode(found, type=LogLayout) != wanted:
            raise LayoutMismatch(
                f"{self._keys.layout}: expected {wanted}, found {found!r}; these are fixed when a log is made: "
                "configure this process like the log, or use another namespace"
            )

    async def close(self) -> None:
        for writer, keeper in list(self._keepers.items()):
            keeper.cancel()
            await writer.abort()
        await self._store.hub.close()
        await self.client.close()

    async def claim(self, partition: int, owner: str, *, force: bool = False) -> PartitionWriter:
        self._check(partition)
        claim = await win_claim(self.client, self._keys, partition, owner, force=force)
        try:
            recovered = await recover(self._store, partition, self._ledger_window)
        except LogError:
            await claim.give_up(None)
            raise
        writer = BatchingWriter(
            partition=partition, epoch=claim.record.epoch, recovered=recovered, slots=claim, limits=self._limits
        )
        self._keep(claim, writer)
        return writer

    def read(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredEvent]]:
        self._check(partition)
        return self._reader.read(partition, from_offset)

    def follow(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredEvent]]:
        return self.follow_all({partition: from_offset})

    def follow_all(self, from_offsets: Mapping[int, int]) -> AsyncIterator[list[StoredEvent]]:
        for partition in from_offsets:
            self._check(partition)
        return self._reader.follow_all(from_offsets)

    async def tail(self, partition: int) -> int:
        self._check(partition)
        return await self._store.tail(partition)

    async def owner_of(self, partition: int) -> OwnerRecord | None:
        self._check(partition)
        own = await self.client.get(self._keys.own(partition))
        return None if own is None else msgspec.json.decode(own.value, type=OwnerRecord)

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
