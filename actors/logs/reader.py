"""Reading a stream's durable lines by number, forward or backward, a bounded piece at a time; holes become gap lines.

Blocking and without state, so that it runs in a thread or in another process. Knows nothing of the writer, and of the
archive only that a block file may have to be fetched first.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from actors.logs.errors import BadBatch
from actors.logs.filter import LineFilter
from actors.logs.line import LineRecord, LogLine, gap_line, numbered
from actors.logs.parts import Away, Gone, Part, as_it_is, block_in, frames_in, parts_of
from actors.logs.pattern import Matcher
from actors.logs.sealed import Block, Entry, open_index
from actors.logs.segment import Damaged, frame_blob, frame_meta, records_of
from actors.logs.view import StreamView
from actors.logs.words import may_hold

SCAN_BYTES = 8 * 1024 * 1024
"""Stored bytes looked at in one call, so that no call holds its thread for long."""

PIECE_CHARS = 2 * 1024 * 1024
"""Characters of one forward piece, so that a slow tail holds at most one such piece in memory."""

RETENTION = "older lines are no longer kept (retention)"
DAMAGED = "lines lost: the stored bytes are damaged"


class Scan(NamedTuple):
    """A piece of the answer. Forward: read on at `cursor`. Backward: read on below it. `done`: there is no more.

    `wanted`: the index of a segment whose block file must be fetched from the archive before anything else is read.
    """

    lines: list[LogLine]
    cursor: int
    done: bool
    wanted: str = ""


class _Walk:
    """Collects the lines of one part after the other; `expected` is the number that comes next."""

    def __init__(self, view: StreamView, flt: LineFilter, expected: int, stop: int) -> None:
        self.lines: list[LogLine] = []
        self.expected = expected
        self._stop = stop
        self._kept_from = view.first_number
        self._filter = flt
        self._accept = None if flt.passes_all() else flt.beside_text()
        self._matcher: Matcher | None = flt.matcher()
        self._levels = flt.levels() if flt.level else None

    def hole(self, upto: int, at: int) -> None:
        """Say so when `upto` is not what was expected."""
        if 0 < self.expected < upto:
            reason = RETENTION if self.expected < self._kept_from else DAMAGED
            if self._filter.in_time(at):
                self.lines.append(gap_line(self.expected, upto, reason, at))
        self.expected = max(upto, self.expected)

    def cannot_pass(self, part: Part) -> bool:
        """Whether the index alone says that no line of the part passes."""
        flt, entry = self._filter, part.entry
        if part.t_max < flt.since or (flt.until and part.t_min >= flt.until):
            return True
        if entry is None or entry.gaps:
            return False
        if not any(flt.concerns(origin.source, origin.instance) for origin in entry.origins):
            return True
        if self._levels is not None and not any(entry.counts.levels[level] for level in self._levels):
            return True
        if self._matcher is None or not self._matcher.words:
            return False
        bits = open_index(part.extent.path).filter_of(entry)
        return not all(may_hold(bits, word) for word in self._matcher.words)

    def read(self, part: Part) -> None:
        """Add the part's lines from `expected` on. Raises Away, Gone."""
        try:
            if part.entry is not None:
                self._read_block(part, part.entry)
            else:
                self._read_frames(part)
        except (Damaged, BadBatch):
            return

    def pass_over(self, part: Part, following: int) -> None:
        """Go on behind a part that is not read."""
        if part.next and part.first > self.expected:
            self.hole(part.first, part.t_min)
        self.expected = max(self.expected, part.next or following)

    def _read_frames(self, part: Part) -> None:
        for frame, data in frames_in(part):
            if frame.first + frame.taken <= self.expected:
                continue
            blob, meta = frame_blob(data, frame), frame_meta(data, frame)
            if self._matcher is not None and not meta.gaps and not self._matcher.may_be_in(blob):
                # Texts stand in a frame as they are: what is not in its bytes is in none of them.
                self.hole(frame.first, frame.t_min)
                self.expected = frame.first + frame.taken
                continue
            records = records_of(meta.origin, blob)
            number = frame.first
            self.hole(number, records[0].at)
            wanted = self._wanted(records)
            for place, record in enumerate(records):
                after = number + (record.gap or 1)
                asked = self._stop > number and after > self.expected and (wanted is None or place in wanted)
                if asked and (self._accept is None or self._accept(record)):
                    self.lines.append(numbered(record, number))
                number = after
            self.expected = number

    def _wanted(self, records: Sequence[LineRecord]) -> frozenset[int] | None:
        """Places of the records whose text passes, and of gaps; None for all."""
        if self._matcher is None:
            return None
        texts = [record.text.encode("utf-8", "replace") for record in records]
        ends = array("I", accumulate((len(text) + 1 for text in texts[1:]), initial=len(texts[0])))
        places = matching(self._matcher, b"\n".join(texts) + b"\n", lambda: ends)
        return frozenset((*places, *(place for place, record in enumerate(records) if record.gap)))

    def _read_block(self, part: Part, entry: Entry) -> None:
        if entry.next <= self.expected:
            return
        block = block_in(part, entry)
        self.hole(entry.first, entry.t_min)
        places = self._matching(block)
        places = self._by_column(block, entry, places)
        if places is None or places:
            self.lines += [
                line for line in block.lines(places) if line.next_number > self.expected and line.number < self._stop
            ]
        self.expected = entry.next

    def _matching(self, block: Block) -> list[int] | None:
        """Places of the lines whose text passes, and of gaps; None for all."""
        if self._matcher is None:
            return None
        places = matching(self._matcher, block.text, block.ends)
        gaps = block.gap_places()
        return sorted({*places, *gaps}) if gaps else places

    def _by_column(self, block: Block, entry: Entry, places: list[int] | None) -> list[int] | None:
        """Those of `places` that pass by time, origin and level."""
        flt = self._filter
        timely = entry.t_min >= flt.since and not (flt.until and entry.t_max >= flt.until)
        concerned = [flt.concerns(origin.source, origin.instance) for origin in entry.origins]
        if (timely and all(concerned) and self._levels is None) or places == []:
            return places
        at, origin, levels = block.times(), block.origins(), block.columns.levels
        gaps = frozenset(block.gap_places())
        passing: list[int] = []
        for place in range(len(origin)) if places is None else places:
            if place in gaps:
                if flt.gap_passes(at[place], entry.origins[origin[place]].instance):
                    passing.append(place)
            elif (
                concerned[origin[place]]
                and (self._levels is None or levels[place] in self._levels)
                and (timely or flt.in_time(at[place]))
            ):
                passing.append(place)
        return passing


