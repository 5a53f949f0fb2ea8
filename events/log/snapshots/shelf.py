"""Where a partition's newest snapshot is: a blob, and a record in the log's store that points at it under the fence.

Knows hashes and names; what a snapshot holds and when one is taken is not its affair. Nothing here is ever fatal to
whoever recovers: a snapshot that cannot be used is said and passed over, and the log is folded instead.
"""

import asyncio
from typing import NamedTuple, Protocol

import msgspec
import structlog

from events.failpoints import failpoint
from events.log.blobs import BlobStore
from events.log.errors import LogError
from events.log.snapshots.contents import FORMAT, CorruptSnapshot, Snapshot, SnapshotHead, open_snapshot, sha256_of

log = structlog.get_logger("snapshots")

_FIRST_PART = "snapshots"


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What points at a snapshot, as JSON. `offset`: the states are after every event below it; `location` the blob's
    name, `sha256` (hex) and `bytes` its hash and size; `fingerprint` the fold's that made it."""

    offset: int
    location: str
    sha256: str
    bytes: int
    format: int
    fingerprint: str


class PointedAt(NamedTuple):
    """The record as stored, None if there is none; `revision` names this very version of it (0: none)."""

    record: bytes | None
    revision: int


class SnapshotPointer(Protocol):
    """The record of one claimed partition. Both raise LogUnavailable, after which a record may have been put or not."""

    async def snapshot_record(self) -> PointedAt: ...

    async def point_at_snapshot(self, seen: PointedAt, record: bytes) -> bool:
        """Put `record` if the claim still holds and the present one is `seen`. False: it was not put."""
        ...


class SnapshotShelf:
    """One claim's view of its partition's snapshots. Use from one event loop; saves must not overlap."""

    def __init__(self, *, partition: int, epoch: int, blobs: BlobStore, pointer: SnapshotPointer) -> None:
        self._partition = partition
        self._epoch = epoch
        self._blobs = blobs
        self._pointer = pointer
        self._found: Snapshot | None = None

    def found(self) -> Snapshot | None:
        """What `load` found, once: whoever takes it need not keep it."""
        found, self._found = self._found, None
        return found

    def use(self, snapshot: Snapshot) -> None:
        """The log's tail continues this snapshot: `found` hands it out."""
        self._found = snapshot

    async def load(self) -> Snapshot | None:
        """The newest snapshot, whole and unaltered; None, and the log says why, if there is none that can be used.

        Raises LogUnavailable if the log's own store does not answer.
        """
        seen = await self._pointer.snapshot_record()
        if seen.record is None:
            return None
        try:
            return await self._open(seen.record)
        except (LogError, CorruptSnapshot, msgspec.MsgspecError, UnicodeError) as error:
            log.warning("a snapshot cannot be used, the log is folded instead", partition=self._partition,
                        error=f"{type(error).__name__}: {error}")  # fmt: skip
            return None

    async def _open(self, stored: bytes) -> Snapshot:
        record = msgspec.json.decode(stored, type=SnapshotRecord)
        if record.format != FORMAT:
            raise CorruptSnapshot(f"expected format {FORMAT}, found {record.format}")
        data = await self._blobs.get(record.location)
        found = await asyncio.to_thread(sha256_of, data)
        if found != record.sha256:
            raise CorruptSnapshot(f"{record.location}: expected sha256 {record.sha256}, found {found}")
        snapshot = open_snapshot(data)
        head = snapshot.head
        if (head.partition, head.offset, head.fingerprint) != (self._partition, record.offset, record.fingerprint):
            raise CorruptSnapshot(f"{record.location} is of another partition, offset or fold than its record says")
        return snapshot

    async def save(self, head: SnapshotHead, data: bytes) -> bool:
        """Keep a snapshot of durable events and point at it. False: the claim is lost, or another pointed meanwhile.

        Raises LogUnavailable (ArchiveUnavailable); what was there before is still good then, and a blob that nothing
        points at goes with the next save.
        """
        sha256 = await asyncio.to_thread(sha256_of, data)
        # The epoch in the name: no two owners ever write one blob, and each may delete what is not newer than its own.
        location = f"{self._directory()}/{head.offset:016x}-{self._epoch:08x}-{sha256}"
        record = SnapshotRecord(
            offset=head.offset,
            location=location,
            sha256=sha256,
            bytes=len(data),
            format=FORMAT,
            fingerprint=head.fingerprint,
        )
        failpoint("log.snapshot.before-blob")
        await self._blobs.put(location, data)
        failpoint("log.snapshot.blob-written")
        # Read anew each time: after a lost reply nobody knows what the last save came to.
        seen = await self._pointer.snapshot_record()
        if not await self._pointer.point_at_snapshot(seen, msgspec.json.encode(record)):
            await self._blobs.delete(location)
            return False
        failpoint("log.snapshot.pointed")
        await self._prune({location, _location(seen.record)})
        failpoint("log.snapshot.pruned")
        return True

    async def _prune(self, keep: set[str]) -> None:
        """Delete this owner's and earlier ones' blobs but the newest two: the last one may be being read right now."""
        for name in await self._blobs.names(self._directory()):
            # A later owner's blob may have nothing that points at it yet.
            if name not in keep and _epoch(name) <= self._epoch:
                await self._blobs.delete(name)

    def _directory(self) -> str:
        return f"{_FIRST_PART}/{self._partition:02d}"


def _location(stored: bytes | None) -> str:
    try:
        return "" if stored is None else msgspec.json.decode(stored, type=SnapshotRecord).location
    except (msgspec.MsgspecError, UnicodeError):
        return ""  # what it pointed at could not be read either


def _epoch(name: str) -> int:
    parts = name.rpartition("/")[2].split("-")
    return int(parts[1], 16) if len(parts) == 3 else 0
