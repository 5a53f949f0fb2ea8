"""One log stream on disk: its single writer, recovery at open, de-duplication by source, segments and retention.

Blocking by design: the store calls it from threads, one call at a time. Knows nothing of sockets, queries or tails.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from actors.logs.claim import Claim, Membership, claim
from actors.logs.errors import LogError, StorageFailed, StreamMoved
from actors.logs.line import Batch
from actors.logs.plan import NO_LINES, Plan
from actors.logs.sealed import Index, block_path, is_sealed, list_sealed, open_index
from actors.logs.segment import (
    Block,
    Closed,
    Damaged,
    Frame,
    FrameMeta,
    SourceMark,
    encode_frame,
    extend_blocks,
    frame_meta,
    frames,
    index_segment,
    is_sound,
    list_segments,
    segment_first,
    segment_name,
)
from actors.logs.view import Appended, Extent, StoreLimits, StreamView
from events.durable import sync_directory
from events.failpoints import failpoint

_log = logging.getLogger(__name__)

MAX_SOURCES = 1024
"""Sources remembered per stream; the finished ones are forgotten first, then those silent for longest."""


class StreamLog:
    """The writer of one stream. Every method blocks; the caller sees to it that only one runs at a time."""

    def __init__(self, name: str, root: Path, membership: Membership, limits: StoreLimits) -> None:
        self.name = name
        self._torn_bytes = 0
        self._dropped_lines = 0
        self._root = root
        self._membership = membership
        self._claim: Claim | None = None
        self._orphans: list[Index] = []
        self._limits = limits
        self._fd: int | None = None
        self._reset()

    def _reset(self) -> None:
        self._sources: dict[str, SourceMark] = {}
        self._sealed: list[Extent] = []
        self._active: Extent | None = None
        self._blocks: list[Block] = []
        self._next = 1
        self._closed: Closed | None = None
        self.trusted = False
        self.has_unsealed = False
        """Whether a segment waits to be sealed."""

    def open(self) -> StreamView:
        """Claim the stream, read its last segment, cut its torn tail, and return the view. Raises StorageFailed."""
        self.release()
        self._reset()
        self._claim = claim(self._root, self.name, self._membership)
        try:
            self._sealed = self._open_sealed()
            paths = self._unsealed()
            while paths and self._active is None:
                self._recover(paths.pop())
            self._sealed += [Extent(segment_first(path), str(path), path.stat().st_size) for path in paths]
            self._sealed.sort()
            if self._active is None and self._sealed:
                self._resume(open_index(self._sealed[-1].path).index)
        except (OSError, Damaged) as error:
            raise StorageFailed(f"stream {self.name}: cannot open {self._directory}: {error}") from error
        self.trusted, self.has_unsealed = True, bool(self.unsealed())
        return self.view()

    @property
    def _directory(self) -> Path:
        assert self._claim is not None  # noqa: S101 (opened)
        return self._claim.directory

    def is_mine(self) -> bool:
        """Whether nobody else has claimed the stream; cheap."""
        return self._claim is not None and self._claim.holds()

    def give(self, member: str) -> None:
        """Let `member` claim the stream next. Raises StreamMoved, StorageFailed."""
        if self._claim is not None:
            self._claim.give(member)

    def _open_sealed(self) -> list[Extent]:
        """The sealed segments. One whose index is damaged stays, and is a hole to readers."""
        extents: list[Extent] = []
        for path in list_sealed(self._directory):
            first = int(path.stem)
            try:
                extents.append(Extent(first, str(path), open_index(str(path)).index.size))
            except Damaged as error:
                _log.warning("log stream %s: %s: %s", self.name, path.name, error)
                extents.append(Extent(first, str(path), path.stat().st_size))
        return extents

    def _unsealed(self) -> list[Path]:
        """Segments with frames in them; one that has been sealed is done with, though a crash left it."""
        sealed = {extent.first for extent in self._sealed}
        paths = list_segments(self._directory)
        for stray in self._directory.glob("*.blk"):
            if not stray.with_suffix(".idx").exists():
                stray.unlink()
        for path in paths:
            if segment_first(path) in sealed:
                path.unlink()
        return [path for path in paths if segment_first(path) not in sealed]

    def _resume(self, index: Index) -> None:
        """Go on behind a sealed segment, when nothing that follows it is left."""
        self._next, self._closed = index.next, index.closed
        self._remember(index.sources)

    def _recover(self, path: Path) -> None:
        data, end = path.read_bytes(), 0
        self._next = segment_first(path)
        last: Frame | None = None
        try:
            for frame in frames(data):
                if is_sound(data, frame):
                    self._apply(frame, frame_meta(data, frame))
                    end, last = frame.end, frame
        except ValueError as error:
            _log.warning("log stream %s: %s %s", self.name, path.name, error)
        if end < len(data):
            # Nothing behind the last sound frame was ever acknowledged: its source sends it again.
            self._torn_bytes += len(data) - end
            _log.warning("log stream %s: cut a torn tail of %d bytes off %s", self.name, len(data) - end, path.name)
            os.truncate(path, end)
        if last is None:
            path.unlink()
        else:
            self._active = Extent(segment_first(path), str(path), end)

    def _apply(self, frame: Frame, meta: FrameMeta) -> None:
        self._next = frame.first + frame.taken
        self._closed = meta.closed or self._closed
        self._remember(meta.sources)
        extend_blocks(self._blocks, frame)

    def _remember(self, marks: Sequence[SourceMark]) -> None:
        for mark in marks:
            self._sources.pop(mark.source_id, None)
            self._sources[mark.source_id] = mark
        for _ in range(len(self._sources) - MAX_SOURCES):
            finished = (name for name, mark in self._sources.items() if mark.finished)
            del self._sources[next(finished, next(iter(self._sources)))]

    def view(self) -> StreamView:
        """The durable state as readers may see it."""
        extents = (*self._sealed, self._active) if self._active else tuple(self._sealed)
        return StreamView(
            name=self.name,
            extents=extents,
            blocks=tuple(self._blocks),
            next_number=self._next,
            closed=self._closed,
        )

    def take_losses(self) -> tuple[int, int]:
        """Torn bytes cut and lines dropped by retention since the last call."""
        losses = (self._torn_bytes, self._dropped_lines)
        self._torn_bytes = self._dropped_lines = 0
        return losses

    def position(self, source_id: str) -> int | None:
        """How far `source_id` is stored; None when nothing is known of it."""
        mark = self._sources.get(source_id)
        return mark.upto if mark else None

    def append(self, items: Sequence[Batch | Closed]) -> list[Appended | LogError]:
        """Number and store batches, or end the stream, with one fsync; an answer for each item.

        Raises StorageFailed when the disk refused, StreamMoved when another process has claimed the stream: then
        nothing was acknowledged and everything may be sent again.
        """
        if not self.trusted:
            self.open()
        plan = Plan(self._next, self._sources, self._closed)
        answers = [plan.add(item) for item in items]
        if plan.frames:
            self._commit(plan.frames, plan.metas)
        return answers

    def release(self) -> None:
        """Close the file handle; the next append opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _commit(self, parts: Sequence[bytes], metas: Sequence[FrameMeta]) -> None:
        data = b"".join(parts)
        try:
            if self._active is None or self._active.size >= self._limits.segment_bytes:
                self._roll()
            fd, active = self._handle(), self._active
            assert active is not None  # noqa: S101 (the roll above made one)
            _write_at(fd, data, active.size)
            failpoint("logs.before-fsync")
            os.fdatasync(fd)
            failpoint("logs.after-fsync")
            self._still_mine()
        except OSError as error:
            # After a failed write or fsync the page cache proves nothing: read back what the disk has before going on.
            self.trusted = False
            self.release()
            self._still_mine()
            raise StorageFailed(f"stream {self.name}: cannot write: {error}; the batch may be sent again") from error
        for frame, meta in zip(frames(data), metas, strict=True):
            self._apply(_moved(frame, active.size), meta)
        self._active = active._replace(size=active.size + len(data))
        self._retain()

    def _still_mine(self) -> None:
        """The fence: nobody is answered for lines that a new owner may not have seen. Raises StreamMoved."""
        assert self._claim is not None  # noqa: S101 (opened)
        try:
            self._claim.check()
        except StreamMoved:
            self.trusted = False
            self.release()
            raise

    def _handle(self) -> int:
        if self._fd is None:
            assert self._active is not None  # noqa: S101 (called only when there is one)
            self._fd = os.open(self._active.path, os.O_WRONLY | os.O_CLOEXEC)
        return self._fd

    def _roll(self) -> None:
        """Start a segment: its checkpoint is durable before anything else in it."""
        self.release()
        path = self._directory / segment_name(self._next)
        meta = FrameMeta(sources=tuple(self._sources.values()), closed=self._closed, checkpoint=True)
        checkpoint = encode_frame(self._next, 0, (0, 0), meta, NO_LINES)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        _write_at(self._fd, checkpoint, 0)
        os.fdatasync(self._fd)
        failpoint("logs.segment-made")
        sync_directory(self._directory)
        if self._active is not None:
            self._sealed.append(self._active)
            self.has_unsealed = True
        self._active = Extent(self._next, str(path), len(checkpoint))
        self._blocks = []

    def _retain(self) -> None:
        total = sum(extent.size for extent in self._sealed) + (self._active.size if self._active else 0)
        while self._sealed and total > self._limits.stream_bytes:
            total -= self._sealed[0].size
            self.drop_oldest()

    def set_limits(self, limits: StoreLimits) -> None:
        """Keep to these from the next commit on."""
        self._limits = limits

    def drop_oldest(self) -> Extent | None:
        """Forget the oldest segment that takes no more lines; None when there is none."""
        if not self._sealed:
            return None
        oldest = self._sealed.pop(0)
        following = self._sealed[0] if self._sealed else self._active
        self._dropped_lines += (following.first if following else self._next) - oldest.first
        try:
            index = open_index(oldest.path).index if is_sealed(oldest.path) else None
            archived = index is not None and not block_path(oldest.path).exists()
            if index is not None:
                block_path(oldest.path).unlink(missing_ok=True)
            # Where another owner has claimed the stream this finds nothing, and what is archived stays that owner's.
            Path(oldest.path).unlink()
            if index is not None and archived:
                self._orphans.append(index)
        except (OSError, Damaged) as error:
            _log.warning("log stream %s: cannot drop %s: %s", self.name, oldest.path, error)
        return oldest

    def take_orphans(self) -> list[Index]:
        """Segments that were dropped while their blocks were in the archive only; each is returned once."""
        orphans, self._orphans = self._orphans, []
        return orphans

    def expire(self, before: int) -> int:
        """Drop the segments all of whose lines are older than `before` (unix microseconds); how many there were.

        The segment in use gives way to a new one when all of it is. Raises StorageFailed.
        """
        if not self.trusted:
            self.open()
        self._still_mine()
        dropped = 0
        while self._sealed and self._newest(self._sealed[0]) < before:
            self.drop_oldest()
            dropped += 1
        if not self._sealed and self._blocks and max(block.t_max for block in self._blocks) < before:
            self.roll()
            self.drop_oldest()
            dropped += 1
        return dropped

    def local_sealed(self) -> list[tuple[Extent, int]]:
        """Sealed segments whose blocks are on this disk, oldest first, with the greatest time in each."""
        return [
            (extent, self._newest(extent))
            for extent in self._sealed
            if is_sealed(extent.path) and block_path(extent.path).exists()
        ]

    def let_go(self, extent: Extent) -> bool:
        """Delete the blocks of a sealed segment, which are in the archive by now; False when it was dropped."""
        self._still_mine()
        if extent not in self._sealed:
            # Dropped while it was on its way into the archive: nobody else knows that it is there.
            self._orphans.append(open_index(extent.path).index)
            return False
        failpoint("logs.before-let-go")
        block_path(extent.path).unlink(missing_ok=True)
        return True

    def held(self) -> tuple[int, list[tuple[int, Extent]]]:
        """Stored bytes of the stream, and its segments that may be dropped, oldest first, by their greatest time."""
        size = sum(extent.size for extent in self._sealed) + (self._active.size if self._active else 0)
        return size, [(self._newest(extent), extent) for extent in self._sealed]

    @staticmethod
    def _newest(extent: Extent) -> int:
        """The greatest time in a segment, unix microseconds."""
        path = Path(extent.path)
        try:
            if is_sealed(extent.path):
                return open_index(extent.path).index.t_max
            return max((block.t_max for block in index_segment(path, extent.size)), default=0)
        except Damaged:
            return int(path.stat().st_mtime * 1e6)

    def roll(self) -> None:
        """Begin a new segment, so that the present one can be sealed or dropped. Raises StorageFailed."""
        if not self.trusted:
            self.open()
        if self._active is None or not self._blocks:
            return
        try:
            self._roll()
        except OSError as error:
            self.trusted = False
            self.release()
            raise StorageFailed(f"stream {self.name}: cannot begin a segment: {error}") from error

    def unsealed(self) -> list[Extent]:
        """The segments that take no more lines and are not sealed, oldest first."""
        return [extent for extent in self._sealed if not is_sealed(extent.path)]

    def adopt(self, extent: Extent) -> bool:
        """Put the sealed form of `extent`, which is on disk, in its place; False when `extent` is gone by now."""
        index = Path(extent.path).with_suffix(".idx")
        if extent not in self._sealed:
            block_path(str(index)).unlink(missing_ok=True)
            index.unlink(missing_ok=True)
            return False
        sealed = Extent(extent.first, str(index), open_index(str(index)).index.size)
        self._sealed[self._sealed.index(extent)] = sealed
        self.has_unsealed = bool(self.unsealed())
        failpoint("logs.before-unlink")
        Path(extent.path).unlink(missing_ok=True)
        return True


def _moved(frame: Frame, by: int) -> Frame:
    return frame._replace(offset=frame.offset + by, end=frame.end + by)


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
