"""What is stored: the event record, its position, and where an append landed.

Knows the shape of an event's envelope and nothing of any event's meaning; bodies stay MessagePack bytes here.
"""

from typing import NamedTuple, NewType

import msgspec
import xxhash

PartitionId = NewType("PartitionId", int)


class Position(NamedTuple):
    """A place in the log: `offset` is 0-based and contiguous within `partition`. Written `partition:offset`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read `partition:offset`; raises ValueError saying what was expected."""
        left, colon, right = text.partition(":")
        if not (colon and left.isdecimal() and right.isdecimal()):
            raise ValueError(f"expected a position like 3:120 (partition:offset), found {text[:80]!r}")
        return cls(int(left), int(right))


class EventRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One event as stored. `body` is the event's own MessagePack map, decoded only by whoever knows `type`.

    `version` is 1-based and contiguous within `stream`. `command_id` is the idempotency key; `correlation_id` the
    operation; `causation_id` the event or command that led here; `actor` who; `reason` the user's words; `at` the
    time in microseconds.
    """

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


class StoredEvent(NamedTuple):
    """An event with its place.

    `revision` is etcd's revision of its batch, a total order for debugging; 0 if unknown.
    """

    position: Position
    revision: int
    record: EventRecord


def partition_of(key: str, partitions: int) -> PartitionId:
    """The partition of a key: xxh64(key) mod P. Never Python's `hash()`, which is salted per process."""
    return PartitionId(xxhash.xxh64_intdigest(key.encode()) % partitions)
