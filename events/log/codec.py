"""Record batches to bytes and back: a plain header that is readable by itself, and a body of MessagePack records.

Knows the envelope's shape and nothing of any event's meaning, nor where the bytes are kept.
"""

import struct
import zlib
from collections.abc import Sequence

import msgspec
import zstandard

from events.log.errors import CorruptBatch, InvalidAppend
from events.log.records import EventRecord, Position

FORMAT = 1
MAX_BATCH_RECORDS = 512
MAX_BATCH_BYTES = 256 * 1024
"""Of encoded, uncompressed records. With header and etcd's envelope this stays well below its 1.5 MiB request limit."""

COMPRESS_FROM_BYTES = 512
COMPRESS_MUST_SAVE = 0.9
"""Keep the compressed body only if it is at most this share of the plain one: reading it costs time for ever."""

_MAGIC = b"RFB1"
# magic, header length, CRC of the header, CRC of the stored body. The design says CRC32C; no CRC32C library is among
# our dependencies, so it is zlib's CRC-32, which detects the same classes of error at these sizes. Another polynomial
# would be another FORMAT.
_PREFIX = struct.Struct(">4sIII")
_ZSTD = "zstd"
_PLAIN = ""


class StreamSpan(msgspec.Struct, frozen=True, array_like=True):
    """The versions one stream gains in a batch, both inclusive."""

    stream: str
    first_version: int
    last_version: int


class CommandSpan(msgspec.Struct, frozen=True, array_like=True):
    """The records one command wrote: 0-based indexes within the batch, both inclusive."""

    command_id: str
    first_index: int
    last_index: int


