"""One instance's output on disk: reads on from a position, bounded, and deletes what is stored. Blocking; no network.

Knows the directory as actors/runtime/output.py describes it, and nothing of who stores the lines.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from actors.logs.line import LineRecord, Origin, gap_record
from actors.logs.shimlog import disk_losses, newest, segment_losses
from actors.logs.traces import unfinished
from actors.runtime.output import STORED
from events.clock import now_micros

READ_BYTES = 1024 * 1024
HELD_MICROS = 300_000
"""For so long after its last line a stack trace waits for more of it."""
_OFFSET_BITS = 40
_OFFSET_MASK = (1 << _OFFSET_BITS) - 1


def place(segment: int, offset: int) -> int:
    """A position in an instance's output as one integer that only grows."""
    return segment << _OFFSET_BITS | offset


def placed(position: int) -> tuple[int, int]:
    """The segment and the byte offset of a position."""
    return position >> _OFFSET_BITS, position & _OFFSET_MASK


class Piece(NamedTuple):
    """What was read: `records` as the shim wrote them, or `lines`, and the position after them.

    `end`: no more will ever come. `taken`: how many numbers it takes.
    """

    upto: int
    end: bool = False
    records: bytes = b""
    lines: Sequence[LineRecord] = ()
    taken: int = 0
    held: bool = False
    """A stack trace may go on: read again when something is written, or after HELD_MICROS."""


class InstanceLog:
    """Reads `{directory}/log`. One caller at a time; `close` when done."""

    def __init__(self, directory: Path, origin: Origin) -> None:
        self._log = directory / "log"
        self._exit = directory / "exit.json"
        self._origin = origin
        self._fd: int | None = None
        self._segment = 0
        self._offset = 0
        self._taken = 0
        self._torn = 0

    @property
    def torn_records(self) -> int:
        """Records cut short by a killed shim, skipped because its successor wrote them again."""
        return self._torn

    @property
    def taken(self) -> int:
        """Lines read of the present segment; given back to `seek`, it keeps the count of a loss exact."""
        return self._taken

    def seek(self, position: int, taken: int | None = None) -> None:
        """Go on at `position`; 0 is the beginning of what is there. `taken` as it was there, None when not known."""
        self.close()
        self._segment, self._offset = placed(position)
        self._taken = self._lines_before(self._segment, self._offset) if taken is None else taken

    def close(self) -> None:
        """Let go of the open segment."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def read(self) -> Piece:
        """The next lines, at most READ_BYTES of them; none where there are none now. Raises OSError."""
        # Looked at before reading: no byte is written after exit.json is there.
        exited = self._exit.exists() or not self._log.parent.exists()
        gap: list[LineRecord] = []
        while True:
            if self._fd is None and not self._open(gap):
                return self._gap_piece(gap) if gap else Piece(self._position(), exited)
            if gap:
                return self._gap_piece(gap)
            # Looked at before reading: the writer closes a segment before it makes the next one.
            newer = self._newer()
            data = os.pread(self._fd or 0, READ_BYTES, self._offset)
            # A record is never that long; should one be, it is kept as it is rather than waited for.
            whole = data.rfind(b"\n") + 1 or len(data) // READ_BYTES * READ_BYTES
            if whole:
                return self._take(data[:whole], last=exited or bool(newer) or len(data) == READ_BYTES)
            if not newer:
                return Piece(self._position(), exited)
            self._torn += bool(data)
            self._skip(newer[0], gap)

    def _take(self, records: bytes, *, last: bool) -> Piece:
        """`last`: what is read now need not wait for what follows it."""
        held = 0 if last else unfinished(records)
        if held and now_micros() - newest(records) < HELD_MICROS:
            records = records[: len(records) - held]
            if not records:
                return Piece(self._position(), held=True)
        self._offset += len(records)
        taken = records.count(b"\n")
        self._taken += taken
        return Piece(self._position(), records=records, taken=taken)

    def _gap_piece(self, gap: list[LineRecord]) -> Piece:
        return Piece(self._position(), lines=gap, taken=sum(each.gap for each in gap))

    def disk_losses(self) -> tuple[int, int]:
        """Lines the shim's disk refused so far, and when last (unix microseconds)."""
        return disk_losses(self._dropped())

    def delete_before(self, position: int) -> None:
        """Delete the segments that lie wholly before `position`: they are stored."""
        segment, _ = placed(position)
        for number, path in self._segments():
            if number < segment:
                path.unlink(missing_ok=True)

    def put_away(self) -> None:
        """Delete every segment: the instance has ended and all is stored.

        The last with anything in it stays under a name that is no segment's: why an instance ended may be asked later.
        """
        last = None
        for _, path in reversed(self._segments()):
            if last is None and path.stat().st_size:
                last = path
            else:
                path.unlink(missing_ok=True)
        if last is not None:
            last.rename(self._log / STORED)

    def _position(self) -> int:
        return place(self._segment, self._offset)

    def _open(self, gap: list[LineRecord]) -> bool:
        """Open the segment at the position, or the next one there is, with what is missing between put into `gap`."""
        while True:
            numbers = [number for number, _ in self._segments() if number >= self._segment]
            if not numbers:
                return False
            if numbers[0] != self._segment:
                self._skip(numbers[0], gap)
            try:
                self._fd = os.open(self._log / f"{self._segment:06d}.log", os.O_RDONLY | os.O_CLOEXEC)
                return True
            except FileNotFoundError:
                continue  # dropped since the directory was read: the next round says so

    def _skip(self, number: int, gap: list[LineRecord]) -> None:
        """Go to the beginning of segment `number`. What lies between was either read or is a loss to be said."""
        read_to_end = self._fd is not None
        self.close()
        losses = segment_losses(self._dropped())
        between = range(self._segment + (read_to_end or not self._segment), number)
        lost = sum(losses.get(each, 0) for each in between)
        if not read_to_end and self._segment in between:
            lost -= min(self._taken, losses.get(self._segment, 0))
        # The first segment a collector ever sees is 1, unless the cap took it or an earlier collector stored it.
        unknown = [each for each in between if each not in losses and each != self._segment]
        if self._segment and unknown:
            gap.append(self._gap(1, f"output lost: segments {unknown[0]} to {unknown[-1]} vanished, lines not counted"))
        if lost:
            gap.append(self._gap(lost, f"{lost} lines lost: they were not collected before the output reached its cap"))
        self._segment, self._offset, self._taken = number, 0, 0

    def _gap(self, count: int, reason: str) -> LineRecord:
        return gap_record(count, reason, now_micros(), source=self._origin.source, instance=self._origin.instance)

    def _newer(self) -> list[int]:
        return [number for number, _ in self._segments() if number > self._segment]

    def _segments(self) -> list[tuple[int, Path]]:
        try:
            names = [path.name for path in self._log.iterdir()]
        except FileNotFoundError:
            return []
        stems = ((name.removesuffix(".log"), name) for name in names if name.endswith(".log"))
        return sorted((int(stem), self._log / name) for stem, name in stems if stem.isdigit())

    def _lines_before(self, segment: int, offset: int) -> int:
        """Lines of `segment` before `offset`: needed should the rest of it be dropped before it is read."""
        if not offset:
            return 0
        try:
            with (self._log / f"{segment:06d}.log").open("rb") as file:
                return file.read(offset).count(b"\n")
        except FileNotFoundError:
            return 0

    def _dropped(self) -> bytes:
        try:
            return (self._log / "dropped").read_bytes()
        except FileNotFoundError:
            return b""
