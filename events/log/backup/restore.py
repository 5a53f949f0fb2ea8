"""Puts a verified backup into an empty namespace: segments into the archive, last batches and small keys into etcd.

Knows keys and their order of writing; nothing of what events mean. Can be repeated at any point: a mark in etcd keeps
the platform away until the last step, and tells a second run what the first one began.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from events.failpoints import failpoint
from events.log.archive.manifest import LowMark, encode
from events.log.backup.container import BackupReader
from events.log.backup.manifest import PartitionPart, key_member, last_member
from events.log.blobs import BlobStore
from events.log.errors import LogError
from events.log.etcd_claim import EpochRecord
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import Delete, ModRevisionIs, Put
from events.log.keys import Keys

RESTORER = "restore"
PUTS_AT_ONCE = 60
"""etcd takes at most 128 operations in a transaction, compares included."""


class NotEmpty(LogError):
    """The namespace holds something already, or another backup was begun in it. Nothing was changed."""


class RestoreMark(msgspec.Struct, frozen=True, kw_only=True):
    """A restore that is under way: of which backup (its seal), and since when (µs UTC)."""

    seal: str
    begun_at: int


async def restore_backup(
    reader: BackupReader,
    client: EtcdClient,
    blobs: BlobStore,
    *,
    now: int,
    trees: dict[str, Path] | None = None,
    progress: Callable[[int, int], None] = lambda partition, events: None,
) -> None:
    """Put everything back; verify the backup first (`verify_backup`). `now` in microseconds.

    `trees`: where the directories go that were taken along ({name: directory}). Raises NotEmpty, BackupDamaged,
    LogUnavailable; after anything but NotEmpty the same call again goes on.
    """
    keys = Keys(client.settings.namespace)
    mark = await _mark(client, keys, reader, now)
    failpoint("log.restore.marked")
    for name in reader.manifest.trees:
        if trees and name in trees:
            await asyncio.to_thread(_copy_tree, reader, name, trees[name])
    for partition, part in enumerate(reader.manifest.partitions):
        await _restore_partition(reader, client, keys, blobs, partition, part)
        progress(partition, part.head.offset)
        failpoint("log.restore.partition")
    for name in reader.manifest.keys:
        value = await asyncio.to_thread(reader.read, key_member(name))
        await client.put(keys.root + name, value)
    failpoint("log.restore.opening")
    # The layout last, together with the mark's end: from here on, and not before, there is a log to open.
    layout = Put(keys.layout, msgspec.json.encode(reader.manifest.layout))
    await client.txn(when=[ModRevisionIs(keys.restore, mark)], then=[layout, Delete(keys.restore)])
    if await client.get(keys.layout) is None:
        raise NotEmpty(f"expected the mark {keys.restore} that this restore left, found another's; run it again")


async def restore_begun(client: EtcdClient) -> bool:
    """Whether a restore was begun in this namespace and has not ended."""
    return await client.get(Keys(client.settings.namespace).restore) is not None


async def _mark(client: EtcdClient, keys: Keys, reader: BackupReader, now: int) -> int:
    """Claim the namespace for this restore; returns the mark's revision. Raises NotEmpty."""
    stored = await client.get(keys.restore)
    if stored is None:
        await _expect_empty(client, keys)
        mark = msgspec.json.encode(RestoreMark(seal=reader.seal, begun_at=now))
        # Together with the layout's absence: a platform that starts just now makes its layout, or finds this mark.
        when = [ModRevisionIs(keys.restore, 0), ModRevisionIs(keys.layout, 0)]
        await client.txn(when=when, then=[Put(keys.restore, mark)])
        stored = await client.get(keys.restore)
    if stored is None:
        raise NotEmpty(f"expected an empty namespace {keys.root}, found a platform that was started just now")
    found = msgspec.json.decode(stored.value, type=RestoreMark)
    if found.seal != reader.seal:
        raise NotEmpty(
            f"expected an empty namespace {keys.root}, found an unfinished restore of another backup (seal "
            f"{found.seal[:16]}…); run that one again, or take an empty data directory or namespace"
        )
    return stored.mod_revision


async def _expect_empty(client: EtcdClient, keys: Keys) -> None:
    end = keys.root[:-1] + chr(ord("/") + 1)
    if found := (await client.range(keys.root, end, limit=1, keys_only=True)).items:
        raise NotEmpty(
            f"expected an empty namespace {keys.root} to restore into, found {found[0].key}; take an empty data "
            "directory (--data DIR), or another etcd.namespace in its config.toml"
        )


async def _restore_partition(
    reader: BackupReader, client: EtcdClient, keys: Keys, blobs: BlobStore, partition: int, part: PartitionPart
) -> None:
    for segment in part.segments:
        await blobs.put(segment.location, await asyncio.to_thread(reader.read, segment.location))
    for start in range(0, len(part.segments), PUTS_AT_ONCE):
        chunk = part.segments[start : start + PUTS_AT_ONCE]
        await client.txn(then=[Put(keys.segment(partition, s.base), encode(s)) for s in chunk])
    if part.last_base is not None:
        value = await asyncio.to_thread(reader.read, last_member(partition, part.last_base))
        await _put_last(client, keys, partition, part.last_base, value)
        if part.segments:
            low = LowMark(first_hot=part.last_base, archived_through=part.last_base - 1)
            await client.put(keys.low(partition), encode(low))
        await client.put(keys.tail_hint(partition), b"%d" % part.last_base)
    if part.epoch:
        await _raise_epoch(client, keys, partition, part)


async def _put_last(client: EtcdClient, keys: Keys, partition: int, base: int, value: bytes) -> None:
    # Once only: an append compares that its predecessor was written exactly once.
    await client.put_if_absent(keys.batch(partition, base), value)


async def _raise_epoch(client: EtcdClient, keys: Keys, partition: int, part: PartitionPart) -> None:
    """Above every epoch of the backup, and at another revision: an owner from before compares that, not the number."""
    fence = EpochRecord(epoch=part.epoch + 1, claim_id=f"{RESTORER}-{part.head.hash[:16]}", owner=RESTORER)
    while await client.put(keys.epoch(partition), msgspec.json.encode(fence)) == part.epoch_revision:
        pass


def _copy_tree(reader: BackupReader, name: str, target: Path) -> None:
    for member in reader.manifest.members:
        if not member.name.startswith(f"{name}/"):
            continue
        path = target / member.name.removeprefix(f"{name}/")
        if not path.resolve().is_relative_to(target.resolve()):
            raise ValueError(f"expected {member.name} to lie below {target}, found it at {path.resolve()}")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.restore")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            reader.copy(member, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
