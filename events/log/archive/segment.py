"""A segment's bytes: stored batches verbatim, one after another, their events once more by stream (runs.py), then an
index of the batches that is checked by itself.

Knows batches' headers, to check their chain; nothing of etcd or of where the bytes are kept. Segments of before there
were runs have nothing between batches and index.
"""

import hashlib
import struct
import zlib
from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from events.log.archive.manifest import SegmentManifest
from events.log.codec import BatchHeader, batch_hash, decode_batch, decode_facts, decode_header
from events.log.errors import CorruptBatch, CorruptSegment
from events.log.records import Position
from events.log.runs import MAGIC as RUNS_MAGIC
from events.log.runs import Runs, encode_runs
from events.log.store import StoredBatch

MAGIC = b"RFS1"
RUNS_MOST = 0.5
"""Of the batches' bytes: events whose bodies are large and cannot be compressed are not kept twice."""
# index length, CRC of the index, magic: the last bytes, so that a truncated segment cannot pass for a whole one.
_TRAILER = struct.Struct(">II4s")


class IndexEntry(msgspec.Struct, frozen=True, array_like=True):
    """One batch: its base, where its bytes begin and how many there are, and the etcd revision it was committed at."""

    base: int
    start: int
    length: int
    revision: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[IndexEntry])


def encode_segment(partition: int, batches: Sequence[StoredBatch]) -> tuple[SegmentManifest, bytes]:
    """The segment of these contiguous batches. Blocking: some 30 ms per MiB.

    Raises CorruptBatch if one is damaged or not the next of the one before it: what is archived is known to be whole.
    """
    headers = [decode_header(batch.value, Position(partition, batch.base)) for batch in batches]
    last_hash = _check_chain(partition, batches, headers)
    entries: list[IndexEntry] = []
    start = 0
    for batch in batches:
        entries.append(IndexEntry(batch.base, start, len(batch.value), batch.revision))
        start += len(batch.value)
    index = _encoder.encode(entries)
    trailer = _TRAILER.pack(len(index), zlib.crc32(index), MAGIC)
    runs = encode_runs(decode_facts(batch.value, Position(partition, batch.base)) for batch in batches)
    if len(runs) > RUNS_MOST * start:
        runs = b""
    data = b"".join((*(batch.value for batch in batches), runs, index, trailer))
    sha256 = hashlib.sha256(data).hexdigest()
    base = headers[0].base
    manifest = SegmentManifest(
        base=base,
        end=headers[-1].end,
        # The hash in the name: two archivers that chose differently write two blobs, and only one gets a manifest.
        location=f"segments/{partition:02d}/{base:016x}-{sha256}",
        sha256=sha256,
        bytes=len(data),
        events=headers[-1].end - base,
        t_min=min(header.t_min for header in headers),
        t_max=max(header.t_max for header in headers),
        first_previous=headers[0].previous.hex(),
        last_hash=last_hash.hex(),
    )
    return manifest, data


def _check_chain(partition: int, batches: Sequence[StoredBatch], headers: Sequence[BatchHeader]) -> bytes:
    """Each batch continues the one before it; returns the last one's hash."""
    expected, previous = headers[0].base, headers[0].previous
    for batch, header in zip(batches, headers, strict=True):
        at = Position(partition, batch.base)
        if header.base != expected:
            raise CorruptBatch(at, f"expected the batch at offset {expected} before it")
        # Format 1 did not keep it.
        if header.previous and header.previous != previous:
            raise CorruptBatch(at, "the hash it keeps of the batch before it is another than that batch's")
        expected, previous = header.end, batch_hash(batch.value)
    return previous


