"""A backup of a log in use is whole, says when it is not, and put back gives the same events, states and chain."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.backup.container import BackupDamaged, BackupReader
from events.log.backup.create import Made, create_backup
from events.log.backup.read import Verified, verify_backup
from events.log.backup.restore import NotEmpty, restore_backup
from events.log.backup.source import EtcdLogSource
from events.log.blobs import DirectoryBlobs
from events.log.chain import ChainBroken, parse_heads
from events.log.errors import Fenced, RestoreUnfinished
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_store import EtcdStore
from events.log.keys import Keys
from events.log.records import EventRecord, StoredEvent, partition_of
from events.log.verify import verify_log
from events.model.base import partition_key
from events.model.registry import fold
from tests.events.log.contract import event, read_all
from tests.events.log.filled import archive
from tests.projections.recorder import tell_everything

pytestmark = pytest.mark.servers

NOW = 1_700_000_000_000_000
PARTITIONS = 4


class Place:
    """A namespace of the session's etcd and a directory for its archive."""

    def __init__(self, settings: EtcdSettings, directory: Path) -> None:
        self.settings = settings
        self.blobs = DirectoryBlobs(directory)
        self.client = EtcdClient(settings)
        self.keys = Keys(settings.namespace)

    async def log(self) -> EtcdEventLog:
        log = EtcdEventLog(self.settings, partitions=PARTITIONS, blobs=self.blobs)
        await log.open()
        return log

    async def source(self) -> EtcdLogSource:
        return await EtcdLogSource.open(self.client, self.blobs)

    async def back_up(self, path: Path, **trees: Path) -> Made:
        return await create_backup(await self.source(), path, created_at=NOW, trees=trees)

    async def restore(self, path: Path, **trees: Path) -> None:
        reader = BackupReader(path)
        try:
            await verify_backup(reader)
            await restore_backup(reader, self.client, self.blobs, now=NOW, trees=trees)
        finally:
            reader.close()


@pytest.fixture
async def here(etcd_settings: EtcdSettings, tmp_path: Path) -> AsyncIterator[Place]:
    """A platform's log: the events of every kind of thing, the older ones archived in one partition, some hot."""
    place = Place(etcd_settings, tmp_path / "archive")
    async with place.client:
        log = await place.log()
        await append(log, tell_everything())
        store = EtcdStore(place.client, place.keys)
        fullest = max([(await log.tail(p), p) for p in range(PARTITIONS)])[1]
        await archive(store, place.blobs, fullest, 3)
        await archive(store, place.blobs, fullest, 2)
        await place.client.put(place.keys.root + "keys/default", b"wrapped")
        await place.client.put(place.keys.root + "master_key", b"id")
        await log.close()
        yield place


@pytest.fixture
async def there(here: Place, tmp_path: Path) -> AsyncIterator[Place]:
    """An empty platform."""
    settings = msgspec.structs.replace(here.settings, namespace=f"{here.settings.namespace}-there")
    place = Place(settings, tmp_path / "other-archive")
    async with place.client:
        yield place


async def append(log: EtcdEventLog, records: tuple[EventRecord, ...]) -> None:
    by_partition: dict[int, list[EventRecord]] = {}
    for record in records:
        by_partition.setdefault(partition_of(partition_key(record.stream), PARTITIONS), []).append(record)
    for partition, wanted in by_partition.items():
        writer = await log.claim(partition, "teller")
        for start in range(0, len(wanted), 20):
            await writer.append(f"append-{wanted[start].event_id}", wanted[start : start + 20])
        await writer.release()


async def verified(path: Path) -> Verified:
    reader = BackupReader(path)
    try:
        return await verify_backup(reader)
    finally:
        reader.close()


async def everything(place: Place) -> list[StoredEvent]:
    log = await place.log()
    try:
        return [stored for partition in range(PARTITIONS) for stored in await read_all(log, partition)]
    finally:
        await log.close()


def states(events: list[StoredEvent]) -> dict[str, msgspec.Struct]:
    streams: dict[str, list[EventRecord]] = {}
    for stored in events:
        streams.setdefault(stored.record.stream, []).append(stored.record)
    return {stream: fold(stream, records) for stream, records in streams.items()}


async def heads(place: Place) -> list[str]:
    return [str(report.head) async for report in verify_log(await place.source()) if report.broken is None]


async def test_put_back_it_gives_the_same_events_states_positions_and_chain(
    here: Place, there: Place, tmp_path: Path
) -> None:
    made = await here.back_up(tmp_path / "b.tar")
    await there.restore(tmp_path / "b.tar")
    before, after = await everything(here), await everything(there)
    assert [(s.position, s.record) for s in after] == [(s.position, s.record) for s in before]
    assert len(before) == len(tell_everything()) == made.manifest.events
    assert states(after) == states(before)
    assert await heads(there) == await heads(here) == [str(part.head) for part in made.manifest.partitions]
    assert sum(len(part.segments) for part in made.manifest.partitions) > 2, "cold and hot were in it"
    assert (await there.client.get(there.keys.root + "keys/default")).value == b"wrapped"  # type: ignore[union-attr]
    listing = await there.client.get_prefix(there.keys.partitions)
    hot = [item for item in listing if there.keys.parse_batch(item.key)]
    assert len(hot) == sum(part.last_base is not None for part in made.manifest.partitions), "one batch a partition"


