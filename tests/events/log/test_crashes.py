"""Crashes at the lines that matter: a dead writing task tells its waiters, a dead process leaves no doubt behind."""

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec
import pytest

from events.failpoints import arm, disarm
from events.log.errors import LogBroken, LogUnavailable
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.store import StoredBatch, Subscription
from tests.events.log.contract import event, offsets, read_all

APPEND_ONCE = """
import asyncio, json, sys
import msgspec
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from tests.events.log.contract import event

async def main() -> None:
    log = EtcdEventLog(msgspec.convert(json.loads(sys.argv[1]), EtcdSettings))
    await log.open()
    writer = await log.claim(0, "doomed")
    await writer.append("c1", [event("s/1", 1)])

asyncio.run(main())
"""


@pytest.mark.parametrize("name", ["log.append.before", "log.append.committed"])
async def test_when_the_writing_task_dies_every_waiter_learns_it(name: str) -> None:
    log = MemoryEventLog()
    writer = await log.claim(0, "a")
    in_flight = writer.submit("c1", [event("s/1", n) for n in range(1, 513)])
    queued = writer.submit("c2", [event("s/1", 513)])
    arm(name, "error")
    try:
        with pytest.raises(LogUnavailable, match="unknown"):
            await in_flight
        with pytest.raises(LogBroken):
            await queued
        with pytest.raises(LogBroken):
            await writer.wait_closed()
        with pytest.raises(LogBroken):
            await writer.append("c3", [event("s/1", 514)])
    finally:
        disarm(name)
    # Whatever the truth is, the next writer knows it.
    successor = await log.claim(0, "a")
    expected = name == "log.append.committed"
    assert (await successor.append("c1", [event("s/1", n) for n in range(1, 513)])).duplicate == expected
    assert len(await read_all(log, 0)) == 512


@pytest.mark.servers
@pytest.mark.parametrize(
    ("name", "committed"),
    [
        ("log.claim.won", False),
        ("log.append.before", False),
        ("log.append.answered", True),
        ("log.append.committed", True),
    ],
)
async def test_a_process_that_dies_leaves_no_doubt(etcd_settings: EtcdSettings, name: str, committed: bool) -> None:
    settings = json.dumps(msgspec.to_builtins(etcd_settings))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        APPEND_ONCE,
        settings,
        env={**os.environ, "RAYFOLD_FAILPOINTS": f"{name}=exit"},
        cwd=Path(__file__).parents[3],
    )
    async with asyncio.timeout(60):
        assert await process.wait() == 137
    log = EtcdEventLog(etcd_settings)
    await log.open()
    owner = await log.owner_of(0)
    assert owner is not None and owner.owner == "doomed"
    writer = await log.claim(0, "doomed")
    assert writer.epoch == owner.epoch + 1
    assert (writer.committed("c1") is not None) == committed
    assert (await writer.append("c1", [event("s/1", 1)])).duplicate == committed
    assert offsets(await read_all(log, 0)) == [0]
    await log.close()


async def test_a_slow_follower_is_not_waited_for_and_misses_nothing() -> None:
    log = MemoryEventLog(store=MemoryStore(16))
    writer = await log.claim(0, "a")
    await writer.append("c0", [event("s/0", 1)])
    follower = log.follow(0, 0)
    seen = [*await anext(follower)]
    # Far more batches than the follower's buffer holds while it looks away.
    for n in range(1, 3001):
        await writer.append(f"c{n}", [event("s/1", n)])
    async with asyncio.timeout(20):
        while len(seen) < 3001:
            seen += await anext(follower)
    assert offsets(seen) == list(range(3001))


async def test_a_full_subscription_says_so_once_and_goes_on() -> None:
    subscription = Subscription([0], capacity=2)
    for base in range(5):
        subscription.offer(0, StoredBatch(base, base, b""))
    assert await subscription.next(0.0) is None, "page: something was dropped"
    subscription.offer(0, StoredBatch(9, 9, b""))
    subscription.offer(1, StoredBatch(0, 0, b""))
    assert await subscription.next(0.0) == (0, StoredBatch(9, 9, b""))
    assert await subscription.next(0.0) is None
