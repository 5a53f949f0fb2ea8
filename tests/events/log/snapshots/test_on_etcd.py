"""On etcd a snapshot's record is put by compare-and-swap under the fence; a process killed amid one harms nothing."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from events.log.blobs import DirectoryBlobs
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.keys import Keys
from events.log.snapshots.shelf import SnapshotRecord
from tests.events.log.snapshots.test_snapshots import append, bytes_of, head_of, save

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[4]
OWNER = """
import asyncio, sys
from pathlib import Path
import msgspec
from events.log.blobs import DirectoryBlobs
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from tests.events.log.snapshots.test_snapshots import append, save

async def main():
    settings = msgspec.json.decode(sys.argv[1], type=EtcdSettings)
    log = EtcdEventLog(settings, blobs=DirectoryBlobs(Path(sys.argv[2])))
    await log.open()
    writer = await log.claim(0, "killed")
    await append(writer, 10)
    await save(writer)
    await append(writer, 5, first=11)
    await save(writer)

asyncio.run(main())
"""


def log_on(settings: EtcdSettings, archive: Path) -> EtcdEventLog:
    return EtcdEventLog(settings, blobs=DirectoryBlobs(archive))


async def test_only_the_owner_points_and_the_successor_continues(etcd_settings: EtcdSettings, tmp_path: Path) -> None:
    log = log_on(etcd_settings, tmp_path)
    await log.open()
    stale = await log.claim(0, "a")
    await append(stale, 20)
    head = head_of(stale)
    data = bytes_of(stale, head)
    owner = await log.claim(0, "b", force=True)
    await append(owner, 5, first=21)
    assert await save(owner)
    assert stale.snapshots is not None
    assert not await stale.snapshots.save(head, data)
    stored = await log.client.get(Keys(etcd_settings.namespace).snapshot(0))
    assert stored is not None
    assert msgspec.json.decode(stored.value, type=SnapshotRecord).offset == 25
    await append(owner, 3, first=26)
    third = await log.claim(0, "c", force=True)
    found = third.take_snapshot()
    assert found is not None and found.head.offset == 25
    assert third.next_offset == 28
    assert all(third.committed(f"c{version}") for version in range(1, 29))
    await append(third, 1, first=29)
    await log.close()


@pytest.mark.parametrize(("step", "left"), [("blob-written", None), ("pointed", 10)])
async def test_the_owner_is_killed_amid_a_snapshot(
    etcd_settings: EtcdSettings, tmp_path: Path, step: str, left: int | None
) -> None:
    environment = {**os.environ, "RAYFOLD_FAILPOINTS": f"log.snapshot.{step}=exit", "PYTHONPATH": str(ROOT)}
    arguments = [msgspec.json.encode(etcd_settings).decode(), str(tmp_path)]
    dead = subprocess.run([sys.executable, "-c", OWNER, *arguments], env=environment, cwd=ROOT, timeout=60)
    assert dead.returncode == 137
    log = log_on(etcd_settings, tmp_path)
    await log.open()
    successor = await log.claim(0, "next", force=True)
    found = successor.take_snapshot()
    assert (None if found is None else found.head.offset) == left
    assert successor.next_offset == 10
    await append(successor, 1, first=11)
    assert await save(successor)
    await log.close()
