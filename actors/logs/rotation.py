"""Files that an application writes and somebody rotates: what a file is known by when its name and its bytes change.

A generation is one life of a file, from when it was empty. Renamed it is the same; truncated it is over, and what was
not read of it may be in a copy that was made just before. Blocking; knows nothing of lines, network or who rotates.
"""

import os
import re
import stat
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

_WINDOW_BYTES = 256
"""Bytes at the beginning and before the offset that are looked at again, to see that a file is what it was."""
_HASH_BYTES = 1024 * 1024
_PACKED = {".gz", ".xz", ".zst", ".bz2"}


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A generation as far as it is read: kept across restarts. `digest` is xxh3-128 of its first `offset` bytes."""

    number: int
    device: int
    inode: int
    offset: int = 0
    digest: str = ""
    over: bool = False
    """Nothing more is expected of it; kept while its file is there, so that the file is not taken for a new one."""

    @property
    def file(self) -> tuple[int, int]:
        """What the file system knows it by."""
        return self.device, self.inode


class Sibling(NamedTuple):
    """A file that bears the followed file's name, or that name and an ending."""

    path: Path
    file: tuple[int, int]
    changed: int
    size: int


class Refused(OSError):
    """What is at the path must not be read on an application's behalf."""


class Reading:
    """One generation with its file open. `offset` is where reading goes on."""

    def __init__(self, descriptor: int, mark: Mark) -> None:
        self.mark = mark
        self._fd = descriptor
        self._hash = xxhash.xxh3_128()
        self._hashed = 0
        self._head = b""
        self._tail = b""
        self.unread = 0
        self.grew_at = time.monotonic()
        self._advance_hash(mark.offset)
        self._remember()

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self.mark.offset

    def read(self, count: int) -> bytes:
        """At most `count` bytes at the offset; the hole that a truncated file begins with is passed over."""
        if self.mark.offset == 0 and (hole := self._hole()):
            self.advance(hole)
        data = os.pread(self._fd, count, self.mark.offset)
        self.unread = max(os.fstat(self._fd).st_size - self.mark.offset, 0)
        return data

    def advance(self, count: int) -> None:
        """Go on behind `count` bytes that were read."""
        offset = self.mark.offset + count
        self._advance_hash(offset)
        self.mark = msgspec.structs.replace(self.mark, offset=offset, digest=self._hash.hexdigest())
        self.unread = max(self.unread - count, 0)
        self.grew_at = time.monotonic()
        self._remember()

    def seek(self, offset: int) -> None:
        """Go to `offset`, forward or backward."""
        self._hash, self._hashed = xxhash.xxh3_128(), 0
        self.mark = msgspec.structs.replace(self.mark, offset=0)
        self.advance(offset)

    def is_truncated(self) -> bool:
        """Whether the bytes that were read are not there any more."""
        if os.fstat(self._fd).st_size < self.mark.offset:
            return True
        head = os.pread(self._fd, len(self._head), 0)
        tail = os.pread(self._fd, len(self._tail), self.mark.offset - len(self._tail))
        return head != self._head or tail != self._tail

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _hole(self) -> int:
        """A writer that keeps its place after a truncation leaves zeros before it, most of them on no disk."""
        if os.pread(self._fd, 1, 0) != b"\0":
            return 0
        try:
            hole = os.lseek(self._fd, 0, os.SEEK_DATA)
        except OSError:
            hole = 0
        data = os.pread(self._fd, _HASH_BYTES, hole)
        return hole + len(data) - len(data.lstrip(b"\0"))

    def _remember(self) -> None:
        self._head = os.pread(self._fd, min(_WINDOW_BYTES, self.mark.offset), 0)
        size = min(_WINDOW_BYTES, self.mark.offset)
        self._tail = os.pread(self._fd, size, self.mark.offset - size)

    def _advance_hash(self, upto: int) -> None:
        while self._hashed < upto:
            data = os.pread(self._fd, min(_HASH_BYTES, upto - self._hashed), self._hashed)
            if not data:
                return
            self._hash.update(data)
            self._hashed += len(data)


def siblings(path: Path) -> list[Sibling]:
    """The file at `path` and those rotated away from it in its directory, in the order in which they last changed.

    Compressed ones are left out: they were read before they were compressed.
    """
    found = []
    rotated = re.compile(re.escape(path.name) + r"([._-].*)?")
    try:
        names = [each for each in path.parent.iterdir() if rotated.fullmatch(each.name) and each.suffix not in _PACKED]
    except FileNotFoundError:
        return []
    for each in names:
        try:
            status = each.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            # The file in use comes last, though an older one may be written to a little longer.
            changed = status.st_mtime_ns if each != path else 1 << 63
            found.append(Sibling(each, (status.st_dev, status.st_ino), changed, status.st_size))
    return sorted(found, key=lambda each: each.changed)


def open_sibling(sibling: Sibling, root: Path) -> int:
    """Open it as `open_safely` does. Raises FileNotFoundError where another file bears its name by now."""
    descriptor = open_safely(sibling.path, root)
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) != sibling.file:
        os.close(descriptor)
        raise FileNotFoundError(f"expected at {sibling.path} what was there just now, found another file")
    return descriptor


def open_safely(path: Path, root: Path) -> int:
    """Open a file that an application may have replaced by a link to what it must not see. Raises Refused, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    where = Path(f"/proc/self/fd/{descriptor}").readlink()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != root.stat().st_uid or not where.is_relative_to(root):
        os.close(descriptor)
        raise Refused(f"expected a file of the application's own in {root}, found {path}, which is none")
    return descriptor


def same_bytes(descriptor: int, mark: Mark) -> bool:
    """Whether the open file begins with what was read of a generation."""
    size = os.fstat(descriptor).st_size
    return size >= mark.offset and (not mark.offset or _digest(descriptor, mark.offset) == mark.digest)


def common_prefix(one: int, other: int) -> bool:
    """Whether two open files, neither of them empty, are the same as far as the shorter one goes."""
    size, at = min(os.fstat(one).st_size, os.fstat(other).st_size), 0
    while at < size:
        data = os.pread(one, min(_HASH_BYTES, size - at), at)
        if not data or data != os.pread(other, len(data), at):
            return False
        at += len(data)
    return size > 0


def _digest(descriptor: int, count: int) -> str:
    digest, at = xxhash.xxh3_128(), 0
    while at < count:
        data = os.pread(descriptor, min(_HASH_BYTES, count - at), at)
        if not data:
            break
        digest.update(data)
        at += len(data)
    return digest.hexdigest()
