"""What the append benchmark writes: real component events in full envelopes, the same for us and for every peer.

Each entity plays the history of a component as the aggregates decide it, under a stream of its own; the bodies are
encoded beforehand, as a log is given them. Knows no store.
"""

import random
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from benchmarks.histories import component_life
from events.log.records import EventRecord
from events.model.base import Event
from events.model.component_events import InstanceUnready
from events.model.registry import decode_event, encode_event

HISTORY_EVENTS = 400
STARTED_AT = 1_790_000_000_000_000
ACTORS = tuple(f"user{number}@example.com" for number in range(40))
BLOCK = 256
LOW_DIGITS = tuple(f"{number:02x}" for number in range(BLOCK))
REASONS = ("", "", "", "roll out what was merged this morning", "scale for the evening")


class Workload:
    """The events of `entities` components; `event_bytes` replaces them by ones with a body of that size."""

    def __init__(self, *, entities: int, event_bytes: int = 0, zipf: float = 0.0, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._prefix = f"{self._random.getrandbits(64):016x}"
        bodies = _history(seed) if not event_bytes else [_large(self._random, event_bytes) for _ in range(64)]
        self._events = [(type(event).__name__, event.schema_version, encode_event(event)) for event in bodies]
        self._streams = [f"component/{self._random.getrandbits(64):016x}" for _ in range(entities)]
        self._versions = [0] * entities
        weights = [1 / (rank + 1) ** zipf for rank in range(entities)] if zipf else []
        self._ranks = list(accumulate(weights))
        self._made = 0
        self._begin_block()

    def record(self, entity: int) -> EventRecord:
        """The entity's next event, new in every field that is new in production. Its command id is `record.command_id`.

        Must be appended (or the stream has a gap).
        """
        if self._ranks:
            entity = bisect_left(self._ranks, self._random.random() * self._ranks[-1])
        self._versions[entity] = version = self._versions[entity] + 1
        self._made = made = self._made + 1
        low = made % BLOCK
        if not low:
            self._begin_block()
        stream = self._streams[entity]
        kind, schema_version, body = self._events[(entity + version) % len(self._events)]
        ident = self._ident + LOW_DIGITS[low]
        return EventRecord(
            stream,
            version,
            kind,
            schema_version,
            f"{stream}@{version}",
            STARTED_AT + made * 10,
            ident,
            ident,
            ident,
            ACTORS[entity % len(ACTORS)],
            REASONS[made % len(REASONS)],
            f"00-{ident}-{self._spans[16 * low : 16 * low + 16]}-01",
            body,
        )

    def _begin_block(self) -> None:
        """The digits that `BLOCK` ids have in common, and random ones for as many spans: it is the log that should be
        measured, not how Python formats numbers."""
        self._ident = f"{self._prefix}{self._made // BLOCK:014x}"
        self._spans = self._random.randbytes(8 * BLOCK).hex()


def encoded_bytes(records: Sequence[EventRecord]) -> float:
    """What a record takes as MessagePack before any batching or compression, on average."""
    return sum(len(msgspec.msgpack.encode(record)) for record in records) / len(records)


def _history(seed: int) -> list[Event]:
    records = component_life(seed, events=HISTORY_EVENTS)
    return [decode_event(record) for record in records if record.stream.startswith("component/")]


def _large(source: random.Random, size: int) -> Event:
    """A crash with its last lines: half of it is as random as ids are, half of it are words that come again."""
    lines: list[str] = []
    while sum(map(len, lines)) < size:
        lines.append(f"worker {source.getrandbits(128):032x} ended: connection refused")
    return InstanceUnready(instance="web-1", reason="", lines=tuple(lines))
