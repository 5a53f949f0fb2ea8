"""What a log line is, before and after it has its number; what a batch of lines is; how a stream is named.

Knows nothing of files, sockets or who wrote the line.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec

from actors.logs.errors import BadBatch, BadStreamName

Source = Literal["app", "build", "router", "platform"]
OutputStream = Literal["o", "e", ""]
"""Standard output, standard error, or neither."""

MAX_TEXT = 64 * 1024
"""Characters of one line as stored; the longer ones are split by whoever collects them."""
MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Encoded bytes of one batch; a frame on the wire and on disk is never much bigger."""
MAX_GAP = 1 << 40

_STREAM_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}(/[A-Za-z0-9][A-Za-z0-9_-]{0,99})?")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}


def check_stream_name(stream: str) -> str:
    """Return `stream` if it is a service id or `kind/id` (`build/…`, `operation/…`); else raise BadStreamName."""
    if not _STREAM_NAME.fullmatch(stream):
        raise BadStreamName(f"expected a service id or kind/id (letters, digits, - and _), found {stream[:80]!r}")
    return stream


def operation_stream(service_id: str, operation: str) -> str:
    """The finite stream of what is told of an operation, whatever characters its id has."""
    return f"operation/{service_id}-{blake2b(operation.encode(), digest_size=16).hexdigest()}"


class LineRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A line before it has a number. `at`: unix microseconds, when the platform read it.

    `partial`: the text goes on in the next line of the same instance and output stream.
    `gap`: 0 for a line; else how many lines are missing here, `text` saying why. A gap takes as many numbers.
    """

    at: int
    text: str
    stream: OutputStream = ""
    source: Source = "app"
    instance: str = ""
    release: int = 0
    partial: bool = False
    gap: int = 0


class LogLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A stored line. `number` is 1-based and contiguous within its log stream; the rest as in `LineRecord`.

    When `gap` is not 0 this stands for the numbers `number` … `number + gap - 1`, which could not be kept.
    """

    number: int
    at: int
    text: str
    stream: OutputStream
    source: Source
    instance: str
    release: int
    partial: bool
    gap: int = 0

    @property
    def next_number(self) -> int:
        """The number of whatever follows this line."""
        return self.number + (self.gap or 1)

    def display(self) -> str:
        """The text with control characters made visible, so that a line cannot drive the reader's terminal."""
        return self.text if self.text.isprintable() else self.text.translate(_CONTROL)


def numbered(record: LineRecord, number: int) -> LogLine:
    """Give `record` its number."""
    return LogLine(
        number=number,
        at=record.at,
        text=record.text,
        stream=record.stream,
        source=record.source,
        instance=record.instance,
        release=record.release,
        partial=record.partial,
        gap=record.gap,
    )


def gap_record(count: int, reason: str, at: int, *, source: Source = "platform", instance: str = "") -> LineRecord:
    """A record that stands for `count` lines that could not be kept, because of `reason`."""
    return LineRecord(at=at, text=reason, source=source, instance=instance, gap=count)


def gap_line(first: int, end: int, reason: str, at: int) -> LogLine:
    """A line that stands for the numbers `first` … `end - 1`, found missing while reading."""
    return numbered(gap_record(end - first, reason, at), first)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[LineRecord])


class Origin(NamedTuple):
    """What all lines of one instance have in common."""

    source: Source
    instance: str
    release: int


class Span(NamedTuple):
    """What a blob holds: how many numbers its lines take, the least and the greatest time (unix microseconds)."""

    taken: int
    t_min: int
    t_max: int


class Batch(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Lines of one source, with the place in the source where they begin and end.

    `source_id` names the source (an instance's output, a file); `after` and `upto` are positions in it, any integers
    that grow (bytes, counts). A batch is stored only where `after` is the end of what is stored of that source,
    so that sending it again has no effect. `finished`: nothing will follow from this source.
    `blob`: stored as it is; a MessagePack array of `LineRecord`, or, where `origin` is given, an instance's output as
    its shim wrote it (`actors.logs.shimlog`), which crosses the whole path without anyone taking its lines apart.
    """

    source_id: str
    after: int
    upto: int
    blob: bytes
    finished: bool = False
    origin: Origin | None = None

    @classmethod
    def of(
        cls, source_id: str, lines: Sequence[LineRecord], *, after: int, upto: int, finished: bool = False
    ) -> "Batch":
        """Encode `lines`. Raises BadBatch when it would be over MAX_BATCH_BYTES."""
        blob = _encoder.encode(lines)
        if len(blob) > MAX_BATCH_BYTES:
            raise BadBatch(f"expected a batch of at most {MAX_BATCH_BYTES} bytes, found {len(blob)}; send fewer lines")
        return cls(source_id=source_id, after=after, upto=upto, blob=blob, finished=finished)

    def check(self) -> None:
        """Raises BadBatch where anything but the lines themselves is out of bounds."""
        if not 0 < len(self.source_id) <= 200 or not 0 <= self.after <= self.upto < 1 << 63:
            raise BadBatch(
                f"expected a source id and after <= upto, found {self.source_id[:80]!r} {self.after} {self.upto}"
            )
        if len(self.blob) > MAX_BATCH_BYTES:
            raise BadBatch(f"expected a batch of at most {MAX_BATCH_BYTES} bytes, found {len(self.blob)}")


def check_records(records: Sequence[LineRecord]) -> Span:
    """What `records` take. Raises BadBatch where one is out of bounds."""
    for record in records:
        if len(record.text) > MAX_TEXT or not 0 <= record.gap <= MAX_GAP or not 0 <= record.at < 1 << 62:
            raise BadBatch(f"expected text up to {MAX_TEXT} characters, a gap and a time in range; found others")
    times = [record.at for record in records] or [0]
    return Span(numbers_taken(records), min(times), max(times))


def decode_records(blob: bytes) -> list[LineRecord]:
    """Decode a MessagePack array of `LineRecord`. Raises BadBatch."""
    try:
        return _decoder.decode(blob)
    except msgspec.MsgspecError as error:
        raise BadBatch(f"expected a MessagePack array of line records: {error}") from error


def numbers_taken(records: Sequence[LineRecord]) -> int:
    """How many numbers `records` take: one each, and a gap as many as it stands for."""
    return len(records) + sum(record.gap - 1 for record in records if record.gap)
