"""Turns what a shim wrote (format: actors/runtime/output.py) into line records. Pure; knows no files, no network."""

from typing import NamedTuple

from actors.logs.line import MAX_TEXT, LineRecord, OutputStream, Source

_STREAMS: dict[bytes, OutputStream] = {b"o": "o", b"e": "e"}


class Origin(NamedTuple):
    """What all lines of one instance have in common."""

    source: Source
    instance: str
    release: int


class Decoder:
    """Decodes one instance's records. Keeps the bytes of a character that was cut between two pieces of a long line."""

    def __init__(self, origin: Origin) -> None:
        self.malformed = 0
        self._origin = origin
        self._cut: dict[OutputStream, bytes] = {}

    def decode(self, records: bytes, now: int) -> list[LineRecord]:
        """The lines of whole records (each ends with a newline). `now` (unix microseconds) stands in for a bad time.

        Bytes that are not UTF-8 become U+FFFD. A record that is not in the format is kept as a line as it is.
        """
        return [self._line(record, now) for record in records.removesuffix(b"\n").split(b"\n")] if records else []

    def _line(self, record: bytes, now: int) -> LineRecord:
        source, instance, release = self._origin
        fields = record.split(b" ", 3)
        stream = _STREAMS.get(fields[1]) if len(fields) == 4 else None
        if stream is None or not fields[0].isdigit() or len(fields[0]) > 18:
            self.malformed += 1
            text = record.decode("utf-8", "replace")[:MAX_TEXT]
            return LineRecord(at=now, text=text, source=source, instance=instance, release=release)
        partial = fields[2] == b"P"
        text = self._text(fields[3], stream, partial) if partial or self._cut else fields[3].decode("utf-8", "replace")
        return LineRecord(
            at=int(fields[0]),
            text=text[:MAX_TEXT],
            stream=stream,
            source=source,
            instance=instance,
            release=release,
            partial=partial,
        )

    def _text(self, data: bytes, stream: OutputStream, partial: bool) -> str:
        data = self._cut.pop(stream, b"") + data
        if partial and (tail := _unfinished(data)):
            self._cut[stream] = data[-tail:]
            data = data[:-tail]
        return data.decode("utf-8", "replace")


def _unfinished(data: bytes) -> int:
    """How many bytes at the end begin a UTF-8 character that is not whole (0 to 3)."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if length > back else 0
    return 0


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
