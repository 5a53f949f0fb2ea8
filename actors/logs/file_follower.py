"""Follows one file of an application through every way of rotating it, and hands its lines on, each once.

Every generation of the file is a source of its own, whose position is the offset in it, so a writer that has not yet
reopened the old file and one that writes the new one are both heard. Knows the client; nothing of instances.
"""

import asyncio
import logging
import os
import time
from pathlib import Path

import msgspec

from actors.logs.client import LogClient
from actors.logs.errors import LogError, StreamClosed, TooFast, WrongPosition
from actors.logs.inotify import DirectoryWatcher
from actors.logs.line import Batch, Origin, gap_record
from actors.logs.rotation import (
    Mark,
    Reading,
    Refused,
    Sibling,
    common_prefix,
    open_safely,
    open_sibling,
    same_bytes,
    siblings,
)
from actors.logs.traces import join
from actors.runtime.shim.masking import Masking
from events.clock import now_micros
from events.durable import sync_directory

_log = logging.getLogger(__name__)

_READ_BYTES = 128 * 1024
_LINGER_SECONDS = 30.0
"""An old file that nobody wrote to for so long has no writer any more."""
_LOOK_SECONDS = 5.0
_RETRY_SECONDS = 1.0


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """Which generations there were. Written before anything of a new one is sent; no number is used twice."""

    marks: list[Mark] = []
    last_number: int = 0


