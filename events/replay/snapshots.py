"""Whether a snapshot holds what a fold from the first event gives: the deep part of `rayfold log verify`.

Knows folds and snapshots; nothing of where either is kept, and changes nothing.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from events.log.chain import ChainCheck
from events.log.codec import decode_facts
from events.log.records import Position
from events.log.snapshots.contents import CorruptSnapshot, open_snapshot
from events.log.store import StoredBatch
from events.log.verify import DeepCheck, SnapshotRef
from events.log.walk import ChainSource, walk
from events.model.fold_fingerprint import fold_fingerprint
from events.model.folding import Folded, PartitionFold, restored


def deep_check(source: ChainSource) -> DeepCheck:
    """A `DeepCheck` that folds from zero over `source`."""

    async def check(partition: int, snapshot: SnapshotRef, blob: bytes) -> str:
        try:
            opened = open_snapshot(blob)
            if opened.head.fingerprint != fold_fingerprint():
                # Another release made it. Whoever recovers passes it over and folds, and so nothing rests on it.
                return ""
            kept = await asyncio.to_thread(restored, opened)
        except CorruptSnapshot as error:
            return str(error)
        if opened.head.offset != snapshot.offset:
            return f"a snapshot of offset {opened.head.offset}"
        folded = await _fold_until(source, partition, snapshot.offset)
        return await asyncio.to_thread(_difference, kept, folded)

    return check


async def _fold_until(source: ChainSource, partition: int, offset: int) -> PartitionFold:
    fold = PartitionFold()
    async for run in walk(source, ChainCheck(partition), until=offset):
        await asyncio.to_thread(_add, fold, partition, run.batches, offset)
    return fold


def _add(fold: PartitionFold, partition: int, batches: Sequence[StoredBatch], offset: int) -> None:
    for batch in batches:
        facts = decode_facts(batch.value, Position(partition, batch.base))
        # A snapshot may end within a batch.
        fold.add(facts.between(0, min(len(facts), offset - facts.base)))


def _difference(kept: PartitionFold, folded: PartitionFold) -> str:
    """The first stream that differs, by name; empty when none does."""
    for stream in sorted(kept.states.keys() | folded.states.keys()):
        ours, theirs = kept.states.get(stream), folded.states.get(stream)
        if ours is None or theirs is None:
            return f"{stream} {'missing' if ours is None else 'that no event tells of'}"
        if _summary(ours) != _summary(theirs):
            return f"{stream} at version {ours.version} in another state than version {theirs.version} of the fold"
    return ""


def _summary(folded: Folded) -> tuple[int, int, bytes]:
    return folded.version, folded.last_offset, msgspec.msgpack.encode(folded.state)
