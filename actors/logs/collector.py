"""Follows the output of every instance on this node and hands it to the log server, each line once, in order.

Reads no faster than the server acknowledges; what waits, waits in the instance's own segments. Knows nothing of
processes: it is told which instances there are, and sees in their directories when one has ended.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from actors.logs.background import Background
from actors.logs.client import LogClient
from actors.logs.drain import Drain
from actors.logs.drivers.named import driver_for
from actors.logs.drivers.port import BadDriver
from actors.logs.drivers.port import Origin as Whose
from actors.logs.errors import BadBatch, LogError, StreamClosed, TooFast, WrongPosition
from actors.logs.file_follower import FileFollower
from actors.logs.inotify import DirectoryWatcher
from actors.logs.instance_log import HELD_MICROS, InstanceLog, Piece
from actors.logs.line import Batch, Origin, Source, gap_record
from actors.logs.shimlog import decode_damaged
from actors.logs.stream import Appended
from actors.logs.traces import join, unfinished
from actors.runtime.record import hidden_texts
from actors.runtime.shim.files import HOME
from actors.runtime.shim.masking import Masking
from events.clock import now_micros

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
"""Look without being woken: only a safety net where inotify works."""
_LOOK_SECONDS_UNWATCHED = 0.2
_RETRY_SECONDS = 2.0
_BATCH_BYTES = 128 * 1024
"""What is stored, compressed and read again as one; a tail decodes no more than this for its next line."""


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """An instance to follow. `directory`, there already, holds `log/` and, at its end, `exit.json`.

    `stream` is the log stream its lines go to: its service id.
    """

    instance_id: str
    stream: str
    release: int
    directory: str
    source: Source = "app"
    files: tuple[str, ...] = ()
    """Files the application writes, relative to its `home`, which are followed through their rotation as well."""
    drains: tuple[str, ...] = ()
    """URLs of other places for its lines (`actors.logs.drivers`); as secret as its environment, which is beside it."""
    whose: Whose = Whose()

    @property
    def origin(self) -> Origin:
        """What all its lines have in common."""
        return Origin(source=self.source, instance=self.instance_id, release=self.release)


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """Kept in the state directory. The server's position is the truth; `taken` only makes a loss's count exact."""

    followed: Followed
    position: int = 0
    taken: int = 0


class CollectorStats(msgspec.Struct, kw_only=True):
    """Counters since start; `instances` is how many are followed now."""

    instances: int = 0
    lines: int = 0
    lost_lines: int = 0
    torn_records: int = 0
    failures: int = 0


class Collector:
    """Use `start` before, `aclose` after; both, like `follow`, on the event loop."""

    def __init__(self, client: LogClient, state_dir: Path) -> None:
        self.stats = CollectorStats()
        self._client = client
        self._state_dir = state_dir
        self._tasks = Background("log collector")
        self._ended: dict[str, asyncio.Event] = {}
        self._watcher: DirectoryWatcher | None = None

    async def start(self) -> None:
        """Go on with the instances that were followed when the collector last stopped."""
        self._watcher = DirectoryWatcher()
        for state in await asyncio.to_thread(_load, self._state_dir):
            self._follow(state)

    async def aclose(self) -> None:
        """Stop; positions are with the server, the next collector goes on."""
        await self._tasks.aclose()
        if self._watcher is not None:
            self._watcher.close()

    async def follow(self, followed: Followed) -> None:
        """Follow an instance until it has ended and all it printed is stored. May be repeated.

        Whoever removes the directory of an instance waits for `drained` first.
        """
        self._tasks.check()
        if followed.instance_id not in self._ended:
            state = _State(followed=followed)
            await asyncio.to_thread(_save, self._state_dir, state)
            if followed.instance_id not in self._ended:
                self._follow(state)

    async def drained(self, instance_id: str, seconds: float) -> bool:
        """Wait until all output of an instance that has ended is stored; False when `seconds` pass first.

        True at once for one that is not followed (any more).
        """
        ended = self._ended.get(instance_id)
        if ended is None:
            return True
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            return False
        return True

    def _follow(self, state: _State) -> None:
        instance_id = state.followed.instance_id
        self._ended[instance_id] = asyncio.Event()
        self.stats.instances += 1
        self._tasks.start(self._run(state))

    async def _run(self, state: _State) -> None:
        assert self._watcher is not None  # noqa: S101 (started)
        follower = _Follower(self._client, self._state_dir, state, self.stats, self._watcher)
        instance_id = state.followed.instance_id
        hidden = await asyncio.to_thread(hidden_texts, Path(state.followed.directory))
        files, drains = self._files(state.followed, Masking(hidden)), self._drains(state.followed)
        try:
            while not await self._attempt(follower):
                self.stats.failures += 1
                await asyncio.sleep(_RETRY_SECONDS)
            # Nothing writes any more: an application's own files are complete as well.
            for file, _ in files:
                file.finish()
            await asyncio.gather(*(task for _, task in files))
            for drain, task in drains:
                await _cancel(task)
                await drain.finish()
        finally:
            follower.close()
            for file, task in files:
                task.cancel()
                file.close()
            for _, task in drains:
                task.cancel()
            self.stats.instances -= 1
            self._ended.pop(instance_id).set()

    def _files(self, followed: Followed, masking: Masking) -> list[tuple[FileFollower, asyncio.Task[None]]]:
        assert self._watcher is not None  # noqa: S101 (started)
        home, files = Path(followed.directory) / HOME, []
        for name in followed.files:
            place = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
            file = FileFollower(
                self._client,
                self._watcher,
                path=home / name,
                root=home,
                stream=followed.stream,
                origin=followed.origin,
                state=self._state_dir / "files" / f"{followed.instance_id}.{place}.json",
                masking=masking,
            )
            files.append((file, self._tasks.start(file.run())))
        return files

    def _drains(self, followed: Followed) -> list[tuple[Drain, asyncio.Task[None]]]:
        drains = []
        for url in followed.drains:
            try:
                driver = driver_for(url, followed.whose)
            except BadDriver as error:
                _log.warning("log collector: %s: %s", followed.instance_id, error)
                continue
            place = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
            drain = Drain(
                self._client,
                driver,
                stream=followed.stream,
                instance=followed.instance_id,
                state=self._state_dir / "drains" / f"{followed.instance_id}.{place}",
            )
            drains.append((drain, self._tasks.start(drain.run())))
        return drains

    async def _attempt(self, follower: "_Follower") -> bool:
        try:
            await follower.run()
        except (LogError, OSError) as error:
            _log.warning("log collector: %s: %s; trying again", follower.instance_id, error)
            return False
        return True


class _Follower:
    """Moves one instance's output; `run` may be called again after an error."""

    def __init__(
        self, client: LogClient, state_dir: Path, state: _State, stats: CollectorStats, watcher: DirectoryWatcher
    ) -> None:
        self.instance_id = state.followed.instance_id
        self._client = client
        self._state_dir = state_dir
        self._state = state
        self._stats = stats
        self._watcher = watcher
        self._wake = asyncio.Event()
        self._handles: list[int | None] = [None, None]
        followed = state.followed
        self._origin = followed.origin
        self._log = InstanceLog(Path(followed.directory), self._origin)
        self._stored = 0
        self._is_known = False
        self._told_disk: int | None = None

    async def run(self) -> None:
        """Until the instance has ended and everything is stored. Raises LogError and OSError."""
        stream, source_id = self._state.followed.stream, self.instance_id
        stored = await self._client.position(stream, source_id)
        self._stored, self._is_known = stored or 0, stored is not None
        taken = self._state.taken if stored == self._state.position else None
        await asyncio.to_thread(self._log.seek, self._stored, taken)
        while True:
            self._watch()
            self._wake.clear()
            piece = await asyncio.to_thread(self._log.read)
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
        for handle in self._handles:
            self._watcher.forget(handle, self._wake)

    async def _store(self, piece: Piece) -> None:
        stream, began = self._state.followed.stream, self._stored
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
            await asyncio.to_thread(self._log.seek, self._stored)
            return
        self._stored, self._is_known = piece.upto, True
        self._stats.lines += len(piece.lines) or piece.taken
        self._stats.lost_lines += sum(line.gap for line in piece.lines)
        self._state = msgspec.structs.replace(self._state, position=piece.upto, taken=self._log.taken)
        await asyncio.to_thread(self._settle, piece.upto)

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

    def _settle(self, position: int) -> None:
        _save(self._state_dir, self._state)
        self._log.delete_before(position)

    async def _tell_disk_losses(self) -> None:
        lost, at = await asyncio.to_thread(self._log.disk_losses)
        if lost == (self._told_disk or 0):
            return
        stream, source_id = self._state.followed.stream, f"{self.instance_id}/disk"
        if self._told_disk is None:
            self._told_disk = await self._client.position(stream, source_id) or 0
        count = lost - self._told_disk
        if count > 0:
            reason = f"{count} lines lost: the disk of the node refused them"
            source = self._state.followed.source
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
        await asyncio.to_thread(_state_path(self._state_dir, self.instance_id).unlink, missing_ok=True)

    def _watch(self) -> None:
        directory = Path(self._state.followed.directory)
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


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _state_path(state_dir: Path, instance_id: str) -> Path:
    if not instance_id or "/" in instance_id or instance_id.startswith("."):
        raise ValueError(f"expected an instance id, found {instance_id[:80]!r}")
    return state_dir / f"{instance_id}.json"


def _load(state_dir: Path) -> list[_State]:
    states: list[_State] = []
    for path in sorted(state_dir.glob("*.json")):
        try:
            states.append(msgspec.json.decode(path.read_bytes(), type=_State))
        except (msgspec.MsgspecError, OSError) as error:
            # Only a cache: whoever runs the instance tells the collector of it again.
            _log.warning("log collector: %s cannot be read: %s", path, error)
    return states


def _save(state_dir: Path, state: _State) -> None:
    path = _state_path(state_dir, state.followed.instance_id)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_bytes(msgspec.json.encode(state))
    new.replace(path)
