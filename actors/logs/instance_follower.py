"""Moves one instance's output from its segments to the log server, each line once, in order.

Reads no faster than the server acknowledges; what waits, waits in the segments. Knows a directory and a stream; nothing
of processes or of who else is followed.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec

from actors.logs.client import LogClient
from actors.logs.errors import BadBatch, StreamClosed, TooFast, WrongPosition
from actors.logs.followed import Followed, FollowedBook
from actors.logs.inotify import DirectoryWatcher
from actors.logs.instance_log import HELD_MICROS, InstanceLog, Piece, placed
from actors.logs.line import Batch, gap_record
from actors.logs.shimlog import decode_damaged
from actors.logs.traces import join, unfinished
from actors.logs.view import Appended
from events.clock import now_micros

_LOOK_SECONDS = 5.0
"""Look without being woken: only a safety net where inotify works."""
_LOOK_SECONDS_UNWATCHED = 0.2
_BATCH_BYTES = 128 * 1024
"""What is stored, compressed and read again as one; a tail decodes no more than this for its next line."""


class CollectorStats(msgspec.Struct, kw_only=True):
    """Counters since start; `instances` is how many are followed now."""

    instances: int = 0
    lines: int = 0
    lost_lines: int = 0
    torn_records: int = 0
    failures: int = 0


class InstanceFollower:
    """Moves one instance's output; `run` may be called again after an error."""

    def __init__(
        self,
        client: LogClient,
        book: FollowedBook,
        followed: Followed,
        stats: CollectorStats,
        watcher: DirectoryWatcher,
    ) -> None:
        self.instance_id = followed.instance_id
        self._client = client
        self._book = book
        self._progress = book.progress(followed.instance_id)
        self._followed = followed
        self._stats = stats
        self._watcher = watcher
        self._wake = asyncio.Event()
        self._handles: list[int | None] = [None, None]
        self._origin = followed.origin
        self._log = InstanceLog(Path(followed.directory), self._origin)
        self._stored = 0
        self._is_known = False
        self._told_disk: int | None = None
        self._unsettled = False
        """Whether more is stored than was noted."""
        self._cleared = -1

    async def run(self) -> None:
        """Until the instance has ended and everything is stored. Raises LogError and OSError."""
        stream, source_id = self._followed.stream, self.instance_id
        stored = await self._client.position(stream, source_id)
        self._stored, self._is_known = stored or 0, stored is not None
        await asyncio.to_thread(self._seek, self._progress.taken_at(self._stored))
        while True:
            self._watch()
            self._wake.clear()
            piece = await asyncio.to_thread(self._settle_and_read)
            if piece.taken:
                await self._store(piece)
            elif piece.end:
                await self._tell_disk_losses()
                break
            else:
                await self._tell_disk_losses()
                await self._wait(HELD_MICROS / 1e6 if piece.held else _LOOK_SECONDS)
        await self._finish(stream, source_id)

    def close(self) -> None:
        """Let go of files and watches."""
        self._log.close()
        self._progress.close()
        for handle in self._handles:
            self._watcher.forget(handle, self._wake)

    async def _store(self, piece: Piece) -> None:
        stream, began = self._followed.stream, self._stored
        # Sent side by side, made durable together; what reached the server in another order is refused and read again.
        sends = [self._client.append_batch(stream, batch) for batch in self._batches(piece)]
        answers: list[Appended | BaseException] = []
        if not self._is_known:
            # A server that has nothing of a source takes whatever comes first: it must be the first.
            answers += await asyncio.gather(sends.pop(0), return_exceptions=True)
            if isinstance(answers[0], BaseException):
                for send in sends:
                    send.close()
                sends = []
        answers += await asyncio.gather(*sends, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in refused:
            if isinstance(error, BadBatch):
                await self._store(self._as_lines(piece))
                return
            if not isinstance(error, WrongPosition | TooFast):
                raise error
        if refused:
            # What is not sent stays in the instance's own segments.
            await asyncio.sleep(max(error.seconds if isinstance(error, TooFast) else 0.0 for error in refused))
            stored = await self._client.position(stream, self.instance_id)
            self._stored, self._is_known = stored or began, stored is not None
            await asyncio.to_thread(self._seek)
            return
        self._stored, self._is_known = piece.upto, True
        self._stats.lines += len(piece.lines) or piece.taken
        self._stats.lost_lines += sum(line.gap for line in piece.lines)
        self._unsettled = True

    def _batches(self, piece: Piece) -> Iterator[Batch]:
        if piece.lines:
            yield Batch.of(self.instance_id, piece.lines, after=self._stored, upto=piece.upto)
            return
        begin, after = 0, self._stored
        while begin < len(piece.records):
            end = piece.records.rfind(b"\n", begin, begin + _BATCH_BYTES) + 1 or len(piece.records)
            held = unfinished(piece.records[begin:end]) if end < len(piece.records) else 0
            end -= held if held < end - begin else 0
            upto = piece.upto - (len(piece.records) - end)
            yield Batch(
                source_id=self.instance_id,
                after=after,
                upto=upto,
                blob=join(piece.records[begin:end]),
                origin=self._origin,
            )
            begin, after = end, upto

    def _as_lines(self, piece: Piece) -> Piece:
        """The same, where a byte on this node's disk is not what a shim writes: what is there is kept as it is."""
        lines = decode_damaged(self._origin, piece.records, now_micros())
        return Piece(piece.upto, lines=lines, taken=len(lines))

    def _seek(self, taken: int | None = None) -> None:
        self._unsettled = False
        self._log.seek(self._stored, taken)

    def _settle_and_read(self) -> Piece:
        """Note what is stored by now and read on, in one turn of a thread."""
        if self._unsettled:
            self._unsettled = False
            self._progress.note(self._stored, self._log.taken)
            segment, _ = placed(self._stored)
            if segment != self._cleared:
                self._log.delete_before(self._stored)
                self._cleared = segment
        return self._log.read()

    async def _tell_disk_losses(self) -> None:
        lost, at = await asyncio.to_thread(self._log.disk_losses)
        if lost == (self._told_disk or 0):
            return
        stream, source_id = self._followed.stream, f"{self.instance_id}/disk"
        if self._told_disk is None:
            self._told_disk = await self._client.position(stream, source_id) or 0
        count = lost - self._told_disk
        if count > 0:
            reason = f"{count} lines lost: the disk of the node refused them"
            source = self._followed.source
            gap = gap_record(count, reason, at, source=source, instance=self.instance_id)
            await self._client.append(stream, source_id, [gap], after=self._told_disk, upto=lost)
            self._stats.lost_lines += count
        self._told_disk = lost

    async def _finish(self, stream: str, source_id: str) -> None:
        if self._stored:
            try:
                await self._client.append(stream, source_id, [], after=self._stored, upto=self._stored, finished=True)
            except StreamClosed:
                pass  # ended in the meantime; everything is stored
        self._stats.torn_records += self._log.torn_records
        await asyncio.to_thread(self._log.put_away)
        await asyncio.to_thread(self._book.forget, self.instance_id)

    def _watch(self) -> None:
        directory = Path(self._followed.directory)
        for position, path in enumerate((directory / "log", directory)):
            if self._handles[position] is None:
                self._handles[position] = self._watcher.watch(path, self._wake)

    async def _wait(self, most: float) -> None:
        seconds = min(most, _LOOK_SECONDS_UNWATCHED) if None in self._handles else most
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
