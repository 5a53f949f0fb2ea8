"""A supervisor that sleeps past its lease: when it wakes it finds that it was held for dead, and ends."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from actors.supervisor.supervisor import GivenUp
from events.log.errors import LogUnavailable, PartitionOwned
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.keys import Keys
from events.log.port import OwnerRecord
from tests.faults.supervisor_process import GIVEN_UP, supervisor

pytestmark = pytest.mark.servers
ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0


@asynccontextmanager
async def serving(
    settings: EtcdSettings, name: str, partitions: list[int]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A supervisor in a process of its own that serves `partitions`."""
    told = json.dumps(msgspec.to_builtins(settings))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.supervisor_process", told, name, json.dumps(partitions),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        # The log of what it claims comes before: stopped among its claims it would not tend to them yet.
        while (line := await process.stdout.readline()) != b"serves\n":
            assert line, f"{name} ended with {await process.wait()}"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lapsed(log: EtcdEventLog, namespace: str, partitions: list[int]) -> None:
    """Wait until the owners' leases have lapsed, by themselves."""
    async with asyncio.timeout(WAIT_SECONDS):
        for partition in partitions:
            async for state in log.client.mirror_prefix(Keys(namespace).own(partition)):
                if not state:
                    break


async def ended(process: asyncio.subprocess.Process) -> int:
    """Its exit code, once the log of what it says is read."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await process.wait()


async def test_stopped_past_its_lease_and_continued_it_ends_and_what_was_left_to_it_is_free(
    etcd_settings: EtcdSettings, log: EtcdEventLog
) -> None:
    async with serving(etcd_settings, "supervisor-0", [1, 2, 3]) as zombie:
        zombie.send_signal(signal.SIGSTOP)
        await lapsed(log, etcd_settings.namespace, [1, 2, 3])
        successor = supervisor("supervisor-1", log)
        assert await successor.assign([1, 2]) == [1, 2], "nobody waits for one that is silent"

        zombie.send_signal(signal.SIGCONT)

        assert await ended(zombie) == GIVEN_UP
        assert all(successor.serves(partition) for partition in (1, 2))
        assert (await log.owner_of(3)) is None, "it gave back what nobody had taken"
        assert await successor.assign([1, 2, 3]) == [1, 2, 3]
        await successor.close()


async def test_a_second_process_of_the_same_name_is_left_alone(etcd_settings: EtcdSettings, log: EtcdEventLog) -> None:
    """Ray started the actor again while the first one slept: both have one name, and the log lets either claim."""
    async with serving(etcd_settings, "supervisor-0", [1]) as zombie:
        zombie.send_signal(signal.SIGSTOP)
        again = supervisor("supervisor-0", log)
        assert await again.assign([1]) == [1], "its own name need not wait for the lease"
        owner = await log.owner_of(1)

        zombie.send_signal(signal.SIGCONT)

        assert await ended(zombie) == GIVEN_UP
        assert again.serves(1) and await log.owner_of(1) == owner, "the partition was not taken back and forth"
        await again.close()


async def test_one_that_finds_a_partition_owned_waits_and_does_not_end(
    etcd_settings: EtcdSettings, log: EtcdEventLog
) -> None:
    async with serving(etcd_settings, "supervisor-0", [1]) as other:
        with pytest.raises(PartitionOwned):
            await log.claim(1, "supervisor-1")
        mine = supervisor("supervisor-1", log)
        tending = asyncio.create_task(mine.tend())
        assert await mine.assign([1, 2]) == [2]
        other.terminate()
        await other.wait()
        await lapsed(log, etcd_settings.namespace, [1])
        async with asyncio.timeout(WAIT_SECONDS):
            while not mine.serves(1):
                await asyncio.sleep(0.1)
        assert not tending.done()
        tending.cancel()
        await mine.close()


async def test_what_etcd_does_not_say_at_once_is_asked_again(
    etcd_settings: EtcdSettings, log: EtcdEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that wakes finds its requests timed out: it must not take that for nobody having its partition."""
    mine = supervisor("supervisor-0", log)
    assert await mine.assign([1]) == [1]
    other = EtcdEventLog(etcd_settings)
    await other.open()
    await other.claim(1, "supervisor-1", force=True)
    monkeypatch.setattr(mine.engines[1], "_closed", True)  # as its lapsed lease has it
    asked, owner_of = 0, log.owner_of

    async def late(partition: int) -> OwnerRecord | None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise LogUnavailable("the time was over while it slept")
        return await owner_of(partition)

    monkeypatch.setattr(log, "owner_of", late)
    async with asyncio.timeout(WAIT_SECONDS):
        with pytest.raises(GivenUp, match="supervisor-1"):
            await mine.tend()
    assert asked == 3
    await other.close()
