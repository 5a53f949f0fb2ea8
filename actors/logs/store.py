"""Many streams in one directory: group commit, one writer each, bounded handles and memory, wake-ups for tails.

Durability: a batch is acknowledged after its fsync. While a stream's fsync is in flight all that arrives for it becomes
the next commit; there is no timer, so an append waits for at most two fsyncs plus its turn for a committer.
Knows nothing of sockets and of what a query means.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from actors.logs.archive import SegmentArchive
from actors.logs.background import Background
from actors.logs.claim import Membership, owner_of, streams_in
from actors.logs.entry import Entry, Pending
from actors.logs.errors import LogError, StorageFailed, StreamMoved
from actors.logs.fresh import Fresh, FreshBudget, FreshLines
from actors.logs.line import Batch, check_stream_name
from actors.logs.policy import Policies
from actors.logs.ready import Ready
from actors.logs.redact import redacted
from actors.logs.segment import Closed
from actors.logs.stream import StreamLog
from actors.logs.view import Appended, StoreLimits, StreamView

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_COMMITTERS = 4
"""Streams whose fsyncs run side by side; the file system's journal merges them."""
_COMMIT_BYTES = 4 * 1024 * 1024
PENDING_BYTES = 64 * 1024 * 1024
"""Lines taken but not yet durable, over all streams; beyond it `submit` waits."""
_OPEN_STREAMS = 2048
"""Streams kept in memory (a few KB each: index and source positions)."""
_OPEN_HANDLES = 256
_CLOSE_SECONDS = 10.0


class StoreStats(msgspec.Struct, kw_only=True):
    """Counters since the start of this process; `pending_bytes` and `streams` are what is there now."""

    batches: int = 0
    duplicates: int = 0
    refused: int = 0
    lines: int = 0
    bytes: int = 0
    commits: int = 0
    storage_failures: int = 0
    torn_bytes: int = 0
    retention_lines: int = 0
    pending_bytes: int = 0
    streams: int = 0


