"""A backup as a log that can be walked: `verify` checks every byte and every link of it without any platform.

Knows the file's manifest; nothing of etcd. Must not change anything.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from events.log.archive.manifest import SegmentManifest
from events.log.backup.container import BackupDamaged, BackupReader
from events.log.backup.manifest import BackupManifest, PartitionPart, last_member
from events.log.chain import NotedHead
from events.log.errors import BlobMissing
from events.log.store import SeenLow, StoredBatch
from events.log.verify import PartitionReport, SnapshotRef, verify_partition


class BackupLog:
    """A `VerifiableLog` over a backup's file. Raises BackupDamaged for a member that is not what the list says."""

    def __init__(self, reader: BackupReader) -> None:
        self.reader = reader

    @property
    def manifest(self) -> BackupManifest:
        return self.reader.manifest

    @property
    def partitions(self) -> int:
        return self.manifest.layout.partitions

    def _part(self, partition: int) -> PartitionPart:
        return self.manifest.partitions[partition]

    async def manifests(self, partition: int, base: int) -> Sequence[SegmentManifest]:
        return [segment for segment in self._part(partition).segments if segment.base >= base]

    async def blob(self, location: str) -> bytes:
        if not any(member.name == location for member in self.manifest.members):
            raise BlobMissing(location)
        return await asyncio.to_thread(self.reader.read, location)

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        last = self._part(partition).last_base
        if last is None or last < base:
            return []
        return [StoredBatch(last, 0, await asyncio.to_thread(self.reader.read, last_member(partition, last)))]

    async def bases(self, partition: int, start: int, end: int) -> Sequence[int]:
        last = self._part(partition).last_base
        return [last] if last is not None and start <= last < end else []

    async def low(self, partition: int) -> SeenLow:
        return SeenLow(self._part(partition).last_base or 0, 0)

    async def tail_hint(self, partition: int) -> int:
        return self._part(partition).last_base or 0

    async def snapshot(self, partition: int) -> SnapshotRef | None:
        return None

    def hot_place(self, partition: int) -> str:
        return f"{self.reader.place} last/{partition:02d}/"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A whole backup: its manifest, the seal of the file (hex), and what the walk of each partition found."""

    manifest: BackupManifest
    seal: str
    reports: tuple[PartitionReport, ...]


async def verify_backup(
    reader: BackupReader,
    *,
    noted: Sequence[NotedHead] = (),
    progress: Callable[[int, int], None] = lambda partition, events: None,
) -> Verified:
    """Every byte against the seal, every member against the list, every batch against the chain, up to each head.

    Raises BackupDamaged naming the first thing that is wrong.
    """
    manifest = reader.manifest
    if len(manifest.partitions) != manifest.layout.partitions:
        raise BackupDamaged(
            f"{reader.place}: expected {manifest.layout.partitions} partitions, found {len(manifest.partitions)}"
        )
    for member in manifest.members:
        await asyncio.to_thread(reader.copy, member, None)
    await asyncio.to_thread(reader.check_whole)
    log, reports = BackupLog(reader), []
    for partition, part in enumerate(manifest.partitions):
        report = await verify_partition(log, partition, noted=noted, progress=progress)
        if report.broken is not None:
            raise BackupDamaged(f"{reader.place}: {report.broken}")
        if report.head != part.head:
            raise BackupDamaged(f"{reader.place}: expected the end of its list {part.head}, found {report.head}")
        reports.append(report)
    return Verified(manifest=manifest, seal=reader.seal, reports=tuple(reports))
