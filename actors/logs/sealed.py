"""Sealed segments: blocks of lines by column, and beside them an index with each block's numbers, times and words.

Made of a segment that takes no more lines, read by whoever looks for some; nothing is ever changed in one. Knows files
and bytes; nothing of streams, retention or where else a block file is kept.

`FIRST.blk` holds the blocks: header, columns and texts, both zstd, so that a search opens the texts alone. `FIRST.idx`
holds the index and one filter of words a block. The index is written last: without one, a block file is not there.
"""

import mmap
import os
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash
import zstandard

from actors.logs.line import LineRecord, LogLine, OutputStream, Source
from actors.logs.measure import Counts, count, levels_of
from actors.logs.segment import Closed, Damaged, SourceMark, unpacker
from actors.logs.words import make_filter, words_of
from events.durable import sync_directory
from events.failpoints import failpoint

BLOCK_BYTES = 1024 * 1024
"""Bytes of text in one block: large enough to compress well, small enough to be opened for one line."""
_LEVEL = 3
"""zstd's own default; a sealed block is written once and read often."""
_MAGIC = b"RFLI"
_VERSION = 1
_HEAD = struct.Struct("<4sHHII")
"""Magic, version, 0, bytes of the index, CRC32 of index and filters."""
_BLOCK = struct.Struct("<III")
"""CRC32 of what follows, bytes of the columns, bytes of the texts, both as stored."""
_MAX_RAW = 64 * 1024 * 1024