def matching(matcher: Matcher, text: bytes, ends_of: "Callable[[], array[int]]") -> list[int]:
    """Places of the lines of `text` that pass; where each ends is asked for only when one does."""
    places: list[int] = []
    ends: array[int] | None = None
    at = 0
    while (at := matcher.find(text, at)) >= 0:
        ends = ends_of() if ends is None else ends
        place = bisect_left(ends, at)
        if place == len(ends):
            break
        start = ends[place - 1] + 1 if place else 0
        if matcher.agrees(text[start : ends[place]]):
            places.append(place)
        at = ends[place] + 1
    return places


def forward(
    view: StreamView, start: int, *, limit: int, flt: LineFilter, stop: int = 0, budget: int = SCAN_BYTES
) -> Scan:
    """At most `limit` lines with numbers from `start` on (below `stop`, where given) that pass `flt`.

    Raises BadQuery.
    """
    view = as_it_is(view)
    stop = min(stop or view.next_number, view.next_number)
    walk, scanned = _Walk(view, flt, max(start, 1), stop), 0
    begin = max(bisect_right(view.extents, max(start, 1), key=lambda extent: extent.first) - 1, 0)
    for position in range(begin, len(view.extents)):
        extent = view.extents[position]
        if extent.first >= stop:
            break
        try:
            parts = parts_of(view, extent)
        except Gone:
            return Scan(walk.lines, walk.expected, False)
        end = view.extents[position + 1].first if position + 1 < len(view.extents) else view.next_number
        first = max(bisect_right(parts, walk.expected, key=lambda part: part.first) - 1, 0)
        for place in range(first, len(parts)):
            part = parts[place]
            if part.first >= stop:
                break
            following = parts[place + 1].first if place + 1 < len(parts) else end
            if walk.cannot_pass(part):
                walk.pass_over(part, following)
                continue
            if scanned >= budget:
                return Scan(walk.lines, walk.expected, False)
            scanned += part.cost
            try:
                walk.read(part)
            except Away as away:
                return Scan(walk.lines, walk.expected, False, away.index)
            except Gone:
                return Scan(walk.lines, walk.expected, False)
            fitting = _fitting(walk.lines, limit)
            if fitting < len(walk.lines):
                lines = walk.lines[:fitting]
                return Scan(lines, lines[-1].next_number, False)
            if fitting == limit:
                return Scan(walk.lines, walk.expected, walk.expected >= stop)
    walk.hole(stop, view.blocks[-1].t_max if view.blocks else 0)
    return Scan(walk.lines, walk.expected, True)


