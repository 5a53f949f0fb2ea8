"""The reading and archiving side of the log on etcd: pages by key range, the live hub, the low mark, segments' records.

Knows keys and transactions; nothing of claims, nor of what is in a segment.
"""

from collections.abc import Iterable, Sequence

import msgspec

from events.log.archive.manifest import LowMark, SegmentManifest, decode_low, decode_manifest, encode
from events.log.codec import decode_header
from events.log.errors import LogBroken
from events.log.etcd_client import EtcdClient
from events.log.etcd_hub import WatchHub
from events.log.etcd_wire import Delete, ModRevisionIs, Put, VersionIs
from events.log.keys import Keys
from events.log.records import Position
from events.log.store import (
    DELETES_AT_ONCE,
    MANIFESTS_AT_ONCE,
    PAGE_BATCHES,
    PAGE_OFFSETS,
    SeenLow,
    StoredBatch,
    Subscription,
)


class _SnapshotOffset(msgspec.Struct, frozen=True):
    """The one field of a snapshot's record that matters here."""

    offset: int


class EtcdStore:
    """A `HotStore`."""

    def __init__(self, client: EtcdClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self.hub = WatchHub(client, keys)

    # -- reading

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        listing = await self._client.range(
            self._keys.batch(partition, base), self._keys.batch(partition, base + PAGE_OFFSETS), limit=PAGE_BATCHES
        )
        return [StoredBatch(_base(item.key), item.mod_revision, item.value) for item in listing]

    async def tail_hint(self, partition: int) -> int:
        hint = await self._client.get(self._keys.tail_hint(partition))
        return int(hint.value) if hint is not None and hint.value.isdigit() else 0

    async def subscribe(self, partitions: Iterable[int]) -> Subscription:
        return self.hub.subscribe(partitions)

    def unsubscribe(self, subscription: Subscription) -> None:
        self.hub.unsubscribe(subscription)

    async def tail(self, partition: int) -> int:
        """Hop over keys alone from the hint; contiguous offsets make the first absent base the tail."""
        start = await self._tail_start(partition)
        while True:
            listing = await self._client.range(
                self._keys.batch(partition, start),
                self._keys.batch(partition, start + PAGE_OFFSETS),
                limit=PAGE_OFFSETS,
                keys_only=True,
            )
            # Archived between two reads: what is newer is still there, from the mark on.
            newest = await self._client.get(listing.items[-1].key) if listing.items else None
            if newest is None:
                first_hot = (await self.low(partition)).first_hot
                if first_hot <= start:
                    return start
                start = first_hot
                continue
            base = _base(newest.key)
            end = decode_header(newest.value, Position(partition, base)).end
            if end < start + PAGE_OFFSETS:
                return end
            start = end

    async def _tail_start(self, partition: int) -> int:
        """The hint if a batch is hot there, else the first hot batch's base."""
        hint = await self.tail_hint(partition)
        if hint and await self._client.get(self._keys.batch(partition, hint)) is not None:
            return hint
        return (await self.low(partition)).first_hot

    # -- archiving

    async def low(self, partition: int) -> SeenLow:
        key = self._keys.low(partition)
        stored = await self._client.get(key)
        mark = decode_low(None if stored is None else stored.value, key)
        return SeenLow(mark.first_hot, 0 if stored is None else stored.mod_revision)

    async def batch(self, partition: int, base: int) -> StoredBatch | None:
        stored = await self._client.get(self._keys.batch(partition, base))
        return None if stored is None else StoredBatch(base, stored.mod_revision, stored.value)

    async def manifests(self, partition: int, base: int) -> list[SegmentManifest]:
        # No segment begins at or beyond the mark: a tight end, and room for the index to stop.
        end = (await self.low(partition)).first_hot
        if end <= base:
            return []
        listing = await self._client.range(
            self._keys.segment(partition, base), self._keys.segment(partition, end), limit=MANIFESTS_AT_ONCE
        )
        return [decode_manifest(item.value, item.key) for item in listing]

    async def record(self, partition: int, seen: SeenLow, manifest: SegmentManifest) -> bool:
        if manifest.base != seen.first_hot:
            raise LogBroken(
                f"partition {partition}: expected a segment from {seen.first_hot} on, found one from {manifest.base}"
            )
        segment = self._keys.segment(partition, manifest.base)
        mark = LowMark(first_hot=manifest.end, archived_through=manifest.end - 1)
        answer = await self._client.txn(
            when=[
                # Of two archivers one wins; a late copy of this transaction changes nothing.
                ModRevisionIs(self._keys.low(partition), seen.revision),
                VersionIs(segment, 0),
                # Never the last batch: the writer's next transaction compares it.
                VersionIs(self._keys.batch(partition, manifest.end), 1),
            ],
            then=[Put(segment, encode(manifest)), Put(self._keys.low(partition), encode(mark))],
        )
        return answer.succeeded

    async def bases(self, partition: int, start: int, end: int) -> list[int]:
        if end <= start:
            return []
        listing = await self._client.range(
            self._keys.batch(partition, start), self._keys.batch(partition, end), limit=DELETES_AT_ONCE, keys_only=True
        )
        return [_base(item.key) for item in listing]

    async def delete(self, partition: int, seen: SeenLow, bases: Sequence[int]) -> bool:
        if not bases or len(bases) > DELETES_AT_ONCE or max(bases) >= seen.first_hot:
            raise ValueError(
                f"expected 1 to {DELETES_AT_ONCE} bases below {seen.first_hot}, found {len(bases)} up to "
                f"{max(bases, default=0)}"
            )
        answer = await self._client.txn(
            when=[ModRevisionIs(self._keys.low(partition), seen.revision)],
            then=[Delete(self._keys.batch(partition, base)) for base in bases],
        )
        return answer.succeeded

    async def snapshot_offset(self, partition: int) -> int | None:
        key = self._keys.snapshot(partition)
        stored = await self._client.get(key)
        if stored is None:
            return None
        try:
            return msgspec.json.decode(stored.value, type=_SnapshotOffset).offset
        except msgspec.MsgspecError as error:
            raise LogBroken(f"{key}: expected a snapshot's record, found {stored.value[:200]!r}: {error}") from error


def _base(key: str) -> int:
    return int(key.rpartition("/")[2], 16)
