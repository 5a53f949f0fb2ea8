"""A log in etcd and its archive, as it is walked for a backup or a verification. Reads only; the platform may run.

Knows keys and blobs; nothing of the backup's file, nor of what is done with what is read.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from events.log.archive.manifest import SegmentManifest
from events.log.blobs import BlobStore
from events.log.codec import decode_header
from events.log.errors import Compacted, EtcdRefused, LayoutMismatch, LogBroken, LogUnavailable
from events.log.etcd_claim import EpochRecord
from events.log.etcd_client import EtcdClient
from events.log.etcd_log import LogLayout
from events.log.etcd_store import EtcdStore
from events.log.etcd_wire import KeyValue
from events.log.keys import Keys
from events.log.records import Position
from events.log.store import PAGE_OFFSETS, SeenLow, StoredBatch
from events.log.verify import SnapshotRef

CUT_TRIES = 5
"""A compaction may pass the revision between choosing it and reading at it; one comes every few minutes."""


class Cut(NamedTuple):
    """Every partition's tail as it was at one revision of etcd: nothing in it without what caused it."""

    revision: int
    tails: tuple[int, ...]


class EtcdLogSource:
    """A `VerifiableLog`. Use as one per process; closes nothing that it is given."""

    def __init__(self, client: EtcdClient, blobs: BlobStore, layout: LogLayout) -> None:
        self.client = client
        self.keys = Keys(client.settings.namespace)
        self.layout = layout
        self._blobs = blobs
        self._store = EtcdStore(client, self.keys)

    @classmethod
    async def open(cls, client: EtcdClient, blobs: BlobStore) -> "EtcdLogSource":
        """The log of the client's namespace. Raises LayoutMismatch if there is none."""
        key = Keys(client.settings.namespace).layout
        stored = await client.get(key)
        if stored is None:
            raise LayoutMismatch(f"expected a log, found no {key} in etcd; name another namespace or data directory")
        try:
            return cls(client, blobs, msgspec.json.decode(stored.value, type=LogLayout))
        except msgspec.MsgspecError as error:
            raise LogBroken(f"{key}: expected a log's layout, found {stored.value[:200]!r}: {error}") from error

    @property
    def partitions(self) -> int:
        return self.layout.partitions

    async def manifests(self, partition: int, base: int) -> Sequence[SegmentManifest]:
        return await self._store.manifests(partition, base)

    async def blob(self, location: str) -> bytes:
        return await self._blobs.get(location)

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        return await self._store.page(partition, base)

    async def bases(self, partition: int, start: int, end: int) -> Sequence[int]:
        return await self._store.bases(partition, start, end)

    async def low(self, partition: int) -> SeenLow:
        return await self._store.low(partition)

    async def tail_hint(self, partition: int) -> int:
        return await self._store.tail_hint(partition)

    async def snapshot(self, partition: int) -> SnapshotRef | None:
        key = self.keys.snapshot(partition)
        stored = await self.client.get(key)
        if stored is None:
            return None
        try:
            return msgspec.json.decode(stored.value, type=SnapshotRef)
        except msgspec.MsgspecError as error:
            raise LogBroken(f"{key}: expected a snapshot's record, found {stored.value[:200]!r}: {error}") from error

    def hot_place(self, partition: int) -> str:
        return "etcd " + self.keys.batch(partition, 0).removesuffix("0" * 16)

    # -- what a backup needs besides

    async def cut(self) -> Cut:
        """The tails as of now. Raises LogUnavailable."""
        for _ in range(CUT_TRIES):
            revision = await self.client.revision()
            try:
                tails = await asyncio.gather(*(self._tail_at(p, revision) for p in range(self.partitions)))
                return Cut(revision, tuple(tails))
            except (Compacted, EtcdRefused):
                continue
        raise LogUnavailable(f"expected to read the tails at one revision, found it compacted {CUT_TRIES} times; retry")

    async def epoch(self, partition: int) -> tuple[EpochRecord, int]:
        """The fence, and the revision it was written at; epoch 0 at revision 0 if the partition was never claimed."""
        stored = await self.client.get(self.keys.epoch(partition))
        if stored is None:
            return EpochRecord(epoch=0, claim_id="", owner=""), 0
        return msgspec.json.decode(stored.value, type=EpochRecord), stored.mod_revision

    async def wrapped_keys(self) -> list[KeyValue]:
        """Teams' wrapped keys and the name of the master key that wraps them, never that key."""
        master = await self.client.get(self.keys.root + "master_key")
        teams = await self.client.get_prefix(self.keys.root + "keys/")
        return [*teams, *([] if master is None else [master])]

    async def _tail_at(self, partition: int, revision: int) -> int:
        start = await self._tail_start(partition, revision)
        while True:
            keys = await self._range(partition, start, PAGE_OFFSETS, PAGE_OFFSETS, revision, keys_only=True)
            if not keys:
                return start
            base = int(keys[-1].key.rpartition("/")[2], 16)
            (newest,) = await self._range(partition, base, 1, 1, revision)
            start = decode_header(newest.value, Position(partition, base)).end

    async def _tail_start(self, partition: int, revision: int) -> int:
        """The hint if a batch was there, else the first batch that is hot: an older revision has that one too."""
        hint = await self.tail_hint(partition)
        if hint and await self._range(partition, hint, 1, 1, revision):
            return hint
        return (await self.low(partition)).first_hot

    async def _range(
        self, partition: int, base: int, offsets: int, limit: int, revision: int, *, keys_only: bool = False
    ) -> tuple[KeyValue, ...]:
        start, end = self.keys.batch(partition, base), self.keys.batch(partition, base + offsets)
        listing = await self.client.range(start, end, limit=limit, keys_only=keys_only, revision=revision)
        return listing.items
