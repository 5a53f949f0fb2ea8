"""Cuts an archive into parts while it is written: gzip members which joined are the archive, so that a change in a file
changes the parts it lies in and no others.

Where a part ends follows from the content around that place. Runs at the client too; knows nothing of files, of tar or
of the platform. Blocking.
"""

import hashlib
import io
import os
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import msgspec

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LEAST_BYTES = 64 * 1024  # of a part before it is compressed: less costs more compression than it saves sending
MOST_BYTES = 192 * 1024
_LEVEL = 6
_GZIP = 31  # zlib's word for: with gzip's header, whose time is then 0, and trailer
_MOST_THREADS = 4


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a packed archive: the sha256 of its bytes as they are in the archive, and how many they are."""

    sha256: str
    size_bytes: int


def end_of_part(data: bytearray) -> int:
    """Where a part that begins at 0 ends, between `LEAST_BYTES` and `MOST_BYTES`; `data` has at least the latter.

    After those two lines in that range, whatever lies before them, whose checksum is the smallest. So two versions of
    an archive that differ in one place are cut alike again soon behind it. This is content-defined chunking by a local
    extremum (Bjørner et al., "Content-dependent chunking for differential compression", 2010), with lines for windows
    since all of it then runs in C. Where there are no lines a part ends at `MOST_BYTES`.
    """
    lines = bytes(memoryview(data)[LEAST_BYTES:MOST_BYTES]).splitlines(keepends=True)
    # The first and the last may be halves of lines, which depend on where the range begins.
    whole = lines[1:-1]
    # A checksum goes on from that of the line before: one line alone (a bracket, nothing) is there too often.
    sums = list(map(zlib.crc32, whole[1:], map(zlib.crc32, whole)))
    if not sums:
        return MOST_BYTES
    behind = sums.index(min(sums)) + 3  # the first half line, the line before and the one itself
    return LEAST_BYTES + sum(map(len, lines[:behind]))


class PartedFile(io.RawIOBase):
    """A file to write an archive to. What is written is cut, compressed beside the writer and put to `out` in order.

    As a context manager it finishes at the end; `digest` and `parts` are there then.
    """

    def __init__(self, out: BinaryIO) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self._out = out
        self._sha256 = hashlib.sha256()
        self._pending = bytearray()
        self._written = 0
        self._threads = min(os.cpu_count() or 1, _MOST_THREADS)
        self._pool = ThreadPoolExecutor(self._threads, "pack")
        self._packing: deque[Future[tuple[bytes, Part]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._pending:
                    self._cut(len(self._pending))
                self._take(0)
        finally:
            self._pool.shutdown(cancel_futures=True)
            self.close()

    @property
    def digest(self) -> str:
        """The sha256 of all that was put to `out`."""
        return self._sha256.hexdigest()

    @property
    def size_bytes(self) -> int:
        """How much was put to `out`."""
        return sum(part.size_bytes for part in self.parts)

    def tell(self) -> int:
        """How much was written, before compression."""
        return self._written

    def write(self, data: "ReadableBuffer") -> int:
        """Append. Raises OSError of `out`."""
        before = len(self._pending)
        self._pending += data
        size = len(self._pending) - before
        self._written += size
        while len(self._pending) >= MOST_BYTES:
            self._cut(end_of_part(self._pending))
        return size

    def _cut(self, size: int) -> None:
        self._packing.append(self._pool.submit(_pack, bytes(memoryview(self._pending)[:size])))
        del self._pending[:size]
        self._take(2 * self._threads)  # so many parts are in memory at most

    def _take(self, left: int) -> None:
        while len(self._packing) > left:
            packed, part = self._packing.popleft().result()
            self._out.write(packed)
            self._sha256.update(packed)
            self.parts.append(part)


def _pack(data: bytes) -> tuple[bytes, Part]:
    packed = zlib.compress(data, _LEVEL, wbits=_GZIP)
    return packed, Part(sha256=hashlib.sha256(packed).hexdigest(), size_bytes=len(packed))
