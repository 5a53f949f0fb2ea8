"""The event log as others see it: what an adapter promises, which tests/events/log/contract.py says again in code.

Must not know etcd, nor what any event means.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from events.log.errors import LogDamaged
from events.log.records import EventRecord, Position, StoredEvent
from events.log.runs import Runs
from events.log.snapshots.contents import Snapshot
from events.log.snapshots.shelf import SnapshotShelf
from events.log.store import StoredBatch


class Committed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a command's events are, both inclusive. `duplicate`: the id was known, these are the *first* events.

    `version` is the last event's version in its stream; 0 if a batch of format 1 holds it, which did not say.
    """

    first: Position
    last: Position
    version: int
    duplicate: bool


class LedgerPoint(NamedTuple):
    """What an owner knows of the batches below `base`, all durable: where the last of them begins (None: there is
    none), the hash of its stored value, and the remembered commands, the oldest first: id, then first offset, last
    offset and last version."""

    base: int
    last_base: int | None
    last_hash: bytes
    commands: Iterable[tuple[str, tuple[int, int, int]]]


class Followed(NamedTuple):
    """How far one who follows events of some types has come: before offset `end` of `partition`, and past `events`."""

    partition: int
    end: int
    events: list[StoredEvent]


OnDamage = Callable[[int, LogDamaged | None], None]
"""(partition, what is damaged in it): told once for each; None: it can be read again."""


class OwnerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who serves a partition, for finding it. Never proof of ownership: the epoch, compared in each append, is that."""

    owner: str
    node: str
    pid: int
    epoch: int
    claimed_at: int
    """Microseconds since 1970-01-01 UTC."""


class PartitionWriter(Protocol):
    """The one writer of a partition while its epoch is the newest. Used from one event loop only.

    Concurrent appends are grouped: while one batch is being written, everything submitted becomes the next. Order of
    submission is order in the log. A command's events are in one batch: all of them or none.
    """

    @property
    def partition(self) -> int: ...

    @property
    def epoch(self) -> int:
        """Grows by at least one with every claim of this partition."""
        ...

    @property
    def next_offset(self) -> int:
        """The offset after the last *committed* event."""
        ...

    def submit(self, command_id: str, events: Sequence[EventRecord]) -> "asyncio.Future[Committed]":
        """Queue one command's events, at once and in call order; the future is settled when their fate is known.

        A known command id gives its first result with `duplicate=True` whatever `events` holds, also while the first
        is still in flight. Raises here: InvalidAppend, EventTooLarge, VersionConflict, Overloaded, LogFull,
        WriterClosed, Fenced; the future fails with Fenced, WriterClosed or LogBroken (nothing committed), or
        LogUnavailable (the writer was released while etcd was silent: unknown). Cancelling the future does not take the
        command back.
        """
        ...

    async def append(self, command_id: str, events: Sequence[EventRecord]) -> Committed:
        """`submit` and wait. Raises what `submit` raises, and LogUnavailable after the deadline (10 s by default).

        After LogUnavailable the command is still queued: repeat it with the same id to learn its fate. Being
        cancelled while waiting does not take the command back either.
        """
        ...

    def committed(self, command_id: str) -> Committed | None:
        """The first result of a command, if it committed and is within the ledger's window (the newest 200,000)."""
        ...

    @property
    def snapshots(self) -> SnapshotShelf | None:
        """Where this partition's snapshots are kept; None where the log was given no archive."""
        ...

    def take_snapshot(self) -> Snapshot | None:
        """The snapshot that the claim found and that the log continues; once, so that nobody keeps it in memory."""
        ...

    def ledger_point(self) -> LedgerPoint:
        """What a snapshot taken now holds of the log itself. Cheap: its commands are made by whoever goes through them,
        in any thread."""
        ...

    async def wait_closed(self) -> None:
        """Wait until this writer can append no more: returns after `release`, else raises why (Fenced, LogBroken)."""
        ...

    async def release(self) -> None:
        """Write out what is queued, leave a hint of the tail, and give the partition up. May be called twice."""
        ...


class EventLog(Protocol):
    """P partitions, each a chain of events with contiguous offsets from 0."""

    @property
    def partitions(self) -> int:
        """P, fixed when the log is made."""
        ...

    async def open(self) -> None:
        """Create the layout, or check it. Raises LayoutMismatch, LogUnavailable."""
        ...

    async def close(self) -> None:
        """Stop following and free connections. Release writers first; those left are closed without a release."""
        ...

    async def claim(self, partition: int, owner: str, *, force: bool = False) -> PartitionWriter:
        """Become the partition's only writer; every older writer is Fenced at its next append.

        Raises PartitionOwned if another owner's lease is alive and not `force`. The same `owner` may claim again at
        once, as a restarted process does. The writer has rebuilt its command ledger when this returns.
        """
        ...

    def read(self, partition: int, from_offset: int, *, stream: str | None = None) -> AsyncIterator[list[StoredEvent]]:
        """Events from `from_offset` on, in non-empty lists, ending at the tail as it is when reached.

        Archived events come as those in etcd do. With `stream` only that stream's events, and batches that do not
        name it are not decoded. Raises BeyondTail, LogHole, CorruptBatch, CorruptSegment, BlobMissing,
        LogUnavailable (ArchiveUnavailable when it is the archive that does not answer).
        """
        ...

    def read_to_fold(self, partition: int, from_offset: int) -> AsyncIterator[Sequence[StoredBatch] | Runs]:
        """As `read`, for whoever folds all streams: batches as they are stored, in order up to the tail, the first of
        them perhaps from before `from_offset`; and in place of a segment's batches their events by stream, where it
        begins at what is wanted next. Not decoded: a damaged batch is not noticed here. Raises BeyondTail.
        """
        ...

    def follow(self, partition: int, from_offset: int) -> AsyncIterator[list[StoredEvent]]:
        """`read`, then live, for ever, without gap or repetition. A silent etcd delays it; it raises as `read` does
        except LogUnavailable, which it waits out, and LogRewritten where it has read what the log no longer holds."""
        ...

    def follow_all(
        self, from_offsets: Mapping[int, int], on_damage: OnDamage | None = None
    ) -> AsyncIterator[list[StoredEvent]]:
        """`follow` for several partitions at once ({partition: offset}); each list is of one partition.

        Order holds within a partition, not between partitions. One watch serves all followers of a process. With
        `on_damage` a partition that is damaged is told, stands still and is looked at again every few seconds, while
        the others go on; without it LogDamaged is raised.
        """
        ...

    def follow_types(
        self, from_offsets: Mapping[int, int], types: Collection[str], on_damage: OnDamage | None = None
    ) -> AsyncIterator[Followed]:
        """`follow_all`, of events of these types only. It also says how far it has come where there are none, and
        makes little work of batches that hold none."""
        ...

    async def tail(self, partition: int) -> int:
        """The offset the next event will get; linearizable. Raises LogUnavailable."""
        ...

    async def owner_of(self, partition: int) -> OwnerRecord | None:
        """Who serves the partition now, as far as known; None if nobody does. Raises LogUnavailable."""
        ...