class Origin(NamedTuple):
    """What lines have in common."""

    stream: OutputStream
    source: Source
    instance: str
    release: int


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A block in the index: numbers `first` … `next - 1`, its place in the block file, its filter, what it holds."""

    first: int
    next: int
    offset: int
    size: int
    filter_at: int
    filter_size: int
    t_min: int
    t_max: int
    origins: tuple[Origin, ...]
    counts: Counts
    gaps: int = 0


class Index(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """All that is known of a sealed segment without opening a block. `digest` is the block file's, xxh3-128 in hex.

    `sources` and `closed`: what the stream knew at the segment's end.
    """

    first: int
    next: int
    size: int
    digest: str
    sources: tuple[SourceMark, ...]
    closed: Closed | None
    blocks: tuple[Entry, ...]

    @property
    def t_max(self) -> int:
        """The greatest time in it, unix microseconds; 0 when it has no line."""
        return max((block.t_max for block in self.blocks), default=0)


class _Columns(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One value a line in each but `partial` and `gaps`, which name the few lines they are of.

    `at`: the first time, then differences (int64); `origin`: places in the entry's origins (uint16); `ends`: where a
    text ends (uint32, its line break not counted); `levels`: places in LEVELS (uint8).
    """

    at: bytes
    origin: bytes
    ends: bytes
    levels: bytes
    partial: tuple[int, ...] = ()
    gaps: tuple[tuple[int, int], ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode_columns = msgspec.msgpack.Decoder(_Columns).decode
_decode_index = msgspec.msgpack.Decoder(Index).decode


def index_path(directory: Path, first: int) -> Path:
    """Where the index of the segment that begins with number `first` is."""
    return directory / f"{first:020d}.idx"


def list_sealed(directory: Path) -> list[Path]:
    """The indexes of a stream in order of their numbers."""
    return sorted(directory.glob("[0-9]" * 20 + ".idx"))


def is_sealed(path: str) -> bool:
    """Whether this is the index of a sealed segment and not a segment that frames are in."""
    return path.endswith(".idx")


def block_path(index: str) -> Path:
    """The block file beside the index at this path."""
    return Path(index).with_suffix(".blk")


class Writer:
    """Makes a sealed segment of records in order; `finish` puts both files in place, the index last."""

    def __init__(self, directory: Path, first: int) -> None:
        self._directory = directory
        self._first = first
        self._next = first
        self._body = bytearray()
        self._entries: list[Entry] = []
        self._filters = bytearray()
        self._pending: list[tuple[int, LineRecord]] = []
        self._bytes = 0

    def add(self, first: int, records: Iterable[LineRecord]) -> None:
        """Lines with numbers from `first` on; a hole before them stays one."""
        if first != self._next:
            # A block's numbers are contiguous, so that a hole lies between two blocks, where a reader sees it.
            self._flush()
        number = first
        for record in records:
            self._pending.append((number, record))
            self._bytes += len(record.text) + 1
            number += record.gap or 1
            if self._bytes >= BLOCK_BYTES:
                self._next = number
                self._flush()
        self._next = number

    def finish(self, sources: Sequence[SourceMark], closed: Closed | None) -> Index:
        """Write, sync and name both files; may be repeated after a crash. Raises OSError."""
        self._flush()
        index = Index(
            first=self._first,
            next=self._next,
            size=len(self._body),
            digest=xxhash.xxh3_128_hexdigest(self._body),
            sources=tuple(sources),
            closed=closed,
            blocks=tuple(self._entries),
        )
        path = index_path(self._directory, self._first)
        _put(path.with_suffix(".blk"), bytes(self._body))
        failpoint("logs.sealed-blocks")
        data = _encode(index)
        crc = zlib.crc32(self._filters, zlib.crc32(data))
        _put(path, _HEAD.pack(_MAGIC, _VERSION, 0, len(data), crc) + data + self._filters)
        failpoint("logs.sealed")
        return index

    def _flush(self) -> None:
        if not self._pending:
            return
        pending, self._pending, self._bytes = self._pending, [], 0
        records = [record for _, record in pending]
        texts = [record.text.encode("utf-8", "replace") for record in records]
        ends = array("I", accumulate((len(text) + 1 for text in texts[1:]), initial=len(texts[0])))
        joined = b"\n".join(texts) + b"\n"
        origins: dict[Origin, int] = {}
        places = array("H")
        for record in records:
            origin = Origin(record.stream, record.source, record.instance, record.release)
            places.append(origins.setdefault(origin, len(origins)))
        levels = levels_of(records)
        times = [record.at for record in records]
        gaps = tuple((place, record.gap) for place, record in enumerate(records) if record.gap)
        columns = _Columns(
            at=array("q", (times[0], *(b - a for a, b in pairwise(times)))).tobytes(),
            origin=places.tobytes(),
            ends=ends.tobytes(),
            levels=levels,
            partial=tuple(place for place, record in enumerate(records) if record.partial),
            gaps=gaps,
        )
        pack = zstandard.ZstdCompressor(level=_LEVEL).compress
        packed, text = pack(_encode(columns)), pack(joined)
        body = _BLOCK.pack(0, len(packed), len(text))[4:] + packed + text
        bits = make_filter(words_of(joined))
        last_number, last = pending[-1]
        self._entries.append(
            Entry(
                first=pending[0][0],
                next=last_number + (last.gap or 1),
                offset=len(self._body),
                size=len(body) + 4,
                filter_at=len(self._filters),
                filter_size=len(bits),
                t_min=min(times),
                t_max=max(times),
                origins=tuple(origins),
                counts=count(records, levels),
                gaps=len(gaps),
            )
        )
        self._body += zlib.crc32(body).to_bytes(4, "little") + body
        self._filters += bits


def _put(path: Path, data: bytes) -> None:
    new = path.with_suffix(path.suffix + ".new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_directory(path.parent)


@dataclass(frozen=True, slots=True)
class Opened:
    """A segment's index in memory, its filters mapped."""

    index: Index
    filters: memoryview

    def filter_of(self, entry: Entry) -> memoryview:
        """The block's filter of words."""
        return self.filters[entry.filter_at : entry.filter_at + entry.filter_size]


@lru_cache(maxsize=4096)
def open_index(path: str) -> Opened:
    """The index at `path`, checked. Raises FileNotFoundError, Damaged."""
    with Path(path).open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        magic, version, _, size, crc = _HEAD.unpack_from(data)
    except struct.error:
        raise Damaged(0, "expected the head of an index, found less") from None
    if magic != _MAGIC or version != _VERSION:
        raise Damaged(0, f"expected an index of version {_VERSION}, found {magic!r} {version}")
    view = memoryview(data)
    if zlib.crc32(view[_HEAD.size :]) != crc:
        raise Damaged(_HEAD.size, "expected an index with its checksum, found other bytes")
    index = _decode_index(view[_HEAD.size : _HEAD.size + size])
    return Opened(index, view[_HEAD.size + size :])


class Block:
    """One opened block: its texts at once, its columns when first asked for."""

    def __init__(self, data: bytes, entry: Entry) -> None:
        """`data` is what the block file holds at the entry's place. Raises Damaged."""
        if len(data) < _BLOCK.size or zlib.crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
            raise Damaged(entry.offset, "expected a block with its checksum, found other bytes")
        _, columns, texts = _BLOCK.unpack_from(data)
        unpack = unpacker().decompress
        self._entry = entry
        self._packed = data[_BLOCK.size : _BLOCK.size + columns]
        self._columns: _Columns | None = None
        self.text = unpack(data[_BLOCK.size + columns : _BLOCK.size + columns + texts], max_output_size=_MAX_RAW)

    @property
    def columns(self) -> _Columns:
        """Everything but the texts."""
        if self._columns is None:
            raw = unpacker().decompress(self._packed, max_output_size=_MAX_RAW)
            self._columns = _decode_columns(raw)
        return self._columns

    def ends(self) -> "array[int]":
        """Where each text ends."""
        return array("I", self.columns.ends)

    def times(self) -> list[int]:
        """The time of each line."""
        return list(accumulate(array("q", self.columns.at)))

    def origins(self) -> "array[int]":
        """The place of each line's origin in the entry."""
        return array("H", self.columns.origin)

    def gap_places(self) -> list[int]:
        """The lines that are gaps."""
        return [place for place, _ in self.columns.gaps] if self._entry.gaps else []

    def _times_at(self, places: Sequence[int] | None) -> Mapping[int, int] | Sequence[int]:
        """The times of the lines at `places`, which ascend: only sums of the differences that lie between them."""
        if places is None:
            return self.times()
        at, times, time, behind = array("q", self.columns.at), dict[int, int](), 0, 0
        for place in places:
            time, behind = time + sum(at[behind : place + 1]), place + 1
            times[place] = time
        return times

    def lines(self, places: Sequence[int] | None = None) -> list[LogLine]:
        """The lines at `places` (all without), in order."""
        columns, entry = self.columns, self._entry
        ends, at, origin = self.ends(), self._times_at(places), self.origins()
        partial, gaps = frozenset(columns.partial), dict(columns.gaps)
        gap_places = [place for place, _ in columns.gaps]
        skipped = list(accumulate((gap - 1 for _, gap in columns.gaps), initial=0))
        lines: list[LogLine] = []
        for place in range(len(ends)) if places is None else places:
            stream, source, instance, release = entry.origins[origin[place]]
            lines.append(
                LogLine(
                    number=entry.first + place + skipped[bisect_left(gap_places, place)],
                    at=at[place],
                    text=self.text[ends[place - 1] + 1 if place else 0 : ends[place]].decode(),
                    stream=stream,
                    source=source,
                    instance=instance,
                    release=release,
                    partial=place in partial,
                    gap=gaps.get(place, 0),
                )
            )
        return lines