async def test_what_is_restored_is_served_and_its_commands_are_remembered(
    here: Place, there: Place, tmp_path: Path
) -> None:
    await here.back_up(tmp_path / "b.tar")
    await there.restore(tmp_path / "b.tar")
    old, new = await here.log(), await there.log()
    for partition in range(PARTITIONS):
        before = await old.claim(partition, "old")
        after = await new.claim(partition, "new")
        assert (after.next_offset, after.epoch > before.epoch) == (before.next_offset, True)
        if after.next_offset:
            first = (await read_all(new, partition))[0].record
            again = await after.append(f"append-{first.event_id}", [first])
            assert again.duplicate and again.first.offset == 0
        await after.append("more", [event("s/new", 1)])
    await old.close()
    await new.close()
    assert len(await heads(there)) == PARTITIONS, "the chain goes on over the restore"


async def test_appends_meanwhile_do_no_harm_and_are_not_in_it(here: Place, there: Place, tmp_path: Path) -> None:
    log = await here.log()
    tails = [await log.tail(partition) for partition in range(PARTITIONS)]
    stop = asyncio.Event()
    counts = [0] * PARTITIONS

    async def go_on(partition: int) -> None:
        writer = await log.claim(partition, "live")
        while not stop.is_set():
            counts[partition] += 1
            await writer.append(f"live{counts[partition]}", [event(f"s/{partition}", counts[partition])])
        await writer.release()

    async with asyncio.TaskGroup() as group:
        for partition in range(PARTITIONS):
            group.create_task(go_on(partition))
        made = await here.back_up(tmp_path / "b.tar")
        stop.set()
    await log.close()
    await there.restore(tmp_path / "b.tar")
    written = await everything(here)
    for part, tail, count in zip(made.manifest.partitions, tails, counts, strict=True):
        assert tail <= part.head.offset <= tail + count
    cut = {part.head.partition: part.head.offset for part in made.manifest.partitions}
    expected = [(s.position, s.record) for s in written if s.position.offset < cut[s.position.partition]]
    assert [(s.position, s.record) for s in await everything(there)] == expected


async def test_the_archiver_may_move_batches_meanwhile(here: Place, there: Place, tmp_path: Path) -> None:
    source = await here.source()
    store = EtcdStore(here.client, here.keys)
    page = source.page
    moved = 0

    async def page_then_move(partition: int, base: int) -> list[object]:
        # Between every two pages, and before the first: what was hot when the manifests were listed is cold now.
        nonlocal moved
        if len(await store.page(partition, (await store.low(partition)).first_hot)) > 3:
            await archive(store, here.blobs, partition, 2)
            moved += 1
        return await page(partition, base)  # type: ignore[return-value]

    source.page = page_then_move  # type: ignore[method-assign, assignment]
    before = await everything(here)
    await create_backup(source, tmp_path / "b.tar", created_at=NOW)
    assert moved
    await there.restore(tmp_path / "b.tar")
    assert [(s.position, s.record) for s in await everything(there)] == [(s.position, s.record) for s in before]


async def test_only_an_empty_namespace_is_restored_into(here: Place, there: Place, tmp_path: Path) -> None:
    await here.back_up(tmp_path / "b.tar")
    with pytest.raises(NotEmpty, match=r"expected an empty namespace .*--data DIR"):
        await here.restore(tmp_path / "b.tar")
    await there.restore(tmp_path / "b.tar")
    with pytest.raises(NotEmpty):
        await there.restore(tmp_path / "b.tar")


@pytest.mark.parametrize("point", ["log.restore.marked", "log.restore.partition", "log.restore.opening"])
async def test_a_restore_that_was_cut_off_keeps_the_platform_away_and_is_finished_by_the_same_again(
    here: Place, there: Place, tmp_path: Path, point: str
) -> None:
    before = await heads(here)
    await here.back_up(tmp_path / "b.tar")
    arm(point, "error")
    try:
        with pytest.raises(FailpointError):
            await there.restore(tmp_path / "b.tar")
    finally:
        disarm(point)
    with pytest.raises(RestoreUnfinished, match="rayfold backup restore"):
        await there.log()
    log = await here.log()
    writer = await log.claim(0, "w")
    await writer.append("more", [event("s/new", 1)])
    await log.close()
    await here.back_up(tmp_path / "another.tar")
    with pytest.raises(NotEmpty, match="another backup"):
        await there.restore(tmp_path / "another.tar")
    await there.restore(tmp_path / "b.tar")
    assert await heads(there) == before