def _fitting(lines: list[LogLine], limit: int) -> int:
    """How many of `lines` a piece may hold: `limit`, and PIECE_CHARS where there is more than one."""
    room = PIECE_CHARS
    for number, line in enumerate(lines[:limit]):
        room -= len(line.text)
        if room < 0 and number:
            return number
    return min(len(lines), limit)


def backward(
    view: StreamView, before: int, *, limit: int, flt: LineFilter, stop: int = 0, budget: int = SCAN_BYTES
) -> Scan:
    """The newest `limit` lines with numbers below `before` (from `stop` on, where given) that pass `flt`, oldest first.

    Raises BadQuery.
    """
    view = as_it_is(view)
    before, scanned = min(before, view.next_number), 0
    stop = max(stop, 1)
    pieces: list[list[LogLine]] = []
    found = 0
    for extent in reversed(view.extents):
        if extent.first >= before:
            continue
        if before <= stop:
            break
        try:
            parts = parts_of(view, extent)
        except Gone:
            return _newest(pieces, limit, before, done=False)
        for part in reversed(parts):
            if part.first >= before:
                continue
            if before <= stop:
                break
            if found >= limit or scanned >= budget:
                return _newest(pieces, limit, before, done=False)
            walk = _Walk(view, flt, part.first, before)
            if walk.cannot_pass(part):
                walk.pass_over(part, before)
            else:
                scanned += part.cost
                try:
                    walk.read(part)
                except Away as away:
                    return _newest(pieces, limit, before, done=False, wanted=away.index)
                except Gone:
                    return _newest(pieces, limit, before, done=False)
            walk.hole(before, part.t_max)
            piece = [line for line in walk.lines if stop <= line.number < before]
            found += len(piece)
            pieces.append(piece)
            before = part.first
    if found < limit and before > stop:
        oldest = next((piece[0].at for piece in reversed(pieces) if piece), 0)
        walk = _Walk(view, flt, stop, before)
        walk.hole(before, oldest)
        pieces.append(walk.lines)
        before = stop
    return _newest(pieces, limit, before, done=True)


def _newest(pieces: list[list[LogLine]], limit: int, before: int, *, done: bool, wanted: str = "") -> Scan:
    lines = [line for piece in reversed(pieces) for line in piece]
    if len(lines) > limit:
        lines = lines[len(lines) - limit :]
        return Scan(lines, lines[0].number if lines else before, False)
    return Scan(lines, before, done, wanted)
