"""Reading a stream's durable lines by number, forward or backward, a bounded piece at a time; holes become gap lines.

Blocking and without state, so that it runs in a thread or in another process. Knows nothing of the writer.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from actors.logs.errors import BadBatch
from actors.logs.filter import LineFilter
from actors.logs.line import LineRecord, LogLine, gap_line, numbered
from actors.logs.segment import Block, Damaged, Frame, frame_records, frames, index_segment, is_sound
from actors.logs.stream import Extent, StreamView

SCAN_BYTES = 4 * 1024 * 1024
"""Stored bytes looked at in one call, so that no call holds its thread for long."""

PIECE_CHARS = 2 * 1024 * 1024
"""Characters of one forward piece, so that a slow tail holds at most one such piece in memory."""

RETENTION = "older lines are no longer kept (retention)"
DAMAGED = "lines lost: the stored bytes are damaged"

Accept = Callable[[LineRecord], bool] | None


class Scan(NamedTuple):
    """A piece of the answer. Forward: read on at `cursor`. Backward: read on below it. `done`: there is no more."""

    lines: list[LogLine]
    cursor: int
    done: bool


@lru_cache(maxsize=2048)
def _sealed_index(path: str, size: int) -> tuple[Block, ...]:
    return index_segment(Path(path), size)


def _blocks(view: StreamView, extent: Extent) -> tuple[Block, ...]:
    if extent is view.extents[-1]:
        return view.blocks
    try:
        return _sealed_index(extent.path, extent.size)
    except FileNotFoundError:
        # Retention took it since the view was made; the hole in the numbers will be said.
        return ()


def _records(path: str, block: Block) -> Iterator[tuple[Frame, list[LineRecord]]]:
    try:
        with Path(path).open("rb") as file:
            file.seek(block.offset)
            data = file.read(block.end - block.offset)
    except FileNotFoundError:
        return
    try:
        for frame in frames(data):
            if frame.taken and is_sound(data, frame):
                yield frame, frame_records(data, frame)
    except (Damaged, BadBatch):
        return


class _Walk:
    """Collects the lines of one block after the other; `expected` is the number that comes next, 0 when not known."""

    def __init__(self, view: StreamView, flt: LineFilter, expected: int) -> None:
        self.lines: list[LogLine] = []
        self.expected = expected
        self._kept_from = view.first_number
        self._filter = flt
        self._accept: Accept = None if flt.passes_all() else flt.predicate()

    def hole(self, upto: int, at: int) -> None:
        """Say so when `upto` is not what was expected."""
        flt = self._filter
        if 0 < self.expected < upto:
            reason = RETENTION if self.expected < self._kept_from else DAMAGED
            if at >= flt.since and not (flt.until and at >= flt.until):
                self.lines.append(gap_line(self.expected, upto, reason, at))
        self.expected = max(upto, self.expected)

    def block(self, path: str, block: Block) -> None:
        """Add the block's lines from `expected` on."""
        for frame, records in _records(path, block):
            if frame.first + frame.taken <= self.expected:
                continue
            number = frame.first
            self.hole(number, records[0].at)
            for record in records:
                after = number + (record.gap or 1)
                if after > self.expected and (self._accept is None or self._accept(record)):
                    self.lines.append(numbered(record, number))
                number = after
            self.expected = number


def forward(view: StreamView, start: int, *, limit: int, flt: LineFilter, budget: int = SCAN_BYTES) -> Scan:
    """At most `limit` lines with numbers from `start` on that pass `flt`. Raises BadQuery."""
    walk, scanned = _Walk(view, flt, max(start, 1)), 0
    begin = max(bisect_right(view.extents, max(start, 1), key=lambda extent: extent.first) - 1, 0)
    for extent in view.extents[begin:]:
        blocks = _blocks(view, extent)
        first = max(bisect_right(blocks, walk.expected, key=lambda block: block.first) - 1, 0)
        for position in range(first, len(blocks)):
            block = blocks[position]
            if block.t_max < flt.since:
                following = blocks[position + 1].first if position + 1 < len(blocks) else _end_of(view, extent)
                walk.expected = max(walk.expected, following)
                continue
            if scanned >= budget:
                return Scan(walk.lines, walk.expected, False)
            scanned += block.end - block.offset
            walk.block(extent.path, block)
            fitting = _fitting(walk.lines, limit)
            if fitting < len(walk.lines):
                lines = walk.lines[:fitting]
                return Scan(lines, lines[-1].next_number, False)
            if fitting == limit:
                return Scan(walk.lines, walk.expected, walk.expected >= view.next_number)
    walk.hole(view.next_number, view.blocks[-1].t_max if view.blocks else 0)
    return Scan(walk.lines, walk.expected, True)


def _fitting(lines: list[LogLine], limit: int) -> int:
    """How many of `lines` a piece may hold: `limit`, and PIECE_CHARS where there is more than one."""
    room = PIECE_CHARS
    for count, line in enumerate(lines[:limit]):
        room -= len(line.text)
        if room < 0 and count:
            return count
    return min(len(lines), limit)


def _end_of(view: StreamView, extent: Extent) -> int:
    place = view.extents.index(extent) + 1
    return view.extents[place].first if place < len(view.extents) else view.next_number


def backward(view: StreamView, before: int, *, limit: int, flt: LineFilter, budget: int = SCAN_BYTES) -> Scan:
    """The newest `limit` lines with numbers below `before` that pass `flt`, oldest first. Raises BadQuery."""
    before, scanned = min(before, view.next_number), 0
    pieces: list[list[LogLine]] = []
    found = 0
    for extent in reversed(view.extents):
        for block in reversed(_blocks(view, extent)):
            if block.first >= before:
                continue
            if found >= limit or scanned >= budget:
                return _newest(pieces, limit, before, done=False)
            if block.t_max >= flt.since:
                scanned += block.end - block.offset
                walk = _Walk(view, flt, block.first)
                walk.block(extent.path, block)
                walk.hole(before, block.t_max)
                piece = [line for line in walk.lines if line.number < before]
                found += len(piece)
                pieces.append(piece)
            before = block.first
    if found < limit and before > 1:
        oldest = next((piece[0].at for piece in reversed(pieces) if piece), 0)
        walk = _Walk(view, flt, 1)
        walk.hole(before, oldest)
        pieces.append(walk.lines)
        before = 1
    return _newest(pieces, limit, before, done=True)


def _newest(pieces: list[list[LogLine]], limit: int, before: int, *, done: bool) -> Scan:
    lines = [line for piece in reversed(pieces) for line in piece]
    if len(lines) > limit:
        lines = lines[len(lines) - limit :]
        return Scan(lines, lines[0].number if lines else before, False)
    return Scan(lines, before, done)
