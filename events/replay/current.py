"""Every stream of a partition as it is now: from a snapshot where one fits, then from the log's batches alone.

Recovery, benchmarks and tools share it. It folds in a thread, so that the loop goes on serving others meanwhile; must
not know who owns a partition.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from events.log.codec import decode_facts
from events.log.port import EventLog
from events.log.records import Position
from events.log.runs import Runs
from events.log.snapshots.contents import CorruptSnapshot, Snapshot
from events.log.store import StoredBatch
from events.model.fold_fingerprint import fold_fingerprint
from events.model.folding import PartitionFold, restored

log = structlog.get_logger("snapshots")

PAGES_AHEAD = 3
"""One is folded (4,096 events: some 8 ms; a segment's 70,000: some 90), one waits, one arrives: longer than opening a
segment takes."""


async def fold_partition(event_log: EventLog, partition: int, snapshot: Snapshot | None = None) -> PartitionFold:
    """Fold `partition` up to its tail; from `snapshot` on if its states are of this very fold, else from zero.

    One stream's fault is set aside: see `PartitionFold.poisoned`. Raises what reading raises, LogBroken for a gap,
    UnknownEventError for an event of a newer version.
    """
    fold = None if snapshot is None else await asyncio.to_thread(_restore, snapshot)
    fold = fold or PartitionFold()
    fold.tolerant = True
    return await fold_tail(event_log, partition, fold)


async def fold_tail(event_log: EventLog, partition: int, fold: PartitionFold) -> PartitionFold:
    """Go on with `fold` up to the tail, in a thread of its own, which finds its next page there: those are fetched
    while it folds, and no more than PAGES_AHEAD are in memory."""
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fold")
    folding: deque[asyncio.Future[None]] = deque()
    try:
        async for part in event_log.read_to_fold(partition, fold.next_offset):
            if len(folding) == PAGES_AHEAD:
                await _folded(folding)
            folding.append(loop.run_in_executor(thread, _add, fold, partition, part))
        while folding:
            await _folded(folding)
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
        # A page that is being folded cannot be stopped; it must not go on in a fold that somebody takes for finished.
        await asyncio.gather(*folding, return_exceptions=True)
    return fold


async def _folded(folding: "deque[asyncio.Future[None]]") -> None:
    """The oldest page is. Waited for, not awaited, which on cancellation would forget it while its thread goes on."""
    await asyncio.wait([folding[0]])
    folding.popleft().result()


def add_batches(fold: PartitionFold, partition: int, batches: Sequence[StoredBatch]) -> None:
    """Decode and fold stored batches. Blocking, about 2 us an event. Raises CorruptBatch besides what the fold does."""
    for batch in batches:
        fold.add(decode_facts(batch.value, Position(partition, batch.base)))


def _add(fold: PartitionFold, partition: int, part: Sequence[StoredBatch] | Runs) -> None:
    if isinstance(part, Runs):
        fold.add_runs(part)
    else:
        add_batches(fold, partition, part)


def _restore(snapshot: Snapshot) -> PartitionFold | None:
    head, mine = snapshot.head, fold_fingerprint()
    if head.fingerprint != mine:
        log.info("a snapshot is of another version's fold, the log is folded instead", partition=head.partition,
                 expected=mine, found=head.fingerprint)  # fmt: skip
        return None
    try:
        return restored(snapshot)
    except CorruptSnapshot as error:
        log.warning("a snapshot cannot be used, the log is folded instead", partition=head.partition, error=str(error))
        return None
