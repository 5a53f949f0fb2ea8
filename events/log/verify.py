"""Verifies a whole log and tells, for each partition, where its chain ends or what the first break is.

Works on any `VerifiableLog`: memory, etcd with its archive, a backup. Must not know which, nor what events mean.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from events.log.chain import ChainBroken, ChainCheck, Head, NotedHead
from events.log.errors import BlobMissing, LogBroken
from events.log.records import Position
from events.log.walk import ChainSource, walk


class SnapshotRef(msgspec.Struct, frozen=True):
    """What is recorded of a partition's snapshot: up to which offset, which blob, and its sha256 (hex)."""

    offset: int
    location: str
    sha256: str


class VerifiableLog(ChainSource, Protocol):
    """A log that also says how many partitions it has, and which snapshots."""

    @property
    def partitions(self) -> int: ...

    async def snapshot(self, partition: int) -> SnapshotRef | None:
        """The newest recorded snapshot; None if there is none."""
        ...


DeepCheck = Callable[[int, SnapshotRef, bytes], Awaitable[str]]
"""(partition, snapshot, its blob) -> what differs from a fold from zero; empty when nothing does."""


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """The first thing wrong in a partition: at which position, in which place, what was expected, what was found."""

    position: Position
    place: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.position} in {self.place}: expected {self.expected}, found {self.found}"


class PartitionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the walk of one partition found; the counts are of what was whole before a break."""

    partition: int
    batches: int
    events: int
    bytes: int
    segments: int
    snapshot: int | None
    """The offset of the snapshot that was checked; None where there is none."""
    snapshot_damaged: Break | None = None
    """The snapshot is not what it should be. The log is whole all the same: it is folded in the snapshot's place."""
    snapshot_missing: str = ""
    """The name of a recorded snapshot that was deleted, as it may be at any time."""
    chained_from: int | None
    """Batches before this offset are of format 1 and carry no hash; None: no batch carries one."""
    head: Head
    broken: Break | None
    recognised: tuple[str, ...] = ()
    """Noted hashes without a position that are in this partition."""


Progress = Callable[[int, int], None]
"""(partition, events checked in it so far)"""


async def verify_log(
    log: VerifiableLog,
    *,
    partitions: Sequence[int] | None = None,
    noted: Sequence[NotedHead] = (),
    deep: DeepCheck | None = None,
    progress: Progress = lambda partition, events: None,
) -> AsyncIterator[PartitionReport]:
    """One report per partition, in order, each as soon as it is known. Raises LogUnavailable."""
    for partition in range(log.partitions) if partitions is None else partitions:
        yield await verify_partition(log, partition, noted=noted, deep=deep, progress=progress)


async def verify_partition(
    log: VerifiableLog,
    partition: int,
    *,
    noted: Sequence[NotedHead] = (),
    deep: DeepCheck | None = None,
    progress: Progress = lambda partition, events: None,
) -> PartitionReport:
    """Walk one partition from its first event to its tail, then check its snapshot."""
    # Asked for before the walk: a snapshot that is made meanwhile may lie beyond the tail that the walk reaches.
    snapshot = await log.snapshot(partition)
    check = ChainCheck(partition, noted)
    segments = 0
    broken: Break | None = None
    found = _SnapshotFound()
    try:
        async for run in walk(log, check):
            segments += run.manifest is not None
            progress(partition, check.next_offset)
        check.finish(f"{log.hot_place(partition)}{check.next_offset:016x}")
        if snapshot is not None:
            found = await _check_snapshot(log, check, snapshot, deep)
    except ChainBroken as error:
        broken = Break(position=error.position, place=error.place, expected=error.expected, found=error.found)
    return PartitionReport(
        partition=partition,
        batches=check.batches,
        events=check.next_offset,
        bytes=check.bytes,
        segments=segments,
        snapshot=None if snapshot is None else snapshot.offset,
        snapshot_damaged=found.damaged,
        snapshot_missing=found.missing,
        chained_from=check.chained_from,
        head=check.head,
        broken=broken,
        recognised=tuple(sorted(check.recognised)),
    )


def unrecognised(noted: Sequence[NotedHead], reports: Sequence[PartitionReport]) -> list[str]:
    """Noted hashes without a position that no partition holds: the history they were noted of is not this one."""
    known = {digest for report in reports for digest in report.recognised}
    return [head.hash for head in noted if head.at is None and head.hash not in known]


class _SnapshotFound(NamedTuple):
    damaged: Break | None = None
    missing: str = ""


async def _check_snapshot(
    log: VerifiableLog, check: ChainCheck, snapshot: SnapshotRef, deep: DeepCheck | None
) -> _SnapshotFound:
    """Raises ChainBroken where the snapshot covers events that the log lacks; all else is wrong with it alone."""
    at = Position(check.partition, snapshot.offset)
    place = f"snapshot {snapshot.location}"
    if snapshot.offset > check.next_offset:
        found = f"the tail at offset {check.next_offset}: what came after was taken away"
        raise ChainBroken(at, place=place, expected="the events that the snapshot covers", found=found)

    def damaged(expected: str, found: str) -> _SnapshotFound:
        return _SnapshotFound(damaged=Break(position=at, place=place, expected=expected, found=found))

    try:
        blob = await log.blob(snapshot.location)
    except BlobMissing:
        return _SnapshotFound(missing=snapshot.location)
    digest = await asyncio.to_thread(lambda: hashlib.sha256(blob).hexdigest())
    if digest != snapshot.sha256:
        return damaged(f"bytes with sha256 {snapshot.sha256}", digest)
    if deep is None:
        return _SnapshotFound()
    try:
        difference = await deep(check.partition, snapshot, blob)
    except LogBroken as error:
        return damaged("a snapshot that can be compared", str(error))
    return damaged("the state that a fold from zero gives", difference) if difference else _SnapshotFound()


def as_document(reports: Sequence[PartitionReport], noted: Sequence[NotedHead]) -> dict[str, object]:
    """All reports as plain JSON values, as the command line and HTTP show them; breaks and heads as text."""
    return {
        "whole": all(report.broken is None for report in reports) and not unrecognised(noted, reports),
        "partitions": [report_document(report) for report in reports],
        "unrecognised": unrecognised(noted, reports),
    }


def report_document(report: PartitionReport) -> dict[str, object]:
    """One report as plain JSON values; `broken`, `head` and what is said of a snapshot: empty where there is none."""
    return {
        "partition": report.partition,
        "batches": report.batches,
        "events": report.events,
        "bytes": report.bytes,
        "segments": report.segments,
        "snapshot": report.snapshot,
        "chained_from": report.chained_from,
        "head": str(report.head) if report.events else "",
        "broken": "" if report.broken is None else str(report.broken),
        "snapshot_damaged": "" if report.snapshot_damaged is None else str(report.snapshot_damaged),
        "snapshot_missing": report.snapshot_missing,
    }
