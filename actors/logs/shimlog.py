"""What a shim wrote (format: actors/runtime/output.py), as the log service carries it: whole records, as bytes.

Pure; knows no files, no network. One mark is ours: `J` in place of `F` joins a record to the one that follows it, with
a newline in between, so that a stack trace is one line with one number. Marking changes no length and no offset.
"""

import re
from operator import itemgetter

from actors.logs.errors import BadBatch
from actors.logs.line import MAX_TEXT, LineRecord, Origin, OutputStream, Span

_STREAMS: dict[bytes, OutputStream] = {b"o": "o", b"e": "e"}
_HEAD = re.compile(rb"(\d{1,18}) [oe] ([FPJ]) ")
_HEAD_BYTES = len(b"1764200000000000 o F ")
_first_bytes = itemgetter(slice(0, _HEAD_BYTES))
_RECORD = re.compile(rb"(\d{1,18}) ([oe]) ([FPJ]) ([^\n]*)\n")


def measure(records: bytes) -> Span | None:
    """The numbers and times that whole records take; None where a byte of them is not in the format."""
    if not records.endswith(b"\n"):
        return None
    rows = records[:-1].split(b"\n")
    heads = None
    if b" J " not in records:
        # A shim stamps all it finds in a pipe at once: thousands of records have a handful of heads.
        heads = [_HEAD.match(head) for head in set(map(_first_bytes, rows))]
    if heads is None or None in heads:
        heads = [_HEAD.match(row) for row in rows]
    found = [head for head in heads if head is not None]
    if len(found) != len(heads):
        return None
    stamps = [int(head[1]) for head in found]
    # What ends in a J has nothing to be joined to; it is a line.
    joined = sum(head[2] == b"J" for head in found[:-1]) if len(found) == len(rows) else 0
    return Span(len(rows) - joined, min(stamps), max(stamps))


def newest(records: bytes) -> int:
    """The time of the last of whole records, unix microseconds; 0 where it has none."""
    head = _HEAD.match(records, records.rfind(b"\n", 0, -1) + 1)
    return int(head[1]) if head else 0


def check(records: bytes) -> Span:
    """As `measure`, for what came over the wire. Raises BadBatch."""
    span = measure(records)
    if span is None:
        raise BadBatch("expected whole records as a shim writes them, found other bytes")
    return span


def decode(origin: Origin, records: bytes) -> list[LineRecord]:
    """The lines of records that `measure` accepts. Bytes that are not UTF-8 become U+FFFD."""
    source, instance, release = origin
    rows = _RECORD.findall(records)
    return [
        LineRecord(
            at=int(at),
            text=data.decode("utf-8", "replace"),
            stream=_STREAMS[stream],
            source=source,
            instance=instance,
            release=release,
            partial=mark == b"P",
        )
        for at, stream, mark, data in (_joined(rows) if b" J " in records else rows)
    ]


def _joined(rows: list[tuple[bytes, bytes, bytes, bytes]]) -> list[tuple[bytes, bytes, bytes, bytes]]:
    lines: list[tuple[bytes, bytes, bytes, bytes]] = []
    parts: list[bytes] = []
    for at, stream, mark, data in rows:
        if not parts:
            head = (at, stream)
        parts.append(data)
        if mark != b"J":
            lines.append((*head, mark, b"\n".join(parts)))
            parts = []
    if parts:
        lines.append((*head, b"F", b"\n".join(parts)))
    return lines


def decode_damaged(origin: Origin, records: bytes, now: int) -> list[LineRecord]:
    """The lines of bytes that `measure` refused: what is not a record is kept as a line as it is, at the time `now`."""
    lines: list[LineRecord] = []
    for record in records.removesuffix(b"\n").split(b"\n"):
        if _RECORD.fullmatch(record + b"\n"):
            lines += decode(origin, record + b"\n")
        else:
            text = record.decode("utf-8", "replace")[:MAX_TEXT]
            source, instance, release = origin
            lines.append(LineRecord(at=now, text=text, source=source, instance=instance, release=release))
    return lines


def segment_losses(dropped: bytes) -> dict[int, int]:
    """Lines of each segment that was deleted unread, from the file `dropped`; a segment listed twice counts once."""
    losses: dict[int, int] = {}
    for fields in _losses(dropped):
        if fields[4] == b"cap":
            losses[int(fields[1])] = int(fields[2])
    return losses


def disk_losses(dropped: bytes) -> tuple[int, int]:
    """Lines the disk refused, counted in `dropped`, and the time of the last of them (unix microseconds)."""
    lost = [(int(fields[2]), int(fields[0])) for fields in _losses(dropped) if fields[4] == b"disk"]
    return sum(lines for lines, _ in lost), lost[-1][1] if lost else 0


def _losses(dropped: bytes) -> list[list[bytes]]:
    rows = (row.split() for row in dropped.split(b"\n"))
    return [fields for fields in rows if len(fields) == 5 and all(field.isdigit() for field in fields[:4])]
