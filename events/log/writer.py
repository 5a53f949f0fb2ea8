"""Group commit for one claimed partition: whatever gathers while a batch is being written becomes the next batch.

Knows queues, futures and the command ledger; how a batch gets into its slot is the adapter's (`BatchSlots`).
"""

import asyncio
import math
import uuid
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from events.failpoints import failpoint
from events.log.codec import (
    MAX_BATCH_BYTES,
    MAX_BATCH_RECORDS,
    BatchHeader,
    CheckedCommand,
    batch_hash,
    check_command,
    encode_batch,
)
from events.log.errors import EventTooLarge, Fenced, LogBroken, LogError, LogUnavailable, Overloaded, WriterClosed
from events.log.pace import Pace
from events.log.port import Committed, LedgerPoint
from events.log.records import EventRecord, Position
from events.log.recovery import Recovered
from events.log.snapshots.contents import Snapshot
from events.log.snapshots.shelf import SnapshotShelf
from events.log.store import BatchSlots

HINT_EVERY_BATCHES = 256


class WriterLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one writer. Times in seconds."""

    queued_commands: int = 16_384
    queued_bytes: int = 32 << 20
    append_deadline_s: float = 10.0
    drain_deadline_s: float = 10.0
    """How long `release` waits for what is queued."""


class _Pending(msgspec.Struct, eq=False):
    """A command on its way: its own waiter, and those who sent the same id meanwhile.

    Deadlines are in the loop's time; 0.0 is none.
    """

    command: CheckedCommand
    waiter: "asyncio.Future[Committed]"
    deadline: float
    joined: "list[tuple[asyncio.Future[Committed], float]] | None" = None

    def join(self, waiter: "asyncio.Future[Committed]", deadline: float) -> None:
        if self.joined is None:
            self.joined = []
        self.joined.append((waiter, deadline))

    def waiters(self) -> "list[tuple[asyncio.Future[Committed], float]]":
        """Those still waiting."""
        everyone = [(self.waiter, self.deadline), *(self.joined or ())]
        return [(waiter, deadline) for waiter, deadline in everyone if not waiter.done()]

    def succeed(self, committed: Committed) -> None:
        if not self.waiter.done():
            self.waiter.set_result(committed)
        if self.joined is not None:
            again = msgspec.structs.replace(committed, duplicate=True)
            for waiter, _ in self.joined:
                if not waiter.done():
                    waiter.set_result(again)

    def fail(self, reason: LogError) -> None:
        for waiter, _ in self.waiters():
            _fail(waiter, _fresh(reason))


class BatchingWriter:
    """A `PartitionWriter` over any adapter's slots. One task writes; everything else only queues."""

    def __init__(
        self,
        *,
        partition: int,
        epoch: int,
        recovered: Recovered,
        slots: BatchSlots,
        limits: WriterLimits | None = None,
        refuse: Callable[[], LogError | None] = lambda: None,
        snapshots: SnapshotShelf | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`refuse` is asked before anything new is queued: an error it gives is raised and nothing is written.

        `snapshots`: this claim's shelf, where the log has a place to keep them. `pace`: when a batch is gathered, if
        not at once; whoever stores it says what began.
        """
        self._loop = asyncio.get_running_loop()
        self._partition = partition
        self._epoch = epoch
        self._slots = slots
        self._limits = limits or WriterLimits()
        self._refuse = refuse
        self._snapshots = snapshots
        self._pace = pace
        self._recovered_snapshot = recovered.snapshot
        self._ledger = recovered.ledger
        self._versions = recovered.versions
        self._next_offset = recovered.next_offset
        self._last_base = recovered.last_base
        self._last_hash = recovered.last_hash
        self._queue: deque[_Pending] = deque()
        self._queued_bytes = self._queued_records = 0
        self._in_flight: list[_Pending] = []
        self._deadlines: asyncio.TimerHandle | None = None
        self._by_command: dict[str, _Pending] = {}
        self._batches = 0
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._end_reason: LogError | None = None
        self._notice: Fenced | None = None
        self._released = False
        self._task = asyncio.create_task(self._run(), name=f"log-writer-{partition}")
        self._task.add_done_callback(self._on_task_done)

    @property
    def partition(self) -> int:
        return self._partition

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def next_offset(self) -> int:
        return self._next_offset

    @property
    def snapshots(self) -> SnapshotShelf | None:
        return self._snapshots

    def take_snapshot(self) -> Snapshot | None:
        found, self._recovered_snapshot = self._recovered_snapshot, None
        return found

    def ledger_point(self) -> LedgerPoint:
        return LedgerPoint(
            base=self._next_offset,
            last_base=self._last_base,
            last_hash=self._last_hash,
            commands=self._ledger.entries(),
        )

    def submit(self, command_id: str, events: Sequence[EventRecord]) -> "asyncio.Future[Committed]":
        return self._enqueue(command_id, events, 0.0)

    async def append(self, command_id: str, events: Sequence[EventRecord]) -> Committed:
        deadline = self._loop.time() + self._limits.append_deadline_s
        waiter = self._enqueue(command_id, events, deadline)
        # One timer for all waiters: nearly all are answered long before, and a timer each costs more than the append.
        if self._deadlines is None:
            self._deadlines = self._loop.call_at(deadline, self._expire)
        return await waiter

    def _enqueue(self, command_id: str, events: Sequence[EventRecord], deadline: float) -> "asyncio.Future[Committed]":
        if self._end_reason is not None or self._notice is not None or self._released:
            raise self._why_ended()
        waiter: asyncio.Future[Committed] = self._loop.create_future()
        if (first := self._ledger.find(command_id)) is not None:
            waiter.set_result(first)
            return waiter
        if (pending := self._by_command.get(command_id)) is not None:
            pending.join(waiter, deadline)
            return waiter
        # After the ledger: a command that committed is answered also while the log takes nothing new.
        if (refusal := self._refuse()) is not None:
            raise refusal
        command = check_command(command_id, events)
        if command.size > MAX_BATCH_BYTES or len(command.events) > MAX_BATCH_RECORDS:
            raise self._too_large(command)
        limits, queue = self._limits, self._queue
        if len(queue) >= limits.queued_commands or self._queued_bytes + command.size > limits.queued_bytes:
            raise self._overloaded()
        # Queued is as good as written for the next version: it commits before any later command, or the writer dies.
        self._versions.advance(command.streams)
        self._by_command[command_id] = pending = _Pending(command, waiter, deadline)
        queue.append(pending)
        self._queued_bytes += command.size
        self._queued_records += len(command.events)
        if len(queue) == 1:
            self._wake.set()
        return waiter

    def _expire(self) -> None:
        """Tell those whose time is up, and look again when the next one's is. What they sent stays on its way."""
        now, next_at = self._loop.time(), math.inf
        for pending in (*self._in_flight, *self._queue):
            for waiter, deadline in pending.waiters():
                if not deadline:
                    continue
                if deadline > now:
                    next_at = min(next_at, deadline)
                    continue
                why = (
                    f"partition {self._partition}: expected an answer about command {pending.command.command_id!r} "
                    f"within {self._limits.append_deadline_s:g} s, found none; its outcome is unknown: repeat the same "
                    "command id"
                )
                _fail(waiter, LogUnavailable(why))
        self._deadlines = self._loop.call_at(next_at, self._expire) if next_at < math.inf else None

    def committed(self, command_id: str) -> Committed | None:
        return self._ledger.find(command_id)

    async def ended(self) -> None:
        """Wait until the writing task is over, for whatever reason."""
        await self._ended.wait()

    async def wait_closed(self) -> None:
        await self._ended.wait()
        if self._end_reason is not None and type(self._end_reason) is not WriterClosed:
            raise _fresh(self._end_reason)

    def notice_fence(self, reason: Fenced) -> None:
        """The adapter saw a newer epoch. A batch in flight is still resolved: it may have won before the claim."""
        self._notice = reason
        self._wake.set()

    async def release(self) -> None:
        if self._released:
            await self._ended.wait()
            return
        self._released = True
        self._wake.set()
        await asyncio.wait((self._task,), timeout=self._limits.drain_deadline_s)
        await self.abort()
        await self._slots.give_up(self._last_base)

    async def abort(self) -> None:
        """Stop without writing out what is queued; what is in flight has an unknown outcome."""
        self._released = True
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self._ended.wait()

    def _why_ended(self) -> LogError:
        if (reason := self._end_reason or self._notice) is not None:
            return _fresh(reason)
        return WriterClosed(f"partition {self._partition}: the writer is being released; claim the partition again")

    def _too_large(self, command: CheckedCommand) -> EventTooLarge:
        return EventTooLarge(
            f"command {command.command_id!r}: expected at most {MAX_BATCH_RECORDS} events of {MAX_BATCH_BYTES} "
            f"bytes together, found {len(command.events)} of {command.size}; store large data elsewhere"
        )

    def _overloaded(self) -> Overloaded:
        limits = self._limits
        return Overloaded(
            f"partition {self._partition}: expected at most {limits.queued_commands} queued commands of "
            f"{limits.queued_bytes} bytes, found {len(self._queue)} of {self._queued_bytes}; try again later"
        )

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if self._notice is not None:
                raise self._notice
            if self._queue:
                if self._pace is not None:
                    await self._pace.turn()
                await self._write_batch()
            elif self._released:
                return
            else:
                self._wake.clear()

    async def _write_batch(self) -> None:
        self._in_flight = batch = self._gather()
        commands = [pending.command for pending in batch]
        base = self._next_offset
        # The transaction id is drawn once per batch: every resend is the identical transaction.
        txn_id = uuid.uuid4().hex
        header, value = encode_batch(
            partition=self._partition,
            base=base,
            epoch=self._epoch,
            txn_id=txn_id,
            previous=self._last_hash,
            commands=commands,
        )
        failpoint("log.append.before")
        await self._slots.commit(base=base, previous=self._last_base, txn_id=txn_id, value=value)
        failpoint("log.append.committed")
        self._last_base, self._last_hash = base, batch_hash(value)
        self._next_offset = header.end
        self._ledger.record_header(header)
        self._settle(batch, header)
        self._in_flight = []
        self._batches += 1
        if self._batches % HINT_EVERY_BATCHES == 0:
            await self._slots.hint(base)

    def _settle(self, batch: list[_Pending], header: BatchHeader) -> None:
        """Answer everyone who waits for a command of a committed batch."""
        partition, base, by_command = self._partition, header.base, self._by_command
        for pending, span in zip(batch, header.commands, strict=True):
            del by_command[span.command_id]
            # What `Position` does itself, without a call into Python: each is made for a waiter who may never look.
            last = tuple.__new__(Position, (partition, base + span.last_index))
            one = span.first_index == span.last_index
            first = last if one else tuple.__new__(Position, (partition, base + span.first_index))
            pending.succeed(Committed(first=first, last=last, version=span.last_version, duplicate=False))

    def _gather(self) -> list[_Pending]:
        queue = self._queue
        if self._queued_records <= MAX_BATCH_RECORDS and self._queued_bytes <= MAX_BATCH_BYTES:
            batch = list(queue)
            queue.clear()
            self._queued_bytes = self._queued_records = 0
            return batch
        batch = []
        records = size = 0
        while queue:
            command = queue[0].command
            records += len(command.events)
            size += command.size
            # A command never spans two batches: that is what makes it atomic.
            if batch and (records > MAX_BATCH_RECORDS or size > MAX_BATCH_BYTES):
                break
            batch.append(queue.popleft())
            self._queued_bytes -= command.size
            self._queued_records -= len(command.events)
        return batch

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        """However the writing task ended, every waiter learns it."""
        closed = WriterClosed(f"partition {self._partition}: the writer was released; claim the partition again")
        queued: LogError = closed
        in_flight: LogError = LogUnavailable(
            f"partition {self._partition}: the writer was stopped while etcd had not answered; the outcome is unknown: "
            "repeat the same command id on the next writer"
        )
        if not task.cancelled() and (error := task.exception()) is not None:
            queued = error if isinstance(error, LogError) else LogBroken(f"the writing task died of {error!r}")
            # Any other error than these leaves open whether the last batch was written.
            in_flight = queued if isinstance(queued, Fenced | LogBroken) else in_flight
            if not isinstance(error, LogError):
                in_flight = LogUnavailable(f"the writing task died of {error!r}; the outcome is unknown")
        self._end_reason = queued
        for pending in self._in_flight:
            pending.fail(in_flight)
        for pending in self._queue:
            pending.fail(queued)
        self._in_flight = []
        self._queue.clear()
        self._queued_bytes = self._queued_records = 0
        if self._deadlines is not None:
            self._deadlines.cancel()
        self._by_command.clear()
        self._ended.set()


def _fail(waiter: "asyncio.Future[Committed]", error: LogError) -> None:
    waiter.set_exception(error)
    # Looked at here: that a waiter's owner was cancelled must not be reported as an exception nobody retrieved.
    waiter.exception()


def _fresh(reason: LogError) -> LogError:
    """A copy per waiter: raising one exception object in many tasks piles up their tracebacks in it."""
    for kind in (Fenced, WriterClosed, LogUnavailable):
        if isinstance(reason, kind):
            return kind(str(reason))
    return LogBroken(str(reason))
