"""Segment files: the frame format, and reading frames back with every byte checked.

Knows nothing of streams, numbering rules or retention; it is given numbers and gives them back.

A frame: header (CRC32 of all that follows it, magic, flags, lengths, first number, numbers taken, least and greatest
time), then its meta data, then the lines in one of two shapes (`FrameMeta.origin`), zstd when it pays. The first frame
of a segment is a checkpoint: no lines, but everything the stream must know of older segments, so that opening a stream
reads one segment only.
"""

import mmap
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import zstandard

from actors.logs import shimlog
from actors.logs.line import LineRecord, Origin, decode_records

_HEADER = struct.Struct("<IHHIIQQqq")
HEADER_SIZE = _HEADER.size
_MAGIC = 0x474C
_ZSTD = 1
"""Flag: the lines are compressed."""
_MIN_COMPRESS = 512
"""Bytes; below this a zstd frame's own cost eats the gain."""
_MAX_BODY = 64 * 1024 * 1024


class SourceMark(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How far a source is stored: `upto` is the end of its last stored batch."""

    source_id: str
    upto: int
    finished: bool = False


class Closed(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A finite stream's end: `outcome` in one word (succeeded, failed, cancelled …), `at` in unix microseconds."""

    outcome: str
    at: int


class FrameMeta(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a frame says beside its lines."""

    sources: tuple[SourceMark, ...] = ()
    closed: Closed | None = None
    checkpoint: bool = False
    origin: Origin | None = None
    """Given: the lines are a shim's records (`actors.logs.shimlog`), else a MessagePack array of `LineRecord`."""
    gaps: bool = True
    """Whether one of the lines may be a gap; what was written before this was told may have one."""


class Frame(NamedTuple):
    """A frame's header and place: it takes the numbers `first` … `first + taken - 1`. Times in unix microseconds."""

    offset: int
    end: int
    flags: int
    meta_len: int
    first: int
    taken: int
    t_min: int
    t_max: int


class Damaged(ValueError):
    """The bytes at `offset` are not a whole, sound frame."""

    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"at byte {offset}: {why}")
        self.offset = offset


_encode = msgspec.msgpack.Encoder().encode
_decode_meta = msgspec.msgpack.Decoder(FrameMeta).decode


_local = threading.local()
"""Each thread's own packer and unpacker: their memory is set up once instead of for each frame or block."""


def _packer() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_local, "packer", None)
    if found is None:
        found = _local.packer = zstandard.ZstdCompressor(level=1)
    return found


def unpacker() -> zstandard.ZstdDecompressor:
    """This thread's."""
    found: zstandard.ZstdDecompressor | None = getattr(_local, "unpacker", None)
    if found is None:
        found = _local.unpacker = zstandard.ZstdDecompressor()
    return found


def encode_frame(first: int, count: int, times: tuple[int, int], meta: FrameMeta, blob: bytes) -> bytes:
    """One frame as bytes; `times` are the least and the greatest in `blob`, `blob` the lines as `meta` says."""
    flags = 0
    if len(blob) >= _MIN_COMPRESS:
        packed = _packer().compress(blob)
        if len(packed) < len(blob) * 9 // 10:
            flags, blob = _ZSTD, packed
    meta_bytes = _encode(meta)
    header = _HEADER.pack(0, _MAGIC, flags, len(meta_bytes), len(blob), first, count, *times)
    checked = header[4:] + meta_bytes + blob
    return struct.pack("<I", zlib.crc32(checked)) + checked


def _header(data: bytes | mmap.mmap, offset: int, size: int) -> Frame:
    if offset + HEADER_SIZE > size:
        raise Damaged(offset, f"expected a header of {HEADER_SIZE} bytes, found {size - offset}")
    _, magic, flags, meta_len, body_len, first, count, t_min, t_max = _HEADER.unpack_from(data, offset)
    if magic != _MAGIC or body_len > _MAX_BODY or meta_len > _MAX_BODY:
        raise Damaged(offset, "expected a frame, found other bytes")
    end = offset + HEADER_SIZE + meta_len + body_len
    if end > size:
        raise Damaged(offset, f"expected {end - offset} bytes, found {size - offset}")
    return Frame(offset, end, flags, meta_len, first, count, t_min, t_max)


