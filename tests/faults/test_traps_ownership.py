"""Traps 6, 11 and 12 of docs/correctness.md, on three etcds: silence, pauses and a loop that stands still.

An owner is a process of its own here, so that it can be paused; it says what it does on its standard output.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.keys import Keys
from tests.etcd_cluster import EtcdCluster
from tests.events.log.contract import event, offsets, read_all

pytestmark = pytest.mark.servers
ROOT = Path(__file__).resolve().parents[2]
FENCED = 3

OWNER = """
import asyncio, json, os, signal, sys, time
import msgspec
from pathlib import Path
from events.failpoints import arm, disarm
from events.log.errors import Fenced
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from tests.events.log.contract import event

def pause() -> None:
    disarm("log.append.before")
    os.kill(os.getpid(), signal.SIGSTOP)

def stand_still() -> None:
    disarm("log.append.before")
    print("stands still", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.05)  # the whole loop stands still, keepalives and all

async def main(settings: EtcdSettings) -> int:
    log = EtcdEventLog(settings)
    await log.open()
    writer = await log.claim(0, "old")
    await writer.append("c1", [event("s/1", 1)])
    print("claimed", flush=True)
    # A command has been taken and its batch is made: the next thing is to send it.
    arm("log.append.before", stand_still if sys.argv[2] else pause)
    try:
        await writer.submit("c2", [event("s/1", 2)])  # without append's deadline, which passes meanwhile
    except Fenced as error:
        print(error, flush=True)
        return 3
    return 0

sys.exit(asyncio.run(main(msgspec.convert(json.loads(sys.argv[1]), EtcdSettings))))
"""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    async with EtcdCluster(tmp_path / "etcd") as started:
        yield started


@asynccontextmanager
async def opened(settings: EtcdSettings) -> AsyncIterator[EtcdEventLog]:
    log = EtcdEventLog(settings, recheck_s=600.0)
    await log.open()
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def owner(settings: EtcdSettings, block_until: str = "") -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that owns partition 0, has appended once, and stops at the line that would send its next batch: its
    loop until there is a file, or the whole process until it is continued."""
    told = json.dumps(msgspec.to_builtins(settings))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, told, block_until, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"claimed\n"
        async with asyncio.timeout(30):
            if block_until:
                assert await process.stdout.readline() == b"stands still\n"
            while not block_until and psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                await asyncio.sleep(0.01)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def appended_by_a_successor(log: EtcdEventLog, before: int) -> None:
    """Claims without force, and appends; the log goes on where the old owner's last committed batch ended."""
    writer = await log.claim(0, "new")
    assert writer.next_offset >= before
    await writer.append("n1", [event("s/new", 1)])


async def only_the_successor_wrote(log: EtcdEventLog) -> None:
    stored = await read_all(log, 0)
    assert offsets(stored) == list(range(len(stored)))
    assert stored[-1].record.stream == "s/new", "nothing of the old owner's came after the claim"


async def test_an_owner_that_slept_through_its_lease_writes_nothing_when_it_wakes(cluster: EtcdCluster) -> None:
    """Trap 11. Paused where it sends a batch; etcd revokes the lease early and changes its leader meanwhile."""
    settings = cluster.settings()
    async with opened(settings) as log, owner(settings) as old:
        own = await log.client.get(Keys(settings.namespace).own(0))
        assert own is not None
        await log.client.revoke_lease(own.lease)
        leader = await cluster.leader()
        await cluster.move_leader(next(member for member in cluster.members if member != leader))
        await appended_by_a_successor(log, 1)

        old.send_signal(signal.SIGCONT)

        assert await old.wait() == FENCED
        await only_the_successor_wrote(log)


@pytest.mark.long
async def test_an_owner_whose_loop_stands_still_loses_its_lease_and_writes_nothing(
    cluster: EtcdCluster, tmp_path: Path
) -> None:
    """Trap 12. Keepalives run in the loop that works: one that stands still serves nobody, so its record lapses."""
    settings, go_on = cluster.settings(), tmp_path / "go-on"
    async with opened(settings) as log, owner(settings, block_until=str(go_on)) as old:
        async for state in log.client.mirror_prefix(Keys(settings.namespace).own(0)):
            if not state:
                break
        await appended_by_a_successor(log, 1)

        go_on.touch()

        assert await old.wait() == FENCED
        await only_the_successor_wrote(log)


@pytest.mark.long
@pytest.mark.parametrize("silence", ["paused", "cut off"])
async def test_a_follower_of_a_member_that_fell_silent_misses_nothing(cluster: EtcdCluster, silence: str) -> None:
    """Trap 6. Nothing closes the connection, and no recheck comes to its help: the stall detector does."""
    leader = await cluster.leader()
    silent = next(member for member in cluster.members if member != leader)
    endpoints = [cluster.endpoint(member) for member in (silent, leader)]
    first_silent = msgspec.structs.replace(cluster.settings(), endpoints=tuple(endpoints))
    async with opened(cluster.settings(only=leader)) as log, opened(first_silent) as follower:
        writer = await log.claim(0, "a")
        seen: asyncio.Queue[int] = asyncio.Queue()

        async def follow() -> None:
            async for part in follower.follow(0, 0):
                for offset in offsets(part):
                    seen.put_nowait(offset)

        following = asyncio.create_task(follow())
        for n in range(3):  # one at a time: the last one can only have come by the watch
            await writer.append(f"c{n}", [event("s/1", n + 1)])
            assert await seen.get() == n

        if silence == "cut off":
            await cluster.cut(silent)
        else:
            cluster.stop(silent)
        for n in range(3, 23):
            await writer.append(f"c{n}", [event("s/1", n + 1)])

        async with asyncio.timeout(60):
            assert [await seen.get() for _ in range(20)] == list(range(3, 23))
        following.cancel()
