"""What a process has in hand, in a small file mapped into memory: it outlives a kill of the process, not a power cut.

Knows nothing of what the words mean. Whoever finds words left behind knows that a process died over them, and nothing
more: a kill from outside leaves them as well.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path

import structlog

log = structlog.get_logger("hand")

HAND_BYTES = 4096
FORMAT = 2
"""Where the checksum begins: words of another format are as good as damaged."""

_header = struct.Struct("<II")  # how many bytes of words follow, and their checksum
_NOTHING = _header.pack(0, 0)


class Hand:
    """The words a process has in hand. Without a path, or where no file can be had: in none that outlives it.

    `left`: the words that the process before this one had in hand when it died; empty when it had none, or when the
    file is damaged or of another format.
    """

    def __init__(self, path: Path | None = None, *, size: int = HAND_BYTES) -> None:
        self._memory = None if path is None else _mapped(path, size)
        self.left = b"" if self._memory is None else _words_of(self._memory)
        self.put_down()

    def take(self, words: bytes) -> None:
        """From here on a death of this process may be their fault. What is longer than the file is not noted."""
        memory = self._memory
        if memory is None:
            return
        end = _header.size + len(words)
        if end > len(memory):
            self.put_down()
            return
        # The checksum tells of a process that was killed while it wrote this.
        memory[:end] = _header.pack(len(words), zlib.crc32(words, FORMAT)) + words

    def put_down(self) -> None:
        """They were survived."""
        if self._memory is not None:
            self._memory[: _header.size] = _NOTHING


def _mapped(path: Path, size: int) -> mmap.mmap | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, size)
            # Else a write to a page that a full disk has no room for would kill this process.
            os.posix_fallocate(descriptor, 0, size)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        # The work must not wait for what only matters if it goes wrong.
        log.warning("hand.unusable", path=str(path), error=str(error))
        return None


def _words_of(memory: mmap.mmap) -> bytes:
    length, checksum = _header.unpack_from(memory)
    words = memory[_header.size : _header.size + length]
    if len(words) != length or zlib.crc32(words, FORMAT) != checksum:
        if length:
            log.warning("hand.unreadable", expected=f"words of format {FORMAT}", found=f"{length} bytes of others")
        return b""
    return words
