"""Walks a partition from its first event to its tail, archived segments and hot batches alike, checking as it goes.

Works on any `ChainSource`: memory, etcd with its archive, a backup. Must not know which, nor what events mean.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from events.log.archive.manifest import SegmentManifest
from events.log.archive.segment import decode_segment
from events.log.chain import ChainBroken, ChainCheck
from events.log.codec import decode_facts
from events.log.errors import BlobMissing, CorruptBatch, CorruptSegment
from events.log.records import Position
from events.log.runs import difference
from events.log.store import SeenLow, StoredBatch


class ChainSource(Protocol):
    """A log at rest or in use. Every method raises LogUnavailable when its store does not answer."""

    async def manifests(self, partition: int, base: int) -> Sequence[SegmentManifest]:
        """A page of the segments with a base of `base` or more, ascending; none: there are no more."""
        ...

    async def blob(self, location: str) -> bytes:
        """A segment, whole and unchecked. Raises BlobMissing."""
        ...

    async def page(self, partition: int, base: int) -> list[StoredBatch]:
        """As `BatchStore.page`, of hot batches only."""
        ...

    async def bases(self, partition: int, start: int, end: int) -> Sequence[int]:
        """The first bases of hot batches in [start, end), ascending; empty only where there is none."""
        ...

    async def low(self, partition: int) -> SeenLow: ...

    async def tail_hint(self, partition: int) -> int:
        """A base that existed when the hint was left; 0 if none is known."""
        ...

    def hot_place(self, partition: int) -> str:
        """Where hot batches are, for a person; the base in 16 hex digits follows it."""
        ...


_BEYOND_EVERY_BASE = 1 << 62


class Run(NamedTuple):
    """Checked batches that follow one another in one place.

    `blob` and `manifest` where that is an archived segment that is wanted from its first batch to its last.
    """

    batches: list[StoredBatch]
    manifest: SegmentManifest | None
    blob: bytes


async def walk(source: ChainSource, check: ChainCheck, *, until: int | None = None) -> AsyncIterator[Run]:
    """Every batch once, from `check.next_offset` to the tail as it is when reached, or to offset `until`.

    The archiver may move batches meanwhile. Raises ChainBroken at the first thing that is wrong, and LogUnavailable.
    """
    partition = check.partition
    hint = await source.tail_hint(partition)
    manifests = await _manifests(source, partition)
    while until is None or check.next_offset < until:
        if (covering := _covering(manifests, check.next_offset)) is not None:
            yield await _cold(source, check, covering, until)
            continue
        page = await source.page(partition, check.next_offset)
        if page and page[0].base == check.next_offset:
            wanted = [batch for batch in page if until is None or batch.base < until]
            await asyncio.to_thread(check.add_all, wanted, source.hot_place(partition))
            yield Run(wanted, None, b"")
            continue
        # At the tail, or archived since the manifests were listed and its keys are deleted by now, or taken away.
        manifests = await _manifests(source, partition)
        if _covering(manifests, check.next_offset) is not None:
            continue
        await _expect_tail(source, check, hint)
        return


async def _manifests(source: ChainSource, partition: int) -> list[SegmentManifest]:
    found: list[SegmentManifest] = []
    while page := await source.manifests(partition, found[-1].base + 1 if found else 0):
        found += page
    return found


def _covering(manifests: Sequence[SegmentManifest], offset: int) -> SegmentManifest | None:
    return next((m for m in manifests if m.base <= offset < m.end), None)


async def _cold(source: ChainSource, check: ChainCheck, manifest: SegmentManifest, until: int | None) -> Run:
    """The rest of a segment: its bytes against the manifest, its batches against the chain and their hot copies."""
    at = Position(check.partition, check.next_offset)
    place = f"segment {manifest.location}"
    try:
        blob = await source.blob(manifest.location)
    except BlobMissing as error:
        raise ChainBroken(at, place=place, expected="the segment that its manifest names", found="none") from error
    begins_here = manifest.base == check.next_offset
    batches = await asyncio.to_thread(_open_segment, check, manifest, blob)
    wanted = [b for b in batches if b.base >= at.offset and (until is None or b.base < until)]
    first_previous = check.last_hash
    await asyncio.to_thread(check.add_all, wanted, place)
    whole = begins_here and len(wanted) == len(batches)
    if whole and check.chained_from is not None and manifest.first_previous not in ("", first_previous.hex()):
        raise ChainBroken(
            at,
            place=place,
            expected=f"the link {manifest.first_previous} of its manifest",
            found=f"{first_previous.hex()} before it",
        )
    if check.next_offset == manifest.end and check.last_hash.hex() != manifest.last_hash:
        raise ChainBroken(
            Position(check.partition, wanted[-1].base),
            place=place,
            expected=f"a last batch with hash {manifest.last_hash} as its manifest says",
            found=check.last_hash.hex(),
        )
    await _compare_hot_copies(source, check.partition, wanted, place)
    return Run(wanted, manifest if whole else None, blob if whole else b"")


def _open_segment(check: ChainCheck, manifest: SegmentManifest, blob: bytes) -> list[StoredBatch]:
    partition, place = check.partition, f"segment {manifest.location}"
    try:
        segment = decode_segment(partition, manifest, blob)
        batches = segment.batches(manifest.base, manifest.end, manifest.events)
        if (runs := segment.runs()) is None:
            return batches
        differs = difference(runs, (decode_facts(batch.value, Position(partition, batch.base)) for batch in batches))
    except (CorruptBatch, CorruptSegment) as error:
        raise ChainBroken(
            error.position, place=place, expected="a whole segment", found=f"a damaged one ({error.why})"
        ) from error
    if differs:
        at = Position(partition, manifest.base)
        raise ChainBroken(at, place=place, expected="its batches' events once more, by stream", found=differs)
    return batches


async def _compare_hot_copies(source: ChainSource, partition: int, batches: Sequence[StoredBatch], place: str) -> None:
    """What is archived may be hot still: readers would take the hot copy, so it must be the same."""
    if not batches:
        return
    archived = {batch.base: batch.value for batch in batches}
    base, end = batches[0].base, batches[-1].base + 1
    while hot := await source.bases(partition, base, end):
        base = hot[-1] + 1
        for batch in await source.page(partition, hot[0]):
            base = max(base, batch.base + 1)
            if batch.base < end and archived.get(batch.base) != batch.value:
                raise ChainBroken(
                    Position(partition, batch.base),
                    place=f"{source.hot_place(partition)}{batch.base:016x}",
                    expected=f"the same bytes as in {place}",
                    found="others",
                )


async def _expect_tail(source: ChainSource, check: ChainCheck, hint: int) -> None:
    """Nothing is at `check.next_offset`: that is right only at the tail, and something must show that it is."""
    at = Position(check.partition, check.next_offset)
    place = f"{source.hot_place(check.partition)}{at.offset:016x}"
    following = await source.bases(check.partition, at.offset, _BEYOND_EVERY_BASE)
    low = await source.low(check.partition)
    if following:
        found = f"none; the next one begins at offset {following[0]}: batches were taken away"
        raise ChainBroken(at, place=place, expected="a batch, or a segment that holds it", found=found)
    if at.offset < low.first_hot or (at.offset <= hint and hint):
        known = f"{max(low.first_hot - 1, hint)}"
        found = "the end of the log: its newest batches were taken away"
        raise ChainBroken(at, place=place, expected=f"a batch, since offset {known} was reached before", found=found)
    # The last batch always stays hot, also where it is archived as well: the next append compares with it.
    if at.offset and not await source.bases(check.partition, 0, at.offset):
        found = "none in etcd: the log cannot be appended to"
        raise ChainBroken(at, place=place, expected="the last batch to be hot as well", found=found)