def frames(data: bytes | mmap.mmap) -> Iterator[Frame]:
    """The frames of `data` in order, by their headers alone; raises Damaged where they end before the data does."""
    offset, size = 0, len(data)
    while offset < size:
        frame = _header(data, offset, size)
        yield frame
        offset = frame.end


def is_sound(data: bytes | mmap.mmap, frame: Frame) -> bool:
    """Whether the frame's bytes are those that were written."""
    stored: int = struct.unpack_from("<I", data, frame.offset)[0]
    return zlib.crc32(data[frame.offset + 4 : frame.end]) == stored


def frame_meta(data: bytes | mmap.mmap, frame: Frame) -> FrameMeta:
    """The meta data of a sound frame."""
    start = frame.offset + HEADER_SIZE
    return _decode_meta(data[start : start + frame.meta_len])


def frame_blob(data: bytes | mmap.mmap, frame: Frame) -> bytes:
    """The lines of a sound frame, as they were written."""
    body = data[frame.offset + HEADER_SIZE + frame.meta_len : frame.end]
    return unpacker().decompress(body, max_output_size=_MAX_BODY) if frame.flags & _ZSTD else body


def frame_records(data: bytes | mmap.mmap, frame: Frame) -> list[LineRecord]:
    """The lines of a sound frame. Raises BadBatch."""
    return records_of(frame_meta(data, frame).origin, frame_blob(data, frame))


def records_of(origin: Origin | None, blob: bytes) -> list[LineRecord]:
    """The lines of a batch or a frame, in the shape that goes with `origin`. Raises BadBatch."""
    return decode_records(blob) if origin is None else shimlog.decode(origin, blob)


def segment_name(first: int) -> str:
    """The file name of the segment whose first line has number `first`."""
    return f"{first:020d}.seg"


def segment_first(path: Path) -> int:
    """The number in a segment's file name."""
    return int(path.name.removesuffix(".seg"))


def list_segments(directory: Path) -> list[Path]:
    """The segments of a stream in order of their numbers; none when there is no such directory."""
    return sorted(directory.glob("[0-9]" * 20 + ".seg"))


BLOCK_BYTES = 64 * 1024
"""Bytes of frames that one entry of the sparse index covers."""


class Block(NamedTuple):
    """An entry of the sparse index: the frames in `offset` … `end`, the first number, greatest and least time."""

    first: int
    offset: int
    end: int
    t_max: int
    t_min: int = 0


def extend_blocks(blocks: list[Block], frame: Frame) -> None:
    """Put `frame`, which follows all others in `blocks`, into the index. Frames without lines are left out."""
    if frame.taken == 0:
        return
    if blocks and blocks[-1].end == frame.offset and frame.end - blocks[-1].offset <= BLOCK_BYTES:
        last = blocks[-1]
        t_min, t_max = min(last.t_min, frame.t_min), max(last.t_max, frame.t_max)
        blocks[-1] = Block(last.first, last.offset, frame.end, t_max, t_min)
    else:
        blocks.append(Block(frame.first, frame.offset, frame.end, frame.t_max, frame.t_min))


def index_segment(path: Path, size: int) -> tuple[Block, ...]:
    """The sparse index of the first `size` bytes of a segment, from its headers alone. Damage ends it early."""
    blocks: list[Block] = []
    if size == 0:
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        try:
            for frame in frames(data):
                extend_blocks(blocks, frame)
        except Damaged:
            # A hole in the numbers is what the reader sees, and it says so in place.
            pass
    return tuple(blocks)