class Segment:
    """A segment whose bytes were checked. Holds them whole."""

    def __init__(self, partition: int, manifest: SegmentManifest, entries: Sequence[IndexEntry], data: bytes) -> None:
        self.manifest = manifest
        self._partition = partition
        self._entries = entries
        self._bases = [entry.base for entry in entries]
        self._data = data

    def runs(self) -> Runs | None:
        """Its events by stream; None in a segment that has them in its batches alone."""
        start, end = self._entries[-1].start + self._entries[-1].length, _index_start(self._data)
        if not self._data.startswith(RUNS_MAGIC, start, end):
            return None
        manifest, section = self.manifest, memoryview(self._data)[start:end]
        return Runs(
            partition=self._partition,
            base=manifest.base,
            end=manifest.end,
            location=manifest.location,
            section=section,
        )

    def batches(self, start: int, end: int, limit: int) -> list[StoredBatch]:
        """Batches with a base in [start, end), ascending, at most `limit`."""
        first = bisect_left(self._bases, start)
        last = min(bisect_left(self._bases, end), first + limit)
        return [
            StoredBatch(entry.base, entry.revision, self._data[entry.start : entry.start + entry.length])
            for entry in self._entries[first:last]
        ]


def decode_segment(partition: int, manifest: SegmentManifest, data: bytes) -> Segment:
    """Check the bytes against the manifest, once. Blocking: about 1 ms per MiB. Raises CorruptSegment."""
    begin = Position(partition, manifest.base)
    if len(data) != manifest.bytes:
        raise CorruptSegment(begin, manifest.location, f"expected {manifest.bytes} bytes, found {len(data)}")
    if (found := hashlib.sha256(data).hexdigest()) != manifest.sha256:
        at, damage = _damage(partition, manifest, data)
        why = f"expected SHA-256 {manifest.sha256} as its manifest says, found {found}: {damage}"
        raise CorruptSegment(at, manifest.location, why)
    # The hash matched: what is wrong from here on was written so.
    try:
        return Segment(partition, manifest, _index(data), data)
    except _BadIndex as error:
        raise CorruptSegment(begin, manifest.location, str(error)) from error


class _BadIndex(Exception):
    """The index is not whole; says what was expected and found."""


def _index(data: bytes) -> list[IndexEntry]:
    """Raises _BadIndex."""
    if len(data) < _TRAILER.size:
        raise _BadIndex(f"expected it to end with an index, found {len(data)} bytes in all")
    _, crc, magic = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
    index = data[_index_start(data) : len(data) - _TRAILER.size]
    if magic != MAGIC or zlib.crc32(index) != crc:
        raise _BadIndex(f"expected it to end with {MAGIC!r} and an index before that, found {magic!r}")
    try:
        return _decoder.decode(index)
    except msgspec.MsgspecError as error:
        raise _BadIndex(f"its index cannot be decoded: {error}") from error


def _index_start(data: bytes) -> int:
    """Where the index begins by what the trailer says of it, right or wrong."""
    length = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)[0]
    return max(0, len(data) - _TRAILER.size - int(length))


def _damage(partition: int, manifest: SegmentManifest, data: bytes) -> tuple[Position, str]:
    """Which batch of a segment with another hash is damaged, and how: for the person who must mend it."""
    begin = Position(partition, manifest.base)
    try:
        entries = _index(data)
    except _BadIndex as error:
        return begin, str(error)
    previous = bytes.fromhex(manifest.first_previous)
    for entry in entries:
        at = Position(partition, entry.base)
        value = data[entry.start : entry.start + entry.length]
        where = f"the batch at {at}, bytes {entry.start} to {entry.start + entry.length} of it"
        try:
            header = decode_batch(value, at)[0]
        except CorruptBatch as error:
            return at, f"{where}: {error.why}"
        if header.previous and previous and header.previous != previous:
            return at, f"{where}: the hash it keeps of the batch before it is another than that batch's"
        previous = batch_hash(value)
    if previous.hex() != manifest.last_hash:
        return Position(partition, entries[-1].base), "its last batch has another hash than its manifest says"
    return begin, "every batch of it is whole; the bytes after them are not"
