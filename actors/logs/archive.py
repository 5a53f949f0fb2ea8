"""Block files of sealed segments in the archive store, and those fetched back from it, kept for a while on this disk.

Knows names, digests and bytes; nothing of lines or of who decides what goes.
"""

import asyncio
import logging
from pathlib import Path

import xxhash

from actors.logs.errors import StorageFailed
from actors.logs.parts import fetched_path
from actors.logs.sealed import Index, block_path, open_index
from events.log.blobs import BlobStore
from events.log.errors import ArchiveUnavailable, BlobMissing

_log = logging.getLogger(__name__)

FETCHED_BYTES = 512 * 1024 * 1024
"""Of block files fetched from the archive; the longest untouched go first."""


class SegmentArchive:
    """The archive of the store at `root`. Names in it are `lines/STREAM/FIRST-DIGEST.blk`, and `.idx` beside it."""

    def __init__(self, blobs: BlobStore, root: Path, *, fetched_bytes: int = FETCHED_BYTES) -> None:
        self._blobs = blobs
        self._root = root
        self._fetched_bytes = fetched_bytes
        self._fetching: dict[str, asyncio.Lock] = {}

    async def put(self, stream: str, index: str) -> None:
        """Keep the segment whose index is at this path; may be repeated. Raises ArchiveUnavailable, OSError."""
        opened = await asyncio.to_thread(open_index, index)
        name = _name(stream, opened.index)
        await self._blobs.put(name + ".blk", await asyncio.to_thread(block_path(index).read_bytes))
        # The index goes as well: with it the archive alone is enough to read the segment again.
        await self._blobs.put(name + ".idx", await asyncio.to_thread(Path(index).read_bytes))

    async def fetch(self, stream: str, index: str) -> None:
        """Have the block file on this disk. Raises StorageFailed when the archive does not answer.

        One that the archive does not have, or not as it was, becomes an empty file, which readers say is damaged.
        """
        async with self._fetching.setdefault(index, asyncio.Lock()):
            try:
                opened = await asyncio.to_thread(open_index, index)
                path = fetched_path(index)
                if await asyncio.to_thread(path.exists):
                    return
                data = await self._blobs.get(_name(stream, opened.index) + ".blk")
            except FileNotFoundError:
                return  # retention took the segment in the meantime
            except BlobMissing as error:
                _log.error("log stream %s: %s is not in the archive", stream, error)
                data = b""
            except ArchiveUnavailable as error:
                raise StorageFailed(f"stream {stream}: older lines are in the archive, which fails: {error}") from error
            finally:
                self._fetching.pop(index, None)
            if data and xxhash.xxh3_128_hexdigest(data) != opened.index.digest:
                _log.error("log stream %s: %s is not what went into the archive", stream, index)
                data = b""
            await asyncio.to_thread(self._keep, path, data)

    async def forget(self, stream: str, index: Index) -> None:
        """Delete the segment; nothing happens when it never was there. Raises ArchiveUnavailable."""
        for suffix in (".idx", ".blk"):
            await self._blobs.delete(_name(stream, index) + suffix)

    def _keep(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_bytes(data)
        new.replace(path)
        files = sorted(((each.stat(), each) for each in path.parent.glob("*.blk")), key=lambda pair: pair[0].st_atime)
        total = sum(stat.st_size for stat, _ in files)
        for stat, each in files:
            if total <= self._fetched_bytes or each == path:
                continue
            each.unlink(missing_ok=True)
            total -= stat.st_size


def _name(stream: str, index: Index) -> str:
    return f"lines/{stream.replace('/', '=')}/{index.first:020d}-{index.digest}"
