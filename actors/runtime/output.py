"""Reads an instance's output segments, and says what their writer promises and what a collector must do.

Knows nothing of processes or of the shim; the collector in actors/logs is written against this page.

Directory: `Runtime.log_directory(instance_id)`, i.e. `{instance}/log/`. Files:

- `NNNNNN.log`: segments, numbered from 000001, read in the order of their numbers (more digits after 999999). Only the
  newest one grows, append-only. A segment is closed at 8 MiB, and whenever a replacement shim takes over.
- A record is one line: `<unix micros> <o|e> <F|P> <bytes>\n`. `o` is stdout, `e` is stderr. `F` ends a line of output;
  `P` is a piece of a line longer than 16 KiB, continued by the next record of the same stream. The bytes are the
  application's own, in any encoding, without the newline. A last line without a newline is an `F`.
- A record is whole once its newline is there. A torn record can only be the end of a segment that is no longer the
  newest (its shim was killed in the middle); the successor writes those bytes again, so a reader skips the torn one.
- Nothing is lost while nobody reads or when the shim is killed: output waits in the pipe (256 KiB, then the application
  waits) for its successor. Only when shim and application die together is what was in the pipe gone. A shim killed
  between writing a batch and taking it from the pipe makes its successor write that batch again: at most one batch
  (256 KiB) per kill -9 appears twice, none never.
- `dropped`: one line per loss, appended: `<unix micros> <segment> <lines> <bytes> <cap|disk>`. `cap`: 64 MiB were
  unread, so this whole segment was deleted; what was lost is its lines less those the collector had already taken of
  it; if a segment is listed twice, the lines are the same. `disk`: the disk refused these lines; they were never in a
  segment.

The collector acknowledges by deleting: any segment but the newest, once stored; all once `exit.json` exists beside
`log/` (no byte is written after it), when it leaves the last one that holds anything under the name `stored`, so that
the last lines can still be told. `dropped` is never deleted; remember how many bytes of it were read.
"""

from collections import deque
from collections.abc import Iterator
from os import SEEK_END
from pathlib import Path

import msgspec

from actors.runtime.shim.segments import DROPPED, LINE_BYTES_MAX, segment_number

STORED = "stored"
"""What the collector leaves of an instance that has ended; no segment's name."""
_RECORD_HEAD_BYTES = 32


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record of a segment."""

    at: int
    """Unix microseconds, when the shim took it from the pipe."""
    error: bool
    """True for stderr."""
    partial: bool
    data: bytes
    end_offset: int
    """Offset in the segment just after this record: where to go on."""


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """One counted loss."""

    at: int
    segment: int
    lines: int
    size: int
    cause: str


def segments(directory: Path) -> list[tuple[int, Path]]:
    """The segments there are, oldest first; empty when the directory is not there (yet, or any more)."""
    try:
        found = [(segment_number(path.name), path) for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return sorted((number, path) for number, path in found if number)


def parse(content: bytes, base: int = 0) -> Iterator[Record]:
    """The whole records in `content`, which begins at offset `base` of its segment; a torn end is left out."""
    position = 0
    while (end := content.find(b"\n", position)) >= 0:
        at, stream, mark, data = content[position:end].split(b" ", 3)
        position = end + 1
        yield Record(at=int(at), error=stream == b"e", partial=mark == b"P", data=data, end_offset=base + position)


def dropped(directory: Path) -> list[Dropped]:
    """All losses counted so far."""
    try:
        lines = (directory / DROPPED).read_text("ascii").splitlines()
    except FileNotFoundError:
        return []
    fields = (line.split() for line in lines)
    return [
        Dropped(at=int(at), segment=int(segment), lines=int(count), size=int(size), cause=cause)
        for at, segment, count, size, cause in fields
    ]


def last_lines(directory: Path, count: int) -> list[str]:
    """The newest `count` lines still on disk, oldest first; bytes that are not UTF-8 are shown as U+FFFD."""
    newest: deque[str] = deque(maxlen=max(count, 0))
    pieces: dict[bool, bytes] = {}
    for content in _enough(directory, count):
        for record in parse(content):
            whole = pieces.pop(record.error, b"") + record.data
            if record.partial:
                pieces[record.error] = whole
            else:
                newest.append(whole.decode("utf-8", "replace"))
    newest.extend(piece.decode("utf-8", "replace") for piece in pieces.values())
    return list(newest)


def _enough(directory: Path, count: int) -> list[bytes]:
    """The ends of the newest segments, which hold `count` records together."""
    chosen: list[bytes] = []
    paths = [path for _, path in reversed(segments(directory))]
    for path in [*paths, directory / STORED]:
        try:
            chosen.insert(0, _end_of(path, (count + 1) * (LINE_BYTES_MAX + _RECORD_HEAD_BYTES)))
        except FileNotFoundError:
            continue  # stored meanwhile; what was the last one is looked at in the end
        count -= chosen[0].count(b"\n")
        if count <= 0:
            break
    return chosen


def _end_of(path: Path, size: int) -> bytes:
    """The last whole records of a segment, `size` bytes of them at most."""
    with path.open("rb") as file:
        start = max(file.seek(0, SEEK_END) - size, 0)
        file.seek(start)
        content = file.read()
    return content[content.find(b"\n") + 1 :] if start else content