class FileFollower:
    """Follows `path`, which lies below `root`. `run` until cancelled; `finish` once nobody writes any more."""

    def __init__(
        self,
        client: LogClient,
        watcher: DirectoryWatcher,
        *,
        path: Path,
        root: Path,
        stream: str,
        origin: Origin,
        state: Path,
        masking: Masking | None = None,
    ) -> None:
        self.lines = 0
        self._client = client
        self._watcher = watcher
        self._path = path
        self._root = root
        self._stream = stream
        self._origin = origin
        self._state = state
        self._masking = masking or Masking(())
        self._wake = asyncio.Event()
        self._handle: int | None = None
        self._marks: dict[int, Mark] = {}
        self._open: dict[int, Reading] = {}
        self._ending = False
        self._last_number = 0
        self._stale = False
        """Whether files were renamed while they were looked at: look again."""

    async def run(self) -> None:
        """Until `finish` was called and everything is stored."""
        while True:
            try:
                await asyncio.to_thread(self._load)
                await self._follow()
                return
            except (LogError, OSError) as error:
                _log.warning("log file %s: %s; trying again", self._path, error)
                self.close()
                await asyncio.sleep(_RETRY_SECONDS)

    def finish(self) -> None:
        """Nothing writes to the file any more: `run` ends when all of it is stored, an unfinished line too."""
        self._ending = True
        self._wake.set()

    def close(self) -> None:
        """Let go of files and watches."""
        for reading in self._open.values():
            reading.close()
        self._open.clear()
        self._watcher.forget(self._handle, self._wake)
        self._handle = None

    async def _follow(self) -> None:
        while True:
            self._handle = self._handle or self._watcher.watch(self._path.parent, self._wake)
            self._wake.clear()
            ending = self._ending
            self._stale = False
            await self._look()
            moved = False
            for number in sorted(self._open):
                moved = await self._read_on(number) or moved
            if moved or self._stale:
                continue
            if ending:
                for number in sorted(self._open):
                    await self._end(number)
                self.close()
                self._state.unlink(missing_ok=True)
                return
            await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    # --- which files there are ----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Find truncated files, new ones, and old ones that are done with."""
        for number, reading in list(self._open.items()):
            if await asyncio.to_thread(reading.is_truncated):
                await self._truncated(number, reading)
        there = await asyncio.to_thread(siblings, self._path)
        for sibling in there:
            await self._meet(sibling)
        here = {sibling.file for sibling in there if sibling.path == self._path}
        for number, reading in list(self._open.items()):
            quiet = time.monotonic() - reading.grew_at
            if reading.mark.file not in here and here and quiet > _LINGER_SECONDS:
                await self._end(number)

    async def _meet(self, sibling: Sibling) -> None:
        known = {mark.file: number for number, mark in self._marks.items()}
        number = known.get(sibling.file)
        if number is not None and (number in self._open or sibling.path != self._path):
            return
        try:
            descriptor = await asyncio.to_thread(open_sibling, sibling, self._root)
        except FileNotFoundError:
            self._stale = True
            return
        except Refused as error:
            _log.warning("log file: %s", error)
            return
        if number is not None and await asyncio.to_thread(same_bytes, descriptor, self._marks[number]):
            # One that was done with is written to again.
            self._open[number] = Reading(descriptor, msgspec.structs.replace(self._marks[number], over=False))
            return
        is_copy: bool | None = False
        if sibling.path != self._path:
            is_copy = await asyncio.to_thread(self._is_copy, descriptor)
        if is_copy is None:
            os.close(descriptor)
            return
        mark = Mark(number=self._next_number(), device=sibling.file[0], inode=sibling.file[1], over=is_copy)
        if is_copy:
            os.close(descriptor)
        else:
            self._open[mark.number] = Reading(descriptor, mark)
        if number is not None:
            del self._marks[number]
        self._marks[mark.number] = mark
        await asyncio.to_thread(self._save, sync=True)

    def _is_copy(self, descriptor: int) -> bool | None:
        """Whether a file that is not the one in use is a copy of what was read; None while that cannot be told."""
        for number, mark in self._marks.items():
            current = self._open[number].mark if number in self._open else mark
            if current.offset and same_bytes(descriptor, current):
                return True
        try:
            live = open_safely(self._path, self._root)
        except OSError:
            return False
        try:
            # A copy may be in the making: the file it is made of is not truncated yet.
            return None if os.fstat(descriptor).st_size == 0 or common_prefix(descriptor, live) else False
        finally:
            os.close(live)

    async def _truncated(self, number: int, reading: Reading) -> None:
        """The generation is over; what was not read of it is in the copy, where one was made."""
        mark, unread = reading.mark, reading.unread
        reading.close()
        del self._open[number]
        copy = await self._find_copy(mark)
        if copy is not None:
            self._open[number] = copy
            while await self._read_on(number):
                pass
            mark = copy.mark
        elif unread:
            await self._say_lost(number, mark.offset)
        await self._end(number, mark)

    async def _find_copy(self, mark: Mark) -> Reading | None:
        for sibling in await asyncio.to_thread(siblings, self._path):
            if sibling.path == self._path or sibling.size < mark.offset or not mark.offset:
                continue
            try:
                descriptor = await asyncio.to_thread(open_sibling, sibling, self._root)
            except OSError:
                continue
            reading = Reading(descriptor, mark) if await asyncio.to_thread(same_bytes, descriptor, mark) else None
            if reading is not None:
                copied = {known.file for known in self._marks.values()}
                if sibling.file not in copied:
                    number = self._next_number()
                    device, inode = sibling.file
                    self._marks[number] = Mark(number=number, device=device, inode=inode, over=True)
                return reading
        return None

    # --- what is in them ----------------------------------------------------------------------------------------------

    async def _read_on(self, number: int, *, final: bool = False) -> bool:
        """Store what there is of one generation; whether there was anything."""
        reading = self._open[number]
        data = await asyncio.to_thread(reading.read, _READ_BYTES)
        records, taken = self._masking.encode(data, b"o", now_micros(), final)
        if not taken:
            return False
        batch = Batch(
            source_id=self._source(number),
            after=reading.offset,
            upto=reading.offset + taken,
            blob=join(records),
            origin=self._origin,
        )
        try:
            await self._client.append_batch(self._stream, batch)
        except TooFast as error:
            await asyncio.sleep(error.seconds)
            return True
        except WrongPosition as error:
            await asyncio.to_thread(reading.seek, error.stored)
            return True
        await asyncio.to_thread(reading.advance, taken)
        self._marks[number] = reading.mark
        self.lines += records.count(b"\n")
        await asyncio.to_thread(self._save)
        return True

    async def _end(self, number: int, mark: Mark | None = None) -> None:
        """Nothing more comes of a generation; its last line may have no newline."""
        reading = self._open.get(number)
        if reading is not None:
            while await self._read_on(number, final=True):
                pass
            mark = reading.mark
            reading.close()
            del self._open[number]
        assert mark is not None  # noqa: S101 (given, or read)
        if mark.offset:
            batch = Batch.of(self._source(number), [], after=mark.offset, upto=mark.offset, finished=True)
            try:
                await self._client.append_batch(self._stream, batch)
            except (StreamClosed, WrongPosition):
                pass  # everything is stored
        # A truncated file goes on under the same inode: it is a new one from here on.
        self._marks.pop(number, None)
        if reading is not None:
            self._marks[number] = msgspec.structs.replace(mark, over=True)
        await asyncio.to_thread(self._save)

    async def _say_lost(self, number: int, offset: int) -> None:
        reason = f"{self._path.name} was truncated before its end was read, lines not counted"
        gap = gap_record(1, reason, now_micros(), source=self._origin.source, instance=self._origin.instance)
        source = f"{self._source(number)}/lost"
        await self._client.append(self._stream, source, [gap], after=0, upto=max(offset, 1))

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _source(self, number: int) -> str:
        return f"{self._origin.instance}/{self._path.name[:80]}/{number}"

    def _load(self) -> None:
        """Take up what was followed, wherever its files are called now."""
        self.close()
        try:
            state = msgspec.json.decode(self._state.read_bytes(), type=_State)
        except (FileNotFoundError, msgspec.MsgspecError):
            state = _State()
        marks, self._last_number = state.marks, state.last_number
        self._marks = {mark.number: mark for mark in marks}
        there = siblings(self._path)
        for mark in marks:
            if mark.over:
                continue
            for sibling in there:
                if sibling.file == mark.file and self._take_up(sibling, mark):
                    break
            else:
                self._take_up_copy(there, mark)

    def _take_up(self, sibling: Sibling, mark: Mark) -> bool:
        try:
            descriptor = open_sibling(sibling, self._root)
        except OSError:
            return False
        if not same_bytes(descriptor, mark):
            os.close(descriptor)
            return False
        self._open[mark.number] = Reading(descriptor, mark)
        return True

    def _take_up_copy(self, there: list[Sibling], mark: Mark) -> None:
        """The file is gone or was truncated meanwhile: what is left of it is in a copy, or lost."""
        known = {each.file for each in self._marks.values()}
        for sibling in there:
            if (
                sibling.path != self._path
                and sibling.file not in known
                and mark.offset
                and self._take_up(sibling, mark)
            ):
                device, inode = sibling.file
                # The copy goes on as this generation; the truncated file is met as a new one.
                self._marks[mark.number] = msgspec.structs.replace(mark, device=device, inode=inode)
                self._open[mark.number].mark = self._marks[mark.number]
                return
        del self._marks[mark.number]
        _log.warning("log file %s: what was followed is gone; what was not read of it is lost", self._path)

    def _save(self, *, sync: bool = False) -> None:
        """`sync`: the number of a new generation must not be forgotten once its lines are sent."""
        there = {sibling.file for sibling in siblings(self._path)}
        kept = [mark for mark in self._marks.values() if not mark.over or mark.file in there]
        self._marks = {mark.number: mark for mark in kept}
        self._state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._state.with_suffix(".draft")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(_State(marks=kept, last_number=self._last_number)))
            file.flush()
            if sync:
                os.fsync(file.fileno())
        draft.replace(self._state)
        if sync:
            sync_directory(self._state.parent)
