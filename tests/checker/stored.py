"""What the log holds in the end, batch by batch: the truth that histories are compared with.

Knows batches and where they are kept; judges nothing.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from events.log.backup.source import EtcdLogSource
from events.log.chain import ChainCheck
from events.log.codec import batch_hash, decode_batch
from events.log.etcd_client import EtcdClient
from events.log.keys import Keys
from events.log.records import Position
from events.log.walk import walk


class StoredFact(NamedTuple):
    event_id: str
    command_id: str
    stream: str
    version: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A stored batch: offsets [base, base + len(events)), written under `epoch` at etcd's `revision`.

    `hash` is of the whole stored value, `previous` what it says the hash of its predecessor is.
    """

    partition: int
    base: int
    epoch: int
    revision: int
    hash: bytes
    previous: bytes
    events: tuple[StoredFact, ...]


def batch_of(partition: int, base: int, revision: int, value: bytes) -> Batch:
    """Decode what is stored under a base; raises CorruptBatch."""
    header, records = decode_batch(value, Position(partition, base))
    commands: list[str] = []
    for span in header.commands:
        commands += [span.command_id] * (span.last_index - span.first_index + 1)
    facts = (
        StoredFact(record.event_id, command_id, record.stream, record.version)
        for record, command_id in zip(records, commands, strict=True)
    )
    return Batch(
        partition=partition,
        base=base,
        epoch=header.epoch,
        revision=revision,
        hash=batch_hash(value),
        previous=header.previous,
        events=tuple(facts),
    )


async def all_batches(source: EtcdLogSource) -> list[Batch]:
    """Every batch, archived or hot, its chain checked on the way. Raises ChainBroken."""
    batches: list[Batch] = []
    for partition in range(source.partitions):
        async for run in walk(source, ChainCheck(partition)):
            batches += [batch_of(partition, batch.base, batch.revision, batch.value) for batch in run.batches]
    return batches


async def hot_batches(client: EtcdClient, namespace: str) -> list[Batch]:
    """Every batch that is in etcd now, at one revision."""
    keys = Keys(namespace)
    batches: list[Batch] = []
    for item in await client.get_prefix(keys.partitions):
        if (place := keys.parse_batch(item.key)) is not None:
            batches.append(batch_of(*place, item.mod_revision, item.value))
    return batches


def by_partition(batches: Iterable[Batch]) -> dict[int, list[Batch]]:
    """Each partition's batches by ascending base."""
    grouped: dict[int, list[Batch]] = {}
    for batch in sorted(batches, key=lambda batch: (batch.partition, batch.base)):
        grouped.setdefault(batch.partition, []).append(batch)
    return grouped
