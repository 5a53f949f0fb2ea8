"""What a new owner learns before it serves: where the tail is, which commands committed, how far each stream is.

Walks batch headers through the store, from where a snapshot ends if there is one; knows nothing of claims, of how
batches are kept, or of what states mean.
"""

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from events.log.codec import BatchHeader, batch_hash, decode_header
from events.log.errors import LogHole
from events.log.ledger import WINDOW, CommandLedger, StreamVersions
from events.log.records import Position
from events.log.snapshots.contents import CorruptSnapshot, Snapshot, SnapshotHead
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS, BatchStore, StoredBatch

log = structlog.get_logger("snapshots")


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """The state a writer starts from. `last_base` is None, and `last_hash` empty, while the partition is empty."""

    next_offset: int
    last_base: int | None
    last_hash: bytes
    """`batch_hash` of the last batch: the next one carries it."""
    ledger: CommandLedger
    versions: StreamVersions
    snapshot: Snapshot | None = None
    """What the log's tail continues, if a snapshot was given and the log does."""


async def recover(
    store: BatchStore, partition: int, window: int = WINDOW, snapshot: Snapshot | None = None
) -> Recovered:
    """Walk from the snapshot, which knows the commands before it, or from the tail hint, forward to the tail; without a
    snapshot then back until `window` commands are known.

    Must run after the claim's transaction: only then can no older owner add a batch behind the walk.
    """
    if snapshot is not None:
        try:
            return await _resume(store, partition, window, snapshot)
        except CorruptSnapshot as error:
            log.warning("a snapshot cannot be used, the log is walked instead", partition=partition, error=str(error))
    start = await _walk_start(store, partition)
    newest, last_hash = await _forward(store, partition, start)
    chunks = [newest]
    known = sum(len(header.commands) for header in newest)
    while known < window and start > 0:
        older = await _before(store, partition, start)
        if not older:
            raise LogHole(Position(partition, start - 1), start)
        chunks.append(older)
        known += sum(len(header.commands) for header in older)
        start = older[0].base
    ledger, versions = CommandLedger(partition, window), StreamVersions(window)
    headers = [header for chunk in reversed(chunks) for header in chunk]
    await asyncio.to_thread(_record, headers, ledger, versions)
    return Recovered(
        next_offset=headers[-1].end if headers else 0,
        last_base=headers[-1].base if headers else None,
        last_hash=last_hash,
        ledger=ledger,
        versions=versions,
    )


async def _resume(store: BatchStore, partition: int, window: int, snapshot: Snapshot) -> Recovered:
    """Raises CorruptSnapshot if the log does not continue it: it was restored from before, or is another one."""
    head = snapshot.head
    if not await _continues(store, partition, head):
        raise CorruptSnapshot(f"the log holds another batch before offset {head.base} than the snapshot was taken of")
    ledger, versions = await asyncio.to_thread(_restored, snapshot, partition, window)
    headers, last_hash = await _forward(store, partition, head.base)
    await asyncio.to_thread(_record, headers, ledger, versions)
    next_offset = headers[-1].end if headers else head.base
    if next_offset < head.offset:
        raise CorruptSnapshot(f"it covers the log up to offset {head.offset}, and the log ends at {next_offset}")
    return Recovered(
        next_offset=next_offset,
        last_base=headers[-1].base if headers else head.last_base,
        last_hash=last_hash if headers else head.last_hash,
        ledger=ledger,
        versions=versions,
        snapshot=snapshot,
    )


async def _continues(store: BatchStore, partition: int, head: SnapshotHead) -> bool:
    """Whether the batch before `head.base` is the one it was: told by the batch that follows, else by itself."""
    if head.last_base is None:
        return True
    page = await store.page(partition, head.base)
    if page:
        follows = page[0].base == head.base
        previous = decode_header(page[0].value, Position(partition, page[0].base)).previous
        if follows and previous:
            return previous == head.last_hash
    page = await store.page(partition, head.last_base)
    return bool(page) and page[0].base == head.last_base and batch_hash(page[0].value) == head.last_hash


def _restored(snapshot: Snapshot, partition: int, window: int) -> tuple[CommandLedger, StreamVersions]:
    ledger, versions = CommandLedger(partition, window), StreamVersions(window)
    for commands in snapshot.commands():
        ledger.restore((c.command_id, (c.first, c.last, c.version)) for c in commands)
    for streams in snapshot.streams():
        versions.restore((s.stream, s.version) for s in streams)
    return ledger, versions


def _record(headers: Sequence[BatchHeader], ledger: CommandLedger, versions: StreamVersions) -> None:
    for header in headers:
        ledger.record_header(header)
        versions.record(header.streams)


async def _decoded(partition: int, batches: Sequence[StoredBatch]) -> list[BatchHeader]:
    """Their headers. In a thread: those of a page take longer than others on this loop may wait."""
    places = [(batch.value, Position(partition, batch.base)) for batch in batches]
    return await asyncio.to_thread(lambda: [decode_header(*place) for place in places])


async def _walk_start(store: BatchStore, partition: int) -> int:
    """The hint if a batch really begins there, else the first that is hot: a hint is never the truth."""
    hint = await store.tail_hint(partition)
    first_hot = (await store.low(partition)).first_hot
    page = await store.page(partition, hint) if hint > first_hot else []
    return hint if page and page[0].base == hint else first_hot


async def _forward(store: BatchStore, partition: int, start: int) -> tuple[list[BatchHeader], bytes]:
    """The headers from `start` to the tail, and the hash of the last batch."""
    headers: list[BatchHeader] = []
    last_hash = b""
    expected = start
    while True:
        page = await store.page(partition, expected)
        page_start = expected
        for header in await _decoded(partition, page):
            if header.base != expected:
                raise LogHole(Position(partition, expected), header.base)
            headers.append(header)
            expected = header.end
        if page:
            last_hash = batch_hash(page[-1].value)
        if len(page) < PAGE_BATCHES and expected < page_start + PAGE_OFFSETS:
            return headers, last_hash


async def _before(store: BatchStore, partition: int, end: int) -> list[BatchHeader]:
    """Headers of the batches with a base in [end - PAGE_OFFSETS, end), ascending."""
    headers: list[BatchHeader] = []
    start = max(0, end - PAGE_OFFSETS)
    while start < end:
        page = [batch for batch in await store.page(partition, start) if batch.base < end]
        if not page:
            break
        headers += await _decoded(partition, page)
        start = headers[-1].end
    return headers
