"""Moves an instance's output from its pipes to numbered segments on disk, bounded, counting what it drops.

Knows nothing of processes. The format and what a reader may rely on are in actors/runtime/output.py.
"""

# No pathlib here: it would cost every instance's shim 1 MB of memory and 4 ms of start.
# ruff: noqa: PTH108, PTH116, PTH118, PTH123, PTH208

import ctypes
import errno
import fcntl
import os
import time

from actors.runtime.shim.crashing import failpoint

LINE_BYTES_MAX = 16 * 1024
SEGMENT_BYTES = 8 * 1024 * 1024
UNREAD_BYTES_MAX = 64 * 1024 * 1024
PIPE_BYTES = 256 * 1024
DROPPED = "dropped"
_ROUNDS_PER_TURN = 32
_SPLICE_F_NONBLOCK = 2
_F_SETPIPE_SZ = 1031

_libc = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Encode = Callable[[bytes, bytes, int, bool], tuple[bytes, int]]


def segment_number(name: str) -> int:
    """The number in `000001.log`; 0 for any other name."""
    stem, dot, end = name.partition(".")
    return int(stem) if dot and end == "log" and stem.isdigit() else 0


def encode(data: bytes, tag: bytes, micros: int, final: bool) -> "tuple[bytes, int]":
    """The records for the head of `data`, and how many of its bytes they stand for.

    What follows the last newline waits in the pipe until its line is whole, is longer than a record may be, or `final`.
    """
    cut = data.rfind(b"\n") + 1
    whole, rest = data[:cut], data[cut:]
    full, partial = b"%d %s F " % (micros, tag), b"%d %s P " % (micros, tag)
    records: list[bytes] = []
    if whole and (len(whole) <= LINE_BYTES_MAX or max(map(len, whole.split(b"\n"))) <= LINE_BYTES_MAX):
        records.append(full + whole[:-1].replace(b"\n", b"\n" + full) + b"\n")
    elif whole:
        for line in whole[:-1].split(b"\n"):
            _cut_line(line, full, partial, records)
    taken = cut
    if final and rest:
        _cut_line(rest, full, partial, records)
        return b"".join(records), len(data)
    while len(rest) > LINE_BYTES_MAX:
        cut = between_characters(rest)
        records.append(partial + rest[:cut] + b"\n")
        rest = rest[cut:]
        taken += cut
    return b"".join(records), taken


def _cut_line(line: bytes, full: bytes, partial: bytes, records: "list[bytes]") -> None:
    while len(line) > LINE_BYTES_MAX:
        cut = between_characters(line)
        records.append(partial + line[:cut] + b"\n")
        line = line[cut:]
    records.append(full + line + b"\n")


def between_characters(line: bytes) -> int:
    """Where to cut a long line so that every piece is text by itself; in what is no UTF-8, anywhere."""
    for cut in range(LINE_BYTES_MAX, LINE_BYTES_MAX - 4, -1):
        if len(line) == cut or line[cut] & 0xC0 != 0x80:
            return cut
    return LINE_BYTES_MAX


