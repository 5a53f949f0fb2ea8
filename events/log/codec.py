"""Record batches to bytes and back: a plain header that is readable by itself, and a body of columns (format 2).

Knows the envelope's shape and nothing of any event's meaning, nor where the bytes are kept. Format 1 (rows, no chain)
is read for ever and written no more; why format 2 is as it is: docs/decisions/0010.
"""

import hashlib
import struct
import threading
import zlib
from collections.abc import Collection, Sequence

import msgspec
import zstandard

from events.log.columns import (
    Facts,
    decode_facts_section,
    encode_columns,
    facts_of,
    join_envelopes,
    transpose,
    type_names,
)
from events.log.errors import CorruptBatch, InvalidAppend
from events.log.records import EventRecord, Position

FORMAT = 2
READABLE_FORMATS = (1, 2)
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


class StreamSpan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The versions one stream gains in a batch, both inclusive."""

    stream: str
    first_version: int
    last_version: int


class CommandSpan(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The records one command wrote: 0-based indexes within the batch, both inclusive.

    `last_version` is the version of the last of them in its stream; 0 in a batch of format 1, which did not keep it.
    """

    command_id: str
    first_index: int
    last_index: int
    last_version: int = 0


class BatchHeader(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
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
    """Of the body before compression."""
    previous: bytes = b""
    """`batch_hash` of the batch before this one, whatever its format; empty at base 0, and in format 1."""
    facts_bytes: int = 0
    """Of the body's first section, the facts, before compression. The envelopes' section is the rest."""
    facts_stored: int = 0
    """Of the first section as stored."""

    @property
    def end(self) -> int:
        """The offset after the last record: where the next batch must begin."""
        return self.base + self.count


class _BareHeader(BatchHeader, frozen=True, array_like=True, kw_only=True, gc=False):
    """The same bytes for who asks where a batch ends: making the lists is nearly all that a header costs."""

    streams: msgspec.Raw  # type: ignore[assignment]
    commands: msgspec.Raw  # type: ignore[assignment]


class _FoldHeader(BatchHeader, frozen=True, array_like=True, kw_only=True, gc=False):
    """The same bytes for a fold, which has no use for commands: making them is half of what a header costs."""

    commands: msgspec.Raw  # type: ignore[assignment]


class CheckedCommand(msgspec.Struct, frozen=True, gc=False):
    """One command's events, known to survive the way to bytes and back, ready to be placed in a batch."""

    command_id: str
    events: tuple[EventRecord, ...]
    streams: tuple[StreamSpan, ...]
    size: int
    """Bytes of all events together, each encoded by itself: about what they take in a batch before compression."""


_encoder = msgspec.msgpack.Encoder()
_encode_into = _encoder.encode_into
_decode_record = msgspec.msgpack.Decoder(EventRecord).decode
_records_decoder = msgspec.msgpack.Decoder(list[EventRecord])
_header_decoder = msgspec.msgpack.Decoder(BatchHeader)
_fold_header_decoder: "msgspec.msgpack.Decoder[BatchHeader]" = msgspec.msgpack.Decoder(_FoldHeader)
_bare_header_decoder: "msgspec.msgpack.Decoder[BatchHeader]" = msgspec.msgpack.Decoder(_BareHeader)


class _OfThread(threading.local):
    """What several threads at once must not share."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()
        self.scratch = bytearray()
        """One event's bytes: new ones for each would cost as much as encoding it."""


_threads = _OfThread()


def batch_hash(value: bytes) -> bytes:
    """SHA-256 of a stored batch, whole and as stored: what the next batch carries as `previous`."""
    return hashlib.sha256(value).digest()


def check_command(command_id: str, events: Sequence[EventRecord]) -> CheckedCommand:
    """Check one command's events. Raises InvalidAppend if they could not be read back: a batch is written for ever."""
    if not events:
        raise InvalidAppend(f"command {command_id!r}: expected at least one event, found none")
    if not 0 < len(command_id) <= 200:
        raise InvalidAppend(f"expected a command id of 1 to 200 characters, found {len(command_id)}")
    scratch = _threads.scratch
    try:
        if not command_id.isascii():
            command_id.encode()
        size = 0
        for event in events:
            _encode_into(event, scratch)
            _decode_record(scratch)
            size += len(scratch)
    except (msgspec.MsgspecError, TypeError, UnicodeError, OverflowError) as error:
        raise InvalidAppend(f"command {command_id!r}: an event cannot be stored: {error}") from error
    if len(events) == 1 and (version := event.version) >= 1 and event.at >= 0:
        return CheckedCommand(command_id, tuple(events), (StreamSpan(event.stream, version, version),), size)
    if (earliest := min(event.at for event in events)) < 0:
        raise InvalidAppend(f"command {command_id!r}: expected times since 1970 in microseconds, found {earliest}")
    return CheckedCommand(command_id, tuple(events), _spans(command_id, events), size)


def encode_batch(
    *, partition: int, base: int, epoch: int, txn_id: str, previous: bytes, commands: Sequence[CheckedCommand]
) -> tuple[BatchHeader, bytes]:
    """Join commands, in order, into one batch that starts at offset `base`; `previous`: the last batch's hash."""
    events = [event for command in commands for event in command.events]
    columns = transpose(events)
    streams, numbers = _merge([span for command in commands for span in command.streams])
    spans, command_of = _command_spans(commands, columns.versions)
    t_min = min(columns.times)
    facts, envelopes = encode_columns(columns, streams=numbers, commands=command_of, t_min=t_min)
    compression, stored_facts, stored_envelopes = _compress(facts, envelopes)
    header = BatchHeader(
        format=FORMAT,
        partition=partition,
        base=base,
        count=len(events),
        epoch=epoch,
        txn_id=txn_id,
        t_min=t_min,
        t_max=max(columns.times),
        streams=streams,
        commands=spans,
        compression=compression,
        body_bytes=len(facts) + len(envelopes),
        previous=previous,
        facts_bytes=len(facts),
        facts_stored=len(stored_facts),
    )
    head = _encoder.encode(header)
    body_crc = zlib.crc32(stored_envelopes, zlib.crc32(stored_facts))
    prefix = _PREFIX.pack(_MAGIC, len(head), zlib.crc32(head), body_crc)
    return header, b"".join((prefix, head, stored_facts, stored_envelopes))


def decode_header(value: bytes, at: Position) -> BatchHeader:
    """The header alone, the body unread. `at` is where the batch was found; raises CorruptBatch naming it."""
    return _split(value, at)[0]


def decode_end(value: bytes, at: Position) -> int:
    """The offset after the batch's last record, by its header. Raises as `decode_header`."""
    return _split(value, at, _bare_header_decoder)[0].end


def decode_batch(value: bytes, at: Position) -> tuple[BatchHeader, list[EventRecord]]:
    """Header and records. `at` is where the batch was found; raises CorruptBatch naming it."""
    header, body = _checked_body(value, at)
    try:
        if header.format == 1:
            return header, _decode_rows(header, body)
        facts = _facts(header, body)
        section = _decompress(header, body[header.facts_stored :], header.body_bytes - header.facts_bytes)
        return header, join_envelopes(facts, section, _command_of_each(header.commands))
    except _UNDECODABLE as error:
        raise CorruptBatch(at, f"its body cannot be decoded: {error}") from error


def decode_facts(value: bytes, at: Position) -> Facts:
    """Only what a fold needs: about a third of the work of `decode_batch`. Raises CorruptBatch naming `at`."""
    header, body = _checked_body(value, at, _fold_header_decoder)
    try:
        return _facts(header, body) if header.format != 1 else facts_of(_decode_rows(header, body), base=header.base)
    except _UNDECODABLE as error:
        raise CorruptBatch(at, f"its body cannot be decoded: {error}") from error


def decode_types(value: bytes, at: Position) -> tuple[BatchHeader, Collection[str]]:
    """Header, and the types of which the batch holds events: for whoever wants few, a quarter of the work of
    `decode_batch`. Raises CorruptBatch naming `at`."""
    header, body = _checked_body(value, at, _fold_header_decoder)
    try:
        if header.format == 1:
            return header, {record.type for record in _decode_rows(header, body)}
        return header, type_names(_decompress(header, body[: header.facts_stored], header.facts_bytes))
    except _UNDECODABLE as error:
        raise CorruptBatch(at, f"its body cannot be decoded: {error}") from error


_UNDECODABLE = (zstandard.ZstdError, msgspec.MsgspecError, UnicodeError, IndexError, ValueError)


def _checked_body(
    value: bytes, at: Position, decoder: "msgspec.msgpack.Decoder[BatchHeader]" = _header_decoder
) -> tuple[BatchHeader, memoryview]:
    header, body_crc, body = _split(value, at, decoder)
    if zlib.crc32(body) != body_crc:
        raise CorruptBatch(at, "the checksum of its body does not match")
    return header, body


def _facts(header: BatchHeader, body: memoryview) -> Facts:
    return decode_facts_section(
        _decompress(header, body[: header.facts_stored], header.facts_bytes),
        base=header.base,
        count=header.count,
        streams=[span.stream for span in header.streams],
        t_min=header.t_min,
    )


def _decode_rows(header: BatchHeader, body: memoryview) -> list[EventRecord]:
    """The body of format 1: a MessagePack array of records."""
    plain = _decompress(header, body, header.body_bytes)
    records = _records_decoder.decode(plain)
    if len(records) != header.count or len(plain) != header.body_bytes:
        raise ValueError(f"its header counts {header.count} records, its body holds {len(records)}")
    return records


def _split(
    value: bytes, at: Position, decoder: "msgspec.msgpack.Decoder[BatchHeader]" = _header_decoder
) -> tuple[BatchHeader, int, memoryview]:
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
        header = decoder.decode(head)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise CorruptBatch(at, f"its header cannot be decoded: {error}") from error
    if header.format not in READABLE_FORMATS:
        raise CorruptBatch(at, f"expected format 1 or {FORMAT}, found {header.format}: it needs a newer release")
    # A batch under another batch's key would pass its own checksum.
    if (header.partition, header.base) != at:
        raise CorruptBatch(at, f"its header says {header.partition}:{header.base}")
    return header, body_crc, view[_PREFIX.size + head_length :]


def _compress(facts: bytes, envelopes: bytes) -> tuple[str, bytes, bytes]:
    """Both sections by themselves, so that a fold need not unpack the envelopes; both or neither."""
    plain = len(facts) + len(envelopes)
    if plain >= COMPRESS_FROM_BYTES:
        compressor = _threads.compressor
        packed = compressor.compress(facts), compressor.compress(envelopes)
        if sum(map(len, packed)) <= COMPRESS_MUST_SAVE * plain:
            return _ZSTD, *packed
    return _PLAIN, facts, envelopes


def _decompress(header: BatchHeader, stored: memoryview, size: int) -> bytes:
    """`stored` as it was before compression: `size` bytes."""
    if header.compression == _PLAIN:
        plain = bytes(stored)
        if len(plain) != size:
            raise ValueError(f"expected {size} bytes, found {len(plain)}")
        return plain
    if header.compression != _ZSTD:
        raise ValueError(f"unknown compression {header.compression!r}")
    # The size stored in the frame bounds the output; without the check a damaged frame could ask for any amount.
    if zstandard.frame_content_size(stored) != size:
        raise ValueError("its compressed size differs from the header's")
    return _threads.decompressor.decompress(stored, max_output_size=size)


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


def _merge(spans: Sequence[StreamSpan]) -> tuple[tuple[StreamSpan, ...], dict[str, int]]:
    """One span per stream, and each stream's index among them."""
    numbers = {span.stream: index for index, span in enumerate(spans)}
    if len(numbers) == len(spans):
        return tuple(spans), numbers
    merged: dict[str, StreamSpan] = {}
    for span in spans:
        known = merged.get(span.stream)
        joined = span if known is None else StreamSpan(span.stream, known.first_version, span.last_version)
        merged[span.stream] = joined
    return tuple(merged.values()), {stream: index for index, stream in enumerate(merged)}


def _command_spans(
    commands: Sequence[CheckedCommand], versions: Sequence[int]
) -> tuple[tuple[CommandSpan, ...], Sequence[str]]:
    """Each command's span, and each event's command id; `versions`: each event's."""
    ids = [command.command_id for command in commands]
    count = len(versions)
    if len(ids) == count:
        return tuple(map(CommandSpan, ids, range(count), range(count), versions)), ids
    spans: list[CommandSpan] = []
    index = 0
    for command in commands:
        end = index + len(command.events)
        spans.append(CommandSpan(command.command_id, index, end - 1, versions[end - 1]))
        index = end
    return tuple(spans), _command_of_each(spans)


def _command_of_each(spans: Sequence[CommandSpan]) -> list[str]:
    """Each event's command id, in order."""
    ids: list[str] = []
    for span in spans:
        ids += [span.command_id] * (span.last_index - span.first_index + 1)
    return ids
