"""The gateway's access log: reads its JSON lines, through rotation, and puts each into its component's stream.

Knows the file's shape and how it rotates (`access.log`, `access.log.1` … by rename), nothing of the proxy.

Expected, one object a line, fields that do not apply null or left out: `at` (ISO 8601, UTC), `service_id`,
`instance_id`, `method`, `host`, `path`, `status`, `duration_ms`, `bytes_in`, `bytes_out`, `flags`, `client`,
`request_id`. Lines without a `service_id` (no route matched) belong to no component: counted, and left in the file.
"""

import asyncio
import hashlib
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from actors.logs.background import Background
from actors.logs.client import LogClient
from actors.logs.errors import BadStreamName, LogError, WrongPosition
from actors.logs.inotify import DirectoryWatcher
from actors.logs.line import MAX_TEXT, LineRecord, check_stream_name
from events.clock import now_micros

_log = logging.getLogger(__name__)

_READ_BYTES = 256 * 1024
_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 2.0


class AccessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the gateway writes it. Durations in milliseconds, sizes in bytes."""

    at: str
    service_id: str | None = None
    instance_id: str | None = None
    method: str | None = None
    host: str | None = None
    path: str | None = None
    status: int | str | None = None
    duration_ms: int | float | str | None = None
    bytes_in: int | str | None = None
    bytes_out: int | str | None = None
    flags: str | None = None
    client: str | None = None
    request_id: str | None = None

    def line(self) -> LineRecord:
        """As a log line: `GET /path 200 12ms 345B host=… client=… request_id=…`."""
        shown = [
            self.method or "-",
            self.path or "-",
            str(self.status or "-"),
            f"{self.duration_ms}ms",
            f"{self.bytes_out}B",
        ]
        named = {"host": self.host, "client": self.client, "request_id": self.request_id, "flags": self.flags}
        shown += [f"{name}={value}" for name, value in named.items() if value and value != "-"]
        text = " ".join(shown)[:MAX_TEXT]
        return LineRecord(at=_micros(self.at), text=text, source="router", instance=self.instance_id or "")


class _Routed(NamedTuple):
    stream: str
    end: int
    line: LineRecord


class AccessStats(msgspec.Struct, kw_only=True):
    """Counters since start."""

    lines: int = 0
    unrouted: int = 0
    malformed: int = 0
    failures: int = 0


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """Where reading goes on: the file is known by its first line. A cache; the server knows the truth."""

    file: str
    offset: int


class AccessTail:
    """Follows the access log at `path`; its place is cached in `state_file`. Use `start` before, `aclose` after."""

    def __init__(self, client: LogClient, path: Path, state_file: Path) -> None:
        self.stats = AccessStats()
        self._client = client
        self._path = path
        self._state_file = state_file
        self._tasks = Background("access log")
        self._fd: int | None = None
        self._file = ""
        self._offset = 0
        self._stored: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._watcher: DirectoryWatcher | None = None

    async def start(self) -> None:
        """Begin to follow, from where the last one stopped."""
        self._watcher = DirectoryWatcher()
        self._tasks.start(self._run())

    async def aclose(self) -> None:
        """Stop; what is stored is with the server."""
        await self._tasks.aclose()
        if self._watcher is not None:
            self._watcher.close()
        self._close()

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except* (LogError, OSError) as group:
                self.stats.failures += 1
                _log.warning("access log: %s; trying again", group.exceptions[0])
                self._close()
            # Not above: what is raised in an `except*` CPython before 3.11.4 puts into a group, a cancellation too.
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self) -> None:
        handle: int | None = None
        while True:
            if handle is None and self._watcher is not None:
                handle = self._watcher.watch(self._path.parent, self._wake)
            self._wake.clear()
            data = await asyncio.to_thread(self._read)
            if data:
                await self._store(data)
            else:
                await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _read(self) -> bytes:
        """Whole lines at the present place, from the next file where this one has ended; empty when there are none."""
        while True:
            if self._fd is None and not self._open():
                return b""
            # Looked at before reading: the proxy writes to the old file until it has made the new one.
            following = self._next_file()
            data = os.pread(self._fd or 0, _READ_BYTES, self._offset)
            whole = data.rfind(b"\n") + 1
            if not whole and len(data) == _READ_BYTES:
                whole = len(data)  # no request's line is that long; it is passed over
            if whole or following is None:
                return data[:whole]
            self._use(following)

    def _files(self) -> list[Path]:
        """Oldest first."""
        older = [path for path in self._path.parent.glob(f"{self._path.name}.*") if path.suffix[1:].isdigit()]
        older.sort(key=lambda path: int(path.suffix[1:]), reverse=True)
        return [*older, self._path]

    def _open(self) -> bool:
        state = self._load()
        for path in self._files():
            if state is not None and _identity(path) == state.file:
                return self._use(path, state.offset)
        return any(self._use(path) for path in self._files())

    def _use(self, path: Path, offset: int = 0) -> bool:
        self._close()
        file = _identity(path)
        if not file:
            return False
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._file, self._offset, self._stored = file, offset, {}
        return True

    def _next_file(self) -> Path | None:
        """The file that follows the open one, once something is in it."""
        assert self._fd is not None  # noqa: S101 (called with a file open)
        here = os.fstat(self._fd)
        files = [path for path in self._files() if path.exists()]
        places = [place for place, path in enumerate(files) if os.path.samestat(path.stat(), here)]
        rest = files[places[0] + 1 :] if places else files
        return rest[0] if rest and _identity(rest[0]) else None

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def _store(self, data: bytes) -> None:
        streams: dict[str, list[_Routed]] = {}
        for routed in self._parse(data):
            streams.setdefault(routed.stream, []).append(routed)
        async with asyncio.TaskGroup() as tasks:
            for stream, lines in streams.items():
                tasks.create_task(self._append(stream, lines))
        self._offset += len(data)
        await asyncio.to_thread(self._save)

    def _parse(self, data: bytes) -> list[_Routed]:
        lines: list[_Routed] = []
        end = self._offset
        for row in data.split(b"\n")[:-1]:
            end += len(row) + 1
            try:
                record = msgspec.json.decode(row, type=AccessRecord)
                if record.service_id in (None, "", "-"):
                    self.stats.unrouted += 1
                else:
                    stream = check_stream_name(str(record.service_id))
                    lines.append(_Routed(stream, end, record.line()))
            except (msgspec.MsgspecError, BadStreamName, ValueError):
                self.stats.malformed += 1
        return lines

    async def _append(self, stream: str, lines: list[_Routed]) -> None:
        source_id = f"access/{self._file}"
        if stream not in self._stored:
            self._stored[stream] = await self._client.position(stream, source_id) or 0
        while fresh := [each for each in lines if each.end > self._stored[stream]]:
            after, upto = self._stored[stream], fresh[-1].end
            try:
                await self._client.append(stream, source_id, [each.line for each in fresh], after=after, upto=upto)
            except WrongPosition as error:
                self._stored[stream] = error.stored
                continue
            self._stored[stream] = upto
            self.stats.lines += len(fresh)

    def _load(self) -> _State | None:
        try:
            return msgspec.json.decode(self._state_file.read_bytes(), type=_State)
        except (OSError, msgspec.MsgspecError):
            return None

    def _save(self) -> None:
        self._state_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._state_file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(_State(file=self._file, offset=self._offset)))
        new.replace(self._state_file)


def _identity(path: Path) -> str:
    """What a file is known by through renames: a digest of its first line (it has a request id); empty without one."""
    try:
        with path.open("rb") as file:
            first = file.readline(64 * 1024)
    except FileNotFoundError:
        return ""
    return hashlib.blake2b(first, digest_size=8).hexdigest() if first.endswith(b"\n") else ""


def _micros(at: str) -> int:
    try:
        when = datetime.fromisoformat(at)
    except ValueError:
        return now_micros()
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(int(when.timestamp() * 1_000_000), 0)
