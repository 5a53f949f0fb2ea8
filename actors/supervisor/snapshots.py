"""When a partition's owner takes a snapshot, and how: a cut through memory, waited for until it is durable, then kept.

Knows what a cut holds; not what states mean, nor how an engine serves meanwhile.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog

from events.clock import now_micros
from events.failpoints import failpoint
from events.log.port import Committed, LedgerPoint, PartitionWriter
from events.log.snapshots.contents import CommandEntry, SnapshotHead, encode_snapshot
from events.log.snapshots.shelf import SnapshotShelf
from events.model.fold_fingerprint import fold_fingerprint
from events.model.folding import snapshot_entries

log = structlog.get_logger("snapshots")

FOLDED_AT_ONCE = 2_000  # events that a claim folds in some 5 ms: less than a snapshot costs


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot is due after `events` more events, or after `seconds` with any; never sooner after the last one than
    `apart_seconds`, so that a burst is not spent on snapshots. `release_seconds`: how long giving a partition up waits.

    At 2 us an event the next owner folds 20,000 events in 0.04 s; a snapshot of 10,000 streams costs 0.4 s of CPU.
    """

    events: int = 20_000
    seconds: float = 900.0
    apart_seconds: float = 30.0
    release_seconds: float = 10.0


class Cut(NamedTuple):
    """All that was decided up to one moment: the state of every stream after the events below `offset`, which are the
    log's next ones up to there, and become durable when `appends` have ended. States are immutable: no copy is made."""

    offset: int
    ledger: LedgerPoint
    streams: list[tuple[str, msgspec.Struct, int, int]]
    appends: Sequence["asyncio.Future[Committed]"]


class SnapshotTaker:
    """Takes the snapshots of one claimed partition. `turn` is shared by all of a process: one encodes at a time."""

    def __init__(
        self,
        *,
        writer: PartitionWriter,
        shelf: SnapshotShelf,
        cut: Callable[[], Cut | None],
        policy: SnapshotPolicy,
        turn: asyncio.Semaphore,
    ) -> None:
        """`cut` gives None when memory is no longer what the log holds."""
        self._writer = writer
        self._shelf = shelf
        self._cut = cut
        self._policy = policy
        self._turn = turn
        self._since = 0
        self._bearable = 0
        self._due = asyncio.Event()

    def grew(self, events: int) -> None:
        """So many more events are durable, or were folded from the log's tail."""
        self._since += events
        if self._since >= self._policy.events:
            self._due.set()

    async def run(self) -> None:
        """Take a snapshot whenever one is due. For ever; a failed one is said and tried again when the next is due."""
        while True:
            try:
                async with asyncio.timeout(self._policy.seconds):
                    await self._due.wait()
            except TimeoutError:
                pass
            if self._since:
                await self._try()
            await asyncio.sleep(self._policy.apart_seconds)

    async def ahead_of_release(self) -> None:
        """What `at_release` would do, while the partition is still served; that one then has little or nothing left."""
        self._bearable = FOLDED_AT_ONCE
        if self._since:
            await self._within_bounds()

    async def at_release(self) -> None:
        """One more, if anything happened since the last, so that the next owner has nothing to fold; within bounds.

        Nobody serves the partition meanwhile: after `ahead_of_release` a few events are left to be folded instead.
        """
        if self._since > self._bearable:
            await self._within_bounds()

    async def _within_bounds(self) -> None:
        try:
            async with asyncio.timeout(self._policy.release_seconds):
                await self._try()
        except TimeoutError:
            log.warning("a snapshot at release took too long", partition=self._writer.partition)

    async def _try(self) -> None:
        try:
            kept = await self.take()
        except Exception as error:
            # The partition serves without a snapshot as well; whatever it was, it is said, and the next one may do.
            log.warning("a snapshot could not be kept", partition=self._writer.partition,
                        error=f"{type(error).__name__}: {error}")  # fmt: skip
        else:
            if not kept:
                log.info("a snapshot was given up: its owner or its events are gone", partition=self._writer.partition)

    async def take(self) -> bool:
        """Take one now. False: some of its events never became durable, or the claim is lost. Raises LogUnavailable."""
        async with self._turn:
            self._since = 0
            self._due.clear()
            cut = self._cut()
            if cut is None:
                return False
            if cut.appends:
                await asyncio.wait(cut.appends)
            # Order of submission is order in the log: what was committed up to here is exactly what the cut holds.
            if self._writer.next_offset < cut.offset:
                return False
            failpoint("supervisor.snapshot.durable")
            head = SnapshotHead(
                partition=self._writer.partition,
                offset=cut.offset,
                base=cut.ledger.base,
                last_base=cut.ledger.last_base,
                last_hash=cut.ledger.last_hash,
                fingerprint=fold_fingerprint(),
                taken_at=now_micros(),
            )
            data = await asyncio.to_thread(_encode, head, cut)
            return await self._shelf.save(head, data)


def _encode(head: SnapshotHead, cut: Cut) -> bytes:
    commands = (CommandEntry(command_id, *span) for command_id, span in cut.ledger.commands)
    return encode_snapshot(head, snapshot_entries(cut.streams), commands)
