"""Turns a segment that takes no more lines into a sealed one. Blocking; may be done again after a crash, with the same
outcome. Knows the two formats, and nothing of who decides when."""

import mmap
from pathlib import Path

from actors.logs.errors import BadBatch
from actors.logs.sealed import Writer
from actors.logs.segment import (
    Closed,
    Damaged,
    Frame,
    FrameMeta,
    SourceMark,
    frame_meta,
    frame_records,
    frames,
    is_sound,
    segment_first,
)


def seal(path: Path, size: int) -> None:
    """Write the sealed segment of the first `size` bytes of `path`, and leave that. Raises OSError."""
    marks: dict[str, SourceMark] = {}
    closed: Closed | None = None
    writer = Writer(path.parent, segment_first(path))
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
        try:
            for frame in frames(data):
                if is_sound(data, frame):
                    meta = frame_meta(data, frame)
                    closed = meta.closed or closed
                    _remember(marks, meta)
                    _copy(writer, data, frame)
        except Damaged:
            # What could be read is kept; readers say the hole in the numbers, as they did before.
            pass
    writer.finish(tuple(marks.values()), closed)


def _remember(marks: dict[str, SourceMark], meta: FrameMeta) -> None:
    for mark in meta.sources:
        # The order is that of the last word of each source: the stream forgets the oldest first.
        marks.pop(mark.source_id, None)
        marks[mark.source_id] = mark


def _copy(writer: Writer, data: mmap.mmap, frame: Frame) -> None:
    if not frame.taken:
        return
    try:
        writer.add(frame.first, frame_records(data, frame))
    except BadBatch:
        # Whole by its checksum and still no lines: a hole, which readers will say.
        return