class LogStore:
    """The streams under `root`. Use `start` before, `aclose` after.

    Processes may share a directory, each under its own name: a stream is written by whoever claimed it last, and
    opened is claimed.
    """

    def __init__(
        self,
        root: Path,
        limits: StoreLimits | None = None,
        *,
        member: str = "eventlog-0",
        policies: Policies | None = None,
        archive: SegmentArchive | None = None,
    ) -> None:
        self.stats = StoreStats()
        self._membership = Membership(root, member)
        self._root = root
        self._limits = limits or StoreLimits()
        self._policies = policies
        self._archive = archive
        self._rolled: OrderedDict[str, None] = OrderedDict()
        self._rolled_event = asyncio.Event()
        self._appended: dict[str, int] = {}
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._handles: OrderedDict[str, None] = OrderedDict()
        self._ready = Ready()
        self._budget = FreshBudget()
        self._room = asyncio.Condition()
        self._tasks = Background("log store")

    async def start(self) -> None:
        """Join those that share the directory and start the committers. Raises StorageFailed."""
        await asyncio.to_thread(self._membership.enter)
        for _ in range(_COMMITTERS):
            self._tasks.start(self._committer())

    async def aclose(self) -> None:
        """Finish what is queued, then let go of the directory. Nobody may append any more."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS), self._room:
                await self._room.wait_for(lambda: self.stats.pending_bytes == 0)
        except TimeoutError:
            _log.warning("log store: closed with %d bytes not stored, nor acknowledged", self.stats.pending_bytes)
        await self._tasks.aclose()
        for entry in self._entries.values():
            entry.log.release()
        await asyncio.to_thread(self._membership.leave)

    def check(self) -> None:
        """Raise RuntimeError when a committer has died; the owner should end the process and start again."""
        self._tasks.check()

    async def submit(self, stream: str, batch: Batch) -> "asyncio.Future[Appended]":
        """Queue `batch`, in the order of calls; the future is done once it is durable, or raises why not.

        Waits while too much is pending. Raises BadStreamName. The future raises BadBatch, StreamClosed, WrongPosition,
        StorageFailed.
        """
        check_stream_name(stream)
        size = len(batch.blob)
        if self.stats.pending_bytes and self.stats.pending_bytes + size > PENDING_BYTES:
            async with self._room:
                await self._room.wait_for(lambda: self.stats.pending_bytes + size <= PENDING_BYTES)
        return self._enqueue(stream, batch, size)

    def _enqueue(self, stream: str, item: Batch | Closed, size: int) -> "asyncio.Future[Appended]":
        self._tasks.check()
        self.stats.pending_bytes += size
        entry = self._entry(check_stream_name(stream))
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        entry.pending.append(Pending(item, size, future))
        if not entry.queued:
            entry.queued = True
            self._ready.put(stream, self._team_of(stream))
        return future

    def _team_of(self, stream: str) -> str:
        return self._policies.of(stream).team if self._policies is not None else ""

    async def append(self, stream: str, batch: Batch) -> Appended:
        """Store `batch`; returns once it is durable. Raises as `submit` and its future."""
        return await (await self.submit(stream, batch))

    async def close_stream(self, stream: str, outcome: str, at: int) -> None:
        """End a finite stream after all that was submitted before; the first outcome stands. Raises StorageFailed."""
        await self._enqueue(stream, Closed(outcome=outcome, at=at), 0)

    async def position(self, stream: str, source_id: str) -> int | None:
        """How far `source_id` is stored in `stream`; None when nothing is known of it. Raises StorageFailed."""
        await self.view(stream)
        return self._entry(stream).log.position(source_id)

    async def view(self, stream: str) -> StreamView:
        """The stream as it is now, empty when nothing was ever stored.

        Raises BadStreamName, StorageFailed, and StreamMoved when another claimed it or was given it.
        """
        entry = self._entry(check_stream_name(stream))
        self._check_here(entry)
        if entry.view is None:
            async with entry.lock:
                self._check_here(entry)
                if entry.view is None:
                    entry.view = await asyncio.to_thread(entry.log.open)
                    self._count_losses(entry)
        return entry.view

    async def change(self, stream: str, work: Callable[[StreamLog], _T]) -> _T:
        """Do something to a stream, in a thread, while nobody else does; readers see what it came to.

        Raises BadStreamName, StorageFailed, StreamMoved, and what `work` raises.
        """
        entry = self._entry(check_stream_name(stream))
        async with entry.lock:
            self._check_here(entry)
            if not entry.log.trusted:
                await asyncio.to_thread(entry.log.open)
            try:
                return await asyncio.to_thread(work, entry.log)
            finally:
                self._show(entry)

    async def next_rolled(self) -> str:
        """Wait for a stream of which a segment takes no more lines and is not sealed yet."""
        while not self._rolled:
            self._rolled_event.clear()
            await self._rolled_event.wait()
        return self._rolled.popitem(last=False)[0]

    def take_appended(self) -> dict[str, int]:
        """Streams that lines were appended to since the last call, with the number of the first of them."""
        appended, self._appended = self._appended, {}
        return appended

    def own_streams(self) -> list[str]:
        """Every stream on disk that this member claimed last, or nobody; blocking."""
        member = self._membership.owner.member
        return [name for name in streams_in(self._root) if self.owner_of(name) in (member, None)]

    async def fetch(self, stream: str, index: str) -> None:
        """Have the block file of a sealed segment on this disk, by the path of its index. Raises StorageFailed."""
        if self._archive is None:
            raise StorageFailed(f"stream {stream}: older lines are in an archive, and none was named")
        await self._archive.fetch(stream, index)

    @staticmethod
    def _check_here(entry: Entry) -> None:
        if not entry.moved and entry.view is not None and not entry.log.is_mine():
            entry.moved, entry.view, entry.log.trusted = True, None, False
        if entry.moved:
            raise StreamMoved(f"stream {entry.log.name} has moved to another member of the pool")

    @contextmanager
    def reading_along(self, stream: str) -> Iterator[Callable[[int, int], FreshLines | None]]:
        """Keep the stream's newest lines in memory meanwhile; gives what reads them, `Fresh.read`."""
        entry = self._entry(stream)
        entry.users += 1
        entry.fresh.tails += 1
        try:
            yield entry.fresh.read
        finally:
            entry.users -= 1
            entry.fresh.tails -= 1
            if not entry.fresh.tails:
                entry.fresh.clear()

    async def wait_beyond(self, stream: str, number: int, seconds: float) -> bool:
        """Wait until the stream has a line numbered `number` or has ended; False when `seconds` pass first."""
        entry = self._entry(stream)
        entry.users += 1
        try:
            async with asyncio.timeout(seconds):
                while True:
                    changed = entry.changed
                    view = await self.view(stream)
                    if view.next_number > number or view.closed:
                        return True
                    await changed.wait()
        except TimeoutError:
            return False
        finally:
            entry.users -= 1

    def _entry(self, stream: str) -> Entry:
        entry = self._entries.get(stream)
        if entry is None:
            entry = self._entries[stream] = Entry(
                StreamLog(stream, self._root, self._membership, self._limits), Fresh(self._budget)
            )
            self._forget_idle()
        self._entries.move_to_end(stream)
        self.stats.streams = len(self._entries)
        return entry

    def has(self, stream: str) -> bool:
        """Whether the stream is open here, and so was claimed; another may have claimed it since."""
        entry = self._entries.get(stream)
        return entry is not None and entry.view is not None and not entry.moved

    def take(self, stream: str) -> None:
        """Open the stream again when it is next used, though it had moved away."""
        self._entry(stream).moved = False

    def open_streams(self) -> list[str]:
        """Every stream for which `has` is true."""
        return [name for name in self._entries if self.has(name)]

    def owner_of(self, stream: str) -> str | None:
        """The member that claimed the stream last or was given it; None when none ever was. Blocking."""
        owner = owner_of(self._root, stream)
        return owner.member if owner else None

    async def give(self, stream: str, member: str) -> None:
        """Leave the stream to `member`; what is under way here is finished or refused. Raises StorageFailed."""
        entry = self._entries.get(stream)
        if entry is None:
            return
        async with entry.lock:
            await asyncio.to_thread(entry.log.give, member)
            entry.log.release()
            entry.log.trusted = False
            entry.view = None
            entry.moved = True
        self._wake(entry)

    def _forget_idle(self) -> None:
        for name in list(self._entries)[: len(self._entries) - _OPEN_STREAMS]:
            entry = self._entries[name]
            if not (entry.queued or entry.pending or entry.users or entry.lock.locked()):
                entry.log.release()
                self._handles.pop(name, None)
                del self._entries[name]

    async def _committer(self) -> None:
        while True:
            stream = await self._ready.get()
            entry = self._entries[stream]
            async with entry.lock:
                await self._commit(entry)
            if entry.pending:
                self._ready.put(stream, self._team_of(stream))
            else:
                entry.queued = False
            self._limit_handles(stream)

    async def _commit(self, entry: Entry) -> None:
        taken: list[Pending] = []
        size = 0
        while entry.pending and (not taken or size + entry.pending[0].size <= _COMMIT_BYTES):
            taken.append(entry.pending.popleft())
            size += taken[-1].size
        items: list[Batch | Closed] = [each.item for each in taken]
        answers: Sequence[Appended | LogError]
        try:
            self._check_here(entry)
            items, answers = await asyncio.to_thread(self._append, entry.log, items)
        except (StorageFailed, StreamMoved) as error:
            self.stats.storage_failures += isinstance(error, StorageFailed)
            entry.moved = entry.moved or isinstance(error, StreamMoved)
            answers = [error for _ in taken]
        except BaseException as error:
            for each in taken:
                _settle(each.future, StorageFailed(f"the log store failed: {error!r}; it must be restarted"))
            raise
        entry.keep_fresh(items, answers)
        self._publish(entry)
        for each, answer in zip(taken, answers, strict=True):
            self._count(entry.log.name, each.size, answer)
            _settle(each.future, answer)
        async with self._room:
            self.stats.pending_bytes -= size
            self._room.notify_all()

    def _append(
        self, log: StreamLog, items: list[Batch | Closed]
    ) -> tuple[list[Batch | Closed], list[Appended | LogError]]:
        """What was stored, and the answer for each; in a thread, as what must not be stored is taken out here."""
        if self._policies is not None:
            policy = self._policies.of(log.name)
            log.set_limits(policy.limits(self._limits))
            if policy.redactor:
                items = [redacted(item, policy.redactor) for item in items]
        return items, log.append(items)

    def _publish(self, entry: Entry) -> None:
        self._show(entry)
        self.stats.commits += 1
        if entry.log.has_unsealed:
            self._rolled[entry.log.name] = None
            self._rolled_event.set()

    def _show(self, entry: Entry) -> None:
        entry.view = entry.log.view() if entry.log.trusted else None
        self._wake(entry)
        self._count_losses(entry)

    @staticmethod
    def _wake(entry: Entry) -> None:
        entry.changed.set()
        entry.changed = asyncio.Event()

    def _count_losses(self, entry: Entry) -> None:
        torn, dropped = entry.log.take_losses()
        self.stats.torn_bytes += torn
        self.stats.retention_lines += dropped

    def _count(self, stream: str, size: int, answer: Appended | LogError) -> None:
        self.stats.batches += 1
        if isinstance(answer, LogError):
            self.stats.refused += 1
        elif answer.duplicate:
            self.stats.duplicates += 1
        else:
            self.stats.lines += answer.next_number - answer.first
            self.stats.bytes += size
            self._appended.setdefault(stream, answer.first)

    def _limit_handles(self, stream: str) -> None:
        self._handles[stream] = None
        self._handles.move_to_end(stream)
        for name in list(self._handles)[: len(self._handles) - _OPEN_HANDLES]:
            entry = self._entries[name]
            if not entry.queued and not entry.lock.locked():
                entry.log.release()
                del self._handles[name]


def _settle(future: "asyncio.Future[Appended]", answer: Appended | LogError) -> None:
    if future.done():
        return  # the one who asked has gone
    if isinstance(answer, LogError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