class Segments:
    """Appends records to the newest segment, rolls it, and drops the oldest ones when nobody takes them away."""

    def __init__(
        self, directory: str, segment_bytes: int = SEGMENT_BYTES, unread_bytes_max: int = UNREAD_BYTES_MAX
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._unread_bytes_max = unread_bytes_max
        self._unwritten_lines = 0
        self._unwritten_bytes = 0
        self._number = max(self._numbers(), default=0)
        self._descriptor = -1
        self._size = 0
        self._roll()

    def write(self, records: bytes) -> None:
        """Append whole records. Those that the disk refuses are dropped and counted: the application goes on."""
        if self._size and self._size + len(records) > self._segment_bytes:
            self._roll()
        written = 0
        try:
            while written < len(records):
                written += os.write(self._descriptor, memoryview(records)[written:])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            # No torn record in the middle of a segment. The whole ones before it stay: a reader may have them already,
            # and would go on in the midst of whatever is written in their place.
            written = records.rfind(b"\n", 0, written) + 1
            os.ftruncate(self._descriptor, self._size + written)
            self._unwritten_lines += records.count(b"\n", written)
            self._unwritten_bytes += len(records) - written
        self._size += written
        self.count_losses()

    def close(self) -> None:
        """Make the newest segment durable and let go of it."""
        self.count_losses()
        os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _numbers(self) -> "list[int]":
        return sorted(number for name in os.listdir(self._directory) if (number := segment_number(name)))

    def _path(self, number: int) -> str:
        return os.path.join(self._directory, f"{number:06d}.log")

    def _roll(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._make_room()
        self._number += 1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path(self._number), flags, 0o600)
        self._size = 0

    def _make_room(self) -> None:
        sizes = []
        for number in self._numbers():
            try:
                sizes.append((number, os.stat(self._path(number)).st_size))
            except FileNotFoundError:
                continue  # the collector took it away meanwhile
        total = sum(size for _, size in sizes)
        for number, size in sizes:
            if total <= self._unread_bytes_max - self._segment_bytes:
                break
            self._drop(number)
            total -= size

    def _drop(self, number: int) -> None:
        try:
            with open(self._path(number), "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return
        # Counted before it is deleted: a crash in between counts twice the same segment, never one too few.
        self._count(number, content.count(b"\n"), len(content), "cap")
        try:
            os.unlink(self._path(number))
        except FileNotFoundError:
            pass

    def count_losses(self) -> bool:
        """Write down how many lines the disk refused; False while it refuses that too: the count waits in memory."""
        if self._unwritten_lines:
            try:
                self._count(self._number, self._unwritten_lines, self._unwritten_bytes, "disk")
            except OSError:
                return False
            self._unwritten_lines = self._unwritten_bytes = 0
        return True

    def _count(self, number: int, lines: int, size: int, why: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(os.path.join(self._directory, DROPPED), flags, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            entry = f"{time.time_ns() // 1000} {number} {lines} {size} {why}\n".encode()
            if os.write(descriptor, entry) < len(entry):
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, "the disk took a part of the count only")
        finally:
            os.close(descriptor)


class Pump:
    """Moves one stream from its pipe to the segments; what is not yet on disk stays in the pipe.

    The pipe is read by tee(2), which copies without consuming, and consumed only once the records are written: when the
    shim is killed in between, its successor writes that batch again rather than never.
    """

    def __init__(self, path: str, tag: bytes, segments: Segments, encode: "Encode" = encode) -> None:
        self._tag = tag
        self._segments = segments
        self._encode = encode
        # Opened for both directions: never an end of file, whoever else has it open or closed.
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._peek_out, self._peek_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for each in (self.descriptor, self._peek_in):
            try:
                fcntl.fcntl(each, _F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:
                pass  # the user's share of pipe memory is used up: 64 KiB do as well

    def drain(self, final: bool = False) -> bool:
        """Write what there is; True when more may wait. `final` writes the last line too, newline or not."""
        rounds = 0
        while final or rounds < _ROUNDS_PER_TURN:
            rounds += 1
            data = self._peek()
            if not data:
                return False
            records, taken = self._encode(data, self._tag, time.time_ns() // 1000, final)
            if not taken:
                return False
            self._segments.write(records)
            failpoint("shim.output.written")
            self._consume(taken)
        return True

    def _peek(self) -> bytes:
        copied = _libc.tee(self.descriptor, self._peek_in, PIPE_BYTES, _SPLICE_F_NONBLOCK)
        if copied < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return b""
            raise OSError(number, f"tee: {os.strerror(number)}")
        return _read_exactly(self._peek_out, copied)

    def _consume(self, count: int) -> None:
        _read_exactly(self.descriptor, count)


class Output:
    """Both streams of an instance, moved to the same segments."""

    def __init__(self, pipes: str, log: str, encode: "Encode" = encode) -> None:
        self._segments = Segments(log)
        self._pumps = [
            Pump(os.path.join(pipes, name), tag, self._segments, encode) for name, tag in (("out", b"o"), ("err", b"e"))
        ]
        self.descriptors = [pump.descriptor for pump in self._pumps]

    def drain(self) -> bool:
        """Write what there is; True when more may wait."""
        more = [pump.drain() for pump in self._pumps]
        return any(more)

    def finish(self) -> None:
        """Write all that is left, unfinished lines included, and make it durable: nothing writes any more."""
        for pump in self._pumps:
            pump.drain(final=True)
        self._segments.close()


def _read_exactly(descriptor: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count:
        part = os.read(descriptor, count)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
