"""Histories as a file of JSON Lines that opens offline: how it is written. `imported` reads it.

The first line is a header (`Header`), each further one an event (`EventLine`) with its body decoded for people and as
MessagePack for folding. Secrets are in it as they are in the log: sealed. Knows nothing of who asks for it.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence

import msgspec

from events.log.records import EventRecord, Position, StoredEvent
from events.replay.errors import NoSuchStream
from events.replay.history import place_of
from events.replay.moments import show_time
from events.replay.past import Past, in_total_order

FORMAT = "rayfold-history"
VERSION = 1
BLOCK_EVENTS = 256


class StreamLine(msgspec.Struct, frozen=True, kw_only=True):
    """A stream of the file, and how many events it has; they are all of them, from version 1 on."""

    stream: str
    events: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. `partitions`: P of the log that it was taken from; `chain`: the SHA-256 over all events in their
    order, see `Chain`; `exported_at` is ISO-8601 UTC; `rayfold` the release that wrote it."""

    format: str
    version: int
    rayfold: str
    exported_at: str
    partitions: int
    events: int
    streams: Sequence[StreamLine]
    chain: str


class EventLine(msgspec.Struct, frozen=True, kw_only=True):
    """One event: its place, its envelope, its body twice. `at`: microseconds UTC; `raw`: MessagePack (base64 in the
    file); `body`: the same, decoded."""

    partition: int
    offset: int
    revision: int
    stream: str
    version: int
    type: str
    schema_version: int
    event_id: str
    at: int
    command_id: str
    correlation_id: str
    causation_id: str
    actor: str
    reason: str
    traceparent: str
    body: msgspec.Raw
    raw: bytes

    def stored(self) -> StoredEvent:
        """The event as the log had it."""
        fields = {name: getattr(self, name) for name in EventRecord.__struct_fields__ if name != "body"}
        record = EventRecord(**fields, body=msgspec.Raw(self.raw))
        return StoredEvent(Position(self.partition, self.offset), self.revision, record)


class Chain:
    """SHA-256 over place, revision and record of each event, each with the sum of all before it: one number that no
    event can be changed, taken out or moved under."""

    def __init__(self) -> None:
        self._sum = f"{FORMAT} {VERSION}".encode()

    def add(self, events: Sequence[StoredEvent]) -> None:
        """Take further events, in their order."""
        for stored in events:
            link = msgspec.msgpack.encode((*stored.position, stored.revision, stored.record))
            self._sum = hashlib.sha256(self._sum + link).digest()

    def head(self) -> str:
        """The sum so far, in hex."""
        return self._sum.hex()


def readable_body(raw: bytes) -> bytes:
    """A body's MessagePack as JSON, the same bytes for the same body."""
    return msgspec.json.encode(msgspec.msgpack.decode(raw))


def event_line(stored: StoredEvent) -> bytes:
    """The event as one line, its end included."""
    record = stored.record
    fields = {name: getattr(record, name) for name in EventRecord.__struct_fields__ if name != "body"}
    raw = bytes(record.body)
    line = EventLine(
        partition=stored.position.partition,
        offset=stored.position.offset,
        revision=stored.revision,
        **fields,
        body=msgspec.Raw(readable_body(raw)),
        raw=raw,
    )
    return msgspec.json.encode(line) + b"\n"


async def export(past: Past, streams: Collection[str] | None, *, rayfold: str, now: int) -> AsyncGenerator[bytes, None]:
    """The file's bytes in blocks of whole lines: of these streams, or of all (None). `now`: microseconds UTC.

    Reads twice, so that the header can say what follows while only a block is held; events that are written meanwhile
    are left out. Raises NoSuchStream when there is no event of a stream, and what reading raises.
    """
    partitions = None if streams is None else {place_of(past, stream) for stream in streams}
    counts: dict[str, int] = {}
    pins: dict[int, int] = {}
    chain = Chain()
    async for block in _blocks(past, streams, partitions, None):
        for stored in block:
            counts[stored.record.stream] = counts.get(stored.record.stream, 0) + 1
            pins[stored.position.partition] = stored.position.offset
        await asyncio.to_thread(chain.add, block)
    if missing := sorted(set(streams or ()) - counts.keys()):
        raise NoSuchStream(f"expected events of {missing[0]}, found none; list streams with: rayfold events")
    header = Header(
        format=FORMAT,
        version=VERSION,
        rayfold=rayfold,
        exported_at=show_time(now),
        partitions=past.partitions,
        events=sum(counts.values()),
        streams=[StreamLine(stream=name, events=counts[name]) for name in sorted(counts)],
        chain=chain.head(),
    )
    yield msgspec.json.encode(header) + b"\n"
    async for block in _blocks(past, streams, partitions, pins):
        yield await asyncio.to_thread(_encoded, block)


def _encoded(block: Sequence[StoredEvent]) -> bytes:
    return b"".join(map(event_line, block))


async def _blocks(
    past: Past, streams: Collection[str] | None, partitions: Collection[int] | None, pins: dict[int, int] | None
) -> AsyncIterator[list[StoredEvent]]:
    block: list[StoredEvent] = []
    async for stored in in_total_order(past, partitions):
        partition, offset = stored.position
        if (streams is None or stored.record.stream in streams) and (pins is None or offset <= pins.get(partition, -1)):
            block.append(stored)
        if len(block) >= BLOCK_EVENTS:
            yield block
            block = []
    if block:
        yield block