KILLED = """
import asyncio, sys
from pathlib import Path
import msgspec
from events.log.etcd_connection import EtcdSettings
from tests.events.log.test_backup import Place

async def main() -> None:
    place = Place(msgspec.json.decode(sys.argv[1], type=EtcdSettings), Path(sys.argv[2]))
    async with place.client:
        await getattr(place, sys.argv[3])(Path(sys.argv[4]))

asyncio.run(main())
"""


def killed(place: Place, archive_directory: Path, work: str, path: Path, point: str) -> None:
    """Do `work` in a process that dies at the failpoint."""
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "RAYFOLD_FAILPOINTS": f"{point}=exit", "PYTHONPATH": root}
    settings = msgspec.json.encode(place.settings).decode()
    command = [sys.executable, "-c", KILLED, settings, str(archive_directory), work, str(path)]
    ran = subprocess.run(command, env=env, cwd=root, timeout=60, check=False, capture_output=True, text=True)
    assert ran.returncode == 137, ran.stderr


async def test_killed_while_writing_leaves_no_backup_that_looks_whole(here: Place, tmp_path: Path) -> None:
    for point in ("log.backup.sealing", "log.backup.written"):
        await asyncio.to_thread(killed, here, tmp_path / "archive", "back_up", tmp_path / "b.tar", point)
        assert not (tmp_path / "b.tar").exists()
    await here.back_up(tmp_path / "b.tar")


async def test_killed_while_restoring_the_same_again_finishes(here: Place, there: Place, tmp_path: Path) -> None:
    await here.back_up(tmp_path / "b.tar")
    path = tmp_path / "b.tar"
    await asyncio.to_thread(killed, there, tmp_path / "other-archive", "restore", path, "log.restore.partition")
    await there.restore(path)
    assert await heads(there) == await heads(here)


async def test_an_owner_from_before_the_restore_is_fenced(here: Place, tmp_path: Path) -> None:
    """The same namespace, emptied and restored: as with an etcd that was made anew at the same address."""
    log = await here.log()
    old = await log.claim(0, "old")
    await here.back_up(tmp_path / "b.tar")
    listing = await here.client.get_prefix(here.keys.root)
    for item in listing:
        await here.client.delete(item.key)
    await here.restore(tmp_path / "b.tar")
    with pytest.raises(Fenced):
        await old.append("late", [event("s/late", 1)])
    await log.close()


async def test_a_flipped_bit_anywhere_in_the_file_is_found(here: Place, tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    await here.back_up(path)
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 997), len(whole) - 1]:
        changed = bytearray(whole)
        changed[at] ^= 0x04
        path.write_bytes(changed)
        with pytest.raises(BackupDamaged, match="expected"):
            await verified(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
async def test_a_file_that_is_cut_short_is_no_backup(here: Place, tmp_path: Path, share: float) -> None:
    path = tmp_path / "b.tar"
    await here.back_up(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BackupDamaged, match="expected"):
        await verified(path)


async def test_a_broken_log_is_not_backed_up_as_if_it_were_whole(here: Place, tmp_path: Path) -> None:
    hot = [item for item in await here.client.get_prefix(here.keys.partitions) if here.keys.parse_batch(item.key)]
    victim = hot[0]
    await here.client.put(victim.key, victim.value[:-1] + bytes([victim.value[-1] ^ 1]))
    with pytest.raises(ChainBroken, match="checksum"):
        await here.back_up(tmp_path / "b.tar")
    assert list(tmp_path.glob("*b.tar*")) == []


async def test_files_are_taken_along_and_put_back(here: Place, there: Place, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    (artifacts / "ab").mkdir(parents=True)
    (artifacts / "ab" / "abcd").write_bytes(b"layer" * 1000)
    (artifacts / "incoming-x").write_bytes(b"half")
    await here.back_up(tmp_path / "b.tar", artifacts=artifacts)
    await there.restore(tmp_path / "b.tar", artifacts=tmp_path / "put-back")
    files = [p.relative_to(tmp_path / "put-back").as_posix() for p in (tmp_path / "put-back").rglob("*") if p.is_file()]
    assert files == ["ab/abcd"]
    assert (tmp_path / "put-back" / "ab" / "abcd").read_bytes() == b"layer" * 1000


async def test_a_backup_is_compared_with_a_head_that_was_noted(here: Place, tmp_path: Path) -> None:
    noted = parse_heads("\n".join(head for head in await heads(here) if not head.split()[0].endswith(":0")))
    log = await here.log()
    writer = await log.claim(noted[0].at.partition, "w")  # type: ignore[union-attr]
    await writer.append("more", [event("s/new", 1)])
    await log.close()
    await here.back_up(tmp_path / "b.tar")
    reader = BackupReader(tmp_path / "b.tar")
    await verify_backup(reader, noted=noted)
    wrong = [msgspec.structs.replace(noted[0], hash="0" * 64)]
    with pytest.raises(BackupDamaged, match="history was rewritten"):
        await verify_backup(reader, noted=wrong)
    reader.close()
