"""Everything is killed at once, etcd too: what was queued is there, what was done stays done, each task ends once."""

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.embedded import EmbeddedEtcd
from events.log.errors import LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.queue.etcd_queue import EtcdTaskQueue
from events.queue.task import ClaimRef, Consumer, NewTask
from tests.events.log.tcp_proxy import TcpProxy
from tests.events.queue.contract import LONG, WORKER, seen
from tests.events.queue.member_process import TOPIC, serve

pytestmark = pytest.mark.servers

TASKS = 10_000
DONE_BEFORE = 300


async def test_ten_thousand_tasks_survive_kill_9_of_everything(tmp_path: Path) -> None:
    etcd = EmbeddedEtcd(tmp_path)
    try:
        settings = await etcd.ensure()
        done, held = await _publish_work_and_die(settings)
        pid = etcd.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        settings = await etcd.ensure()
        async with EtcdClient(settings) as client:
            queue = EtcdTaskQueue(client, name="worker-0", alone=True)
            await queue.open()
            await seen(queue, lambda views: views, TOPIC)
            assert await queue.ack(held) == [True] * len(held), "nobody else has had them since"
            ended = Counter([*done, *(ref.task for ref in held)])
            last: dict[str, str] = {}
            while len(ended) < TASKS:
                claims = await queue.claim(TOPIC, Consumer(name="after"), most=500, wait_seconds=LONG)
                assert claims, f"{len(ended)} of {TASKS} ended"
                for claim in claims:
                    assert claim.task.payload == claim.task.id.encode()
                    assert not claim.task.key or claim.task.id > last.get(claim.task.key, "")
                    last[claim.task.key] = claim.task.id
                assert await queue.ack([claim.ref for claim in claims]) == [True] * len(claims)
                ended.update(claim.task.id for claim in claims)
            assert set(ended.values()) == {1}
            await seen(queue, lambda views: not views, TOPIC)
            await queue.close()
    finally:
        await etcd.stop()


async def _publish_work_and_die(settings: EtcdSettings) -> tuple[list[str], list[ClaimRef]]:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=serve, args=(settings, TASKS, DONE_BEFORE, writer))
    process.start()
    writer.close()
    try:
        assert await asyncio.to_thread(reader.recv) == "published"
        done, held = await asyncio.to_thread(reader.recv)
    finally:
        process.kill()
        await asyncio.to_thread(process.join)
    assert len(done) == DONE_BEFORE
    return done, held


async def test_a_successor_of_the_same_name_takes_over_at_once(etcd_settings: EtcdSettings) -> None:
    """Ray starts an actor again long before its lease ends."""
    async with EtcdClient(etcd_settings) as one, EtcdClient(etcd_settings) as two:
        first = EtcdTaskQueue(one, name="builder-0", alone=True)
        await first.open()
        await first.publish(TOPIC, [NewTask(id="a")])
        [old] = await first.claim(TOPIC, WORKER, wait_seconds=LONG)
        second = EtcdTaskQueue(two, name="builder-0", alone=True)
        await second.open()
        # Well within the eight seconds that the first one's lease has left.
        [new] = await second.claim(TOPIC, WORKER, wait_seconds=4.0)
        assert (new.task.id, new.attempt) == ("a", 2)
        assert await first.ack([old.ref]) == [False]
        await second.publish(TOPIC, [NewTask(id="b")])
        assert await first.claim(TOPIC, Consumer(name="late"), wait_seconds=0.5) == []
        assert await second.ack([new.ref]) == [True]
        await first.close()
        await second.close()


async def test_lost_replies_change_nothing(etcd_settings: EtcdSettings) -> None:
    """Each word is sent again as it was until it is known what became of it."""
    host, _, port = etcd_settings.endpoints[0].rpartition(":")
    async with TcpProxy(host, int(port)) as proxy:
        settings = EtcdSettings(
            endpoints=(proxy.endpoint,), ca_path=etcd_settings.ca_path, cert_path=etcd_settings.cert_path,
            key_path=etcd_settings.key_path, namespace=etcd_settings.namespace,
        )  # fmt: skip
        async with EtcdClient(settings) as client:
            queue = EtcdTaskQueue(client, name="far")
            await queue.open()
            arm("queue.before-commit", proxy.lose_next_reply)
            try:
                for n in range(6):
                    await queue.publish(TOPIC, [NewTask(id=f"t{n}")])
                    [claim] = await queue.claim(TOPIC, WORKER, wait_seconds=LONG)
                    assert claim.attempt == 1
                    assert await queue.extend([claim.ref], seconds=50.0) == [True]
                    assert await queue.ack([claim.ref]) == [True]
            finally:
                disarm("queue.before-commit")
            assert proxy.lost > 6
            await queue.close()


@pytest.mark.parametrize("line", ["queue.before-commit", "queue.after-commit", "queue.claimed"])
async def test_a_member_that_fails_on_a_line_loses_nothing(etcd_settings: EtcdSettings, line: str) -> None:
    async with EtcdClient(etcd_settings) as one, EtcdClient(etcd_settings) as two:
        failing, other = EtcdTaskQueue(one, name="failing"), EtcdTaskQueue(two, name="other")
        await failing.open()
        await other.open()
        await other.publish(TOPIC, [NewTask(id="a")])
        await seen(failing, lambda views: "a" in views, TOPIC)
        arm(line, "once-error")
        try:
            claiming = asyncio.create_task(failing.claim(TOPIC, WORKER, wait_seconds=2.0))
            await asyncio.wait((claiming,))
            if claiming.exception() is not None:
                assert isinstance(claiming.exception(), (LogUnavailable, FailpointError))
        finally:
            disarm(line)
        await failing.close()
        [claim] = await other.claim(TOPIC, WORKER, wait_seconds=LONG)
        assert await other.ack([claim.ref]) == [True]
        await other.close()