class BatchHeader(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """All that index, audit and de-duplication need. `base` is the offset of record 0; times in microseconds."""

    format: int
    partition: int
    base: int
    count: int
    epoch: int
    txn_id: str
    t_min: int
    t_max: int
    streams: tuple[StreamSpan, ...]
    commands: tuple[CommandSpan, ...]
    compression: str
    body_bytes: int

    @property
    def end(self) -> int:
        """The offset after the last record: where the next batch must begin."""
        return self.base + self.count


class EncodedCommand(msgspec.Struct, frozen=True, kw_only=True):
    """One command's records, encoded and checked, ready to be placed in a batch."""

    command_id: str
    records: tuple[bytes, ...]
    streams: tuple[StreamSpan, ...]
    t_min: int
    t_max: int
    size: int
    """Bytes of all records together."""


_encoder = msgspec.msgpack.Encoder()
_records_decoder = msgspec.msgpack.Decoder(list[EventRecord])
_header_decoder = msgspec.msgpack.Decoder(BatchHeader)
_compressor = zstandard.ZstdCompressor(level=1)
_decompressor = zstandard.ZstdDecompressor()


def encode_command(command_id: str, events: Sequence[EventRecord]) -> EncodedCommand:
    """Encode one command's events. Raises InvalidAppend if they could not be read back: a batch is written for ever."""
    if not events:
        raise InvalidAppend(f"command {command_id!r}: expected at least one event, found none")
    if not 0 < len(command_id) <= 200:
        raise InvalidAppend(f"expected a command id of 1 to 200 characters, found {len(command_id)}")
    try:
        records = tuple(_encoder.encode(event) for event in events)
        _records_decoder.decode(_body(records))
    except (msgspec.MsgspecError, TypeError, UnicodeError, OverflowError) as error:
        raise InvalidAppend(f"command {command_id!r}: an event cannot be stored: {error}") from error
    times = [event.at for event in events]
    return EncodedCommand(
        command_id=command_id,
        records=records,
        streams=_spans(command_id, events),
        t_min=min(times),
        t_max=max(times),
        size=sum(map(len, records)),
    )


def encode_batch(
    *, partition: int, base: int, epoch: int, txn_id: str, commands: Sequence[EncodedCommand]
) -> tuple[BatchHeader, bytes]:
    """Join commands, in order, into one batch that starts at offset `base`."""
    records = [record for command in commands for record in command.records]
    plain = _body(records)
    compression, body = _compress(plain)
    header = BatchHeader(
        format=FORMAT,
        partition=partition,
        base=base,
        count=len(records),
        epoch=epoch,
        txn_id=txn_id,
        t_min=min(command.t_min for command in commands),
        t_max=max(command.t_max for command in commands),
        streams=_merge(commands),
        commands=_command_spans(commands),
        compression=compression,
        body_bytes=len(plain),
    )
    head = _encoder.encode(header)
    prefix = _PREFIX.pack(_MAGIC, len(head), zlib.crc32(head), zlib.crc32(body))
    return header, b"".join((prefix, head, body))


def decode_header(value: bytes, at: Position) -> BatchHeader:
    """The header alone, the body unread. `at` is where the batch was found; raises CorruptBatch naming it."""
    return _split(value, at)[0]


def decode_batch(value: bytes, at: Position) -> tuple[BatchHeader, list[EventRecord]]:
    """Header and records. `at` is where the batch was found; raises CorruptBatch naming it."""
    header, body_crc, body = _split(value, at)
    if zlib.crc32(body) != body_crc:
        raise CorruptBatch(at, "the checksum of its body does not match")
    try:
        plain = _decompress(header, body)
        records = _records_decoder.decode(plain)
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptBatch(at, f"its body cannot be decoded: {error}") from error
    if len(records) != header.count or len(plain) != header.body_bytes:
        raise CorruptBatch(at, f"its header counts {header.count} records, its body holds {len(records)}")
    return header, records


def _split(value: bytes, at: Position) -> tuple[BatchHeader, int, memoryview]:
    if len(value) < _PREFIX.size:
        raise CorruptBatch(at, f"expected at least {_PREFIX.size} bytes, found {len(value)}")
    magic, head_length, head_crc, body_crc = _PREFIX.unpack_from(value)
    if magic != _MAGIC:
        raise CorruptBatch(at, f"expected it to begin with {_MAGIC!r}, found {magic!r}")
    view = memoryview(value)
    head = view[_PREFIX.size : _PREFIX.size + head_length]
    if zlib.crc32(head) != head_crc:
        raise CorruptBatch(at, "the checksum of its header does not match")
    try:
        header = _header_decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptBatch(at, f"its header cannot be decoded: {error}") from error
    if header.format != FORMAT:
        raise CorruptBatch(at, f"expected format {FORMAT}, found {header.format}: it needs a newer release")
    # A batch under another batch's key would pass its own checksum.
    if (header.partition, header.base) != at:
        raise CorruptBatch(at, f"its header says {header.partition}:{header.base}")
    return header, body_crc, view[_PREFIX.size + head_length :]


def _body(records: Sequence[bytes]) -> bytes:
    """A MessagePack array of already encoded records."""
    count = len(records)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(records)


def _compress(plain: bytes) -> tuple[str, bytes]:
    if len(plain) >= COMPRESS_FROM_BYTES:
        packed = _compressor.compress(plain)
        if len(packed) <= COMPRESS_MUST_SAVE * len(plain):
            return _ZSTD, packed
    return _PLAIN, plain


def _decompress(header: BatchHeader, body: memoryview) -> bytes:
    if header.compression == _PLAIN:
        return bytes(body)
    if header.compression != _ZSTD:
        raise msgspec.DecodeError(f"unknown compression {header.compression!r}")
    # The size stored in the frame bounds the output; without the check a damaged frame could ask for any amount.
    if zstandard.frame_content_size(body) != header.body_bytes:
        raise zstandard.ZstdError("its compressed size differs from the header's")
    return _decompressor.decompress(body, max_output_size=header.body_bytes)


def _spans(command_id: str, events: Sequence[EventRecord]) -> tuple[StreamSpan, ...]:
    spans: dict[str, tuple[int, int]] = {}
    for event in events:
        first, last = spans.get(event.stream, (event.version, event.version - 1))
        if event.version != last + 1 or event.version < 1:
            raise InvalidAppend(
                f"command {command_id!r}: expected version {max(1, last + 1)} of stream {event.stream}, "
                f"found {event.version}"
            )
        spans[event.stream] = (first, event.version)
    return tuple(StreamSpan(stream, first, last) for stream, (first, last) in spans.items())


def _merge(commands: Sequence[EncodedCommand]) -> tuple[StreamSpan, ...]:
    merged: dict[str, StreamSpan] = {}
    for command in commands:
        for span in command.streams:
            known = merged.get(span.stream)
            first = span.first_version if known is None else known.first_version
            merged[span.stream] = StreamSpan(span.stream, first, span.last_version)
    return tuple(merged.values())


def _command_spans(commands: Sequence[EncodedCommand]) -> tuple[CommandSpan, ...]:
    spans: list[CommandSpan] = []
    index = 0
    for command in commands:
        spans.append(CommandSpan(command.command_id, index, index + len(command.records) - 1))
        index += len(command.records)
    return tuple(spans)
