"""Makes a backup of a log that may be in use: every batch walked, checked and written verbatim, up to one cut.

Knows the walk and the file; nothing of etcd's protocol, and nothing of what events mean.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from events.failpoints import failpoint
from events.log.archive.manifest import SegmentManifest
from events.log.archive.segment import encode_segment
from events.log.backup.container import BackupWriter
from events.log.backup.manifest import FORMAT, BackupManifest, PartitionPart, key_member, last_member
from events.log.backup.source import EtcdLogSource
from events.log.chain import ChainBroken, ChainCheck
from events.log.errors import LogBroken
from events.log.records import Position
from events.log.store import StoredBatch
from events.log.walk import Run, walk

SEGMENT_BYTES = 8 << 20
"""Hot batches become segments of about this size, as the archiver's are: a restore puts them into the archive."""

Progress = Callable[[int, int], None]
"""(partition, events of it written so far)"""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A finished backup: its manifest, the seal (hex) to note beside the heads, and the file's size in bytes."""

    manifest: BackupManifest
    seal: str
    bytes: int


async def create_backup(
    source: EtcdLogSource,
    path: Path,
    *,
    created_at: int,
    trees: Mapping[str, Path] | None = None,
    progress: Progress = lambda partition, events: None,
) -> Made:
    """Write the log up to now to the new file `path`; `created_at` in microseconds.

    `trees`: directories to take along ({name: directory}) whose files are immutable once they have their names. Raises
    ChainBroken if the log is not whole (what is broken is not worth keeping as if it were), LogUnavailable, OSError.
    """
    cut = await source.cut()
    writer = await asyncio.to_thread(BackupWriter, path, created_at // 1_000_000)
    with writer:
        parts = [
            await _Partition(source, writer, partition, tail, progress).write()
            for partition, tail in enumerate(cut.tails)
        ]
        keys = await _add_keys(source, writer)
        for name, directory in (trees or {}).items():
            await asyncio.to_thread(_add_tree, writer, name, directory)
        manifest = BackupManifest(
            format=FORMAT,
            created_at=created_at,
            namespace=source.client.settings.namespace,
            revision=cut.revision,
            layout=source.layout,
            partitions=tuple(parts),
            keys=keys,
            trees=tuple(trees or {}),
            members=tuple(writer.members),
        )
        failpoint("log.backup.sealing")
        seal = await asyncio.to_thread(writer.seal, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    size = await asyncio.to_thread(lambda: path.stat().st_size)
    return Made(manifest=manifest, seal=seal, bytes=size)


class _Partition:
    """One partition on its way into the file; holds at most a segment and a page of it."""

    def __init__(
        self, source: EtcdLogSource, writer: BackupWriter, partition: int, tail: int, progress: Progress
    ) -> None:
        self._source = source
        self._writer = writer
        self._partition = partition
        self._tail = tail
        self._progress = progress
        self._waiting: list[StoredBatch] = []
        self._segments: list[SegmentManifest] = []

    async def write(self) -> PartitionPart:
        check = ChainCheck(self._partition)
        async for run in walk(self._source, check, until=self._tail):
            await self._take(run, at_end=check.next_offset >= self._tail)
            self._progress(self._partition, check.next_offset)
        if check.next_offset != self._tail:
            at = Position(self._partition, check.next_offset)
            place = self._source.hot_place(self._partition)
            raise ChainBroken(at, place=place, expected=f"events up to offset {self._tail}", found="the end of the log")
        epoch, epoch_revision = await self._source.epoch(self._partition)
        return PartitionPart(
            head=check.head,
            last_base=await self._finish(),
            epoch=max(epoch.epoch, check.epoch),
            epoch_revision=epoch_revision,
            segments=tuple(self._segments),
        )

    async def _take(self, run: Run, *, at_end: bool) -> None:
        # The last batch goes by itself: a restore puts it into etcd, where the next append compares with it.
        if run.manifest is not None and not at_end:
            await self._cut_segment()
            await asyncio.to_thread(self._writer.add, run.manifest.location, run.blob)
            self._segments.append(run.manifest)
            return
        for batch in run.batches:
            if sum(len(waiting.value) for waiting in self._waiting) >= SEGMENT_BYTES:
                await self._cut_segment()
            self._waiting.append(batch)

    async def _cut_segment(self) -> None:
        if self._waiting:
            manifest, blob = await asyncio.to_thread(encode_segment, self._partition, self._waiting)
            await asyncio.to_thread(self._writer.add, manifest.location, blob)
            self._segments.append(manifest)
            self._waiting = []

    async def _finish(self) -> int | None:
        if not self._tail:
            return None
        if not self._waiting:
            raise LogBroken(f"partition {self._partition}: expected a last batch before {self._tail}, found none")
        last = self._waiting.pop()
        await self._cut_segment()
        await asyncio.to_thread(self._writer.add, last_member(self._partition, last.base), last.value)
        return last.base


async def _add_keys(source: EtcdLogSource, writer: BackupWriter) -> tuple[str, ...]:
    names = []
    for item in await source.wrapped_keys():
        name = item.key.removeprefix(source.keys.root)
        await asyncio.to_thread(writer.add, key_member(name), item.value)
        names.append(name)
    return tuple(names)


def _add_tree(writer: BackupWriter, name: str, directory: Path) -> None:
    for path in _files(directory):
        writer.add_file(f"{name}/{path.relative_to(directory).as_posix()}", path)


def _files(directory: Path) -> Iterator[Path]:
    """Regular files, in order of their names; what is still being written has no directory of its own yet."""
    for root, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            path = Path(root, name)
            if Path(root) != directory and path.is_file() and not path.is_symlink():
                yield path
