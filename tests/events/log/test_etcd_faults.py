"""What networks, pauses and kill -9 do to the log on etcd: nothing acknowledged is lost, nothing happens twice."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from events.log.embedded import EmbeddedEtcd
from events.log.errors import LogUnavailable
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_wire import TxnResult
from events.log.port import PartitionWriter
from events.log.records import StoredEvent
from events.log.writer import WriterLimits
from tests.events.log.contract import event, offsets, read_all, take
from tests.events.log.tcp_proxy import TcpProxy

pytestmark = pytest.mark.servers


@asynccontextmanager
async def opened(settings: EtcdSettings, **options: float) -> AsyncIterator[EtcdEventLog]:
    limits = WriterLimits(append_deadline_s=options.pop("append_deadline_s", 10.0))
    log = EtcdEventLog(settings, limits=limits, recheck_s=options.pop("recheck_s", 10.0))
    await log.open()
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def through_proxy(settings: EtcdSettings) -> AsyncIterator[tuple[TcpProxy, EtcdSettings]]:
    host, _, port = settings.endpoints[0].rpartition(":")
    async with TcpProxy(host, int(port)) as proxy:
        yield proxy, msgspec.structs.replace(settings, endpoints=(proxy.endpoint,))


async def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def append_patiently(writer: PartitionWriter, command: str, n: int) -> int:
    """As a supervisor does: after an unknown outcome the same command again."""
    while True:
        try:
            done = await writer.append(command, [event("s/1", n, command=command)])
        except LogUnavailable:
            continue
        return done.first.offset


async def test_a_lost_reply_commits_once(etcd_settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 50
    answers: list[TxnResult] = []
    async with through_proxy(etcd_settings) as (proxy, proxied), opened(proxied) as log:
        writer = await log.claim(0, "a")
        send = log.client.txn

        async def noting_txn(**request: object) -> TxnResult:
            answer = await send(**request)  # type: ignore[arg-type]
            answers.append(answer)
            return answer

        monkeypatch.setattr(log.client, "txn", noting_txn)
        for n in range(1, rounds + 1):
            proxy.lose_next_reply()
            assert await append_patiently(writer, f"c{n}", n) == n - 1
        assert proxy.lost >= rounds - 5
    async with opened(etcd_settings) as direct:
        stored = await read_all(direct, 0)
    assert [e.record.event_id for e in stored] == [f"s/1#{n}" for n in range(1, rounds + 1)]
    # Most rounds were the real thing: the first transaction had won, and the resent one was told so.
    assert sum(not answer.succeeded for answer in answers) > rounds / 2


async def test_a_lost_reply_to_a_claim_is_one_claim(etcd_settings: EtcdSettings) -> None:
    async with through_proxy(etcd_settings) as (proxy, proxied), opened(proxied) as log:
        for n in range(1, 9):
            proxy.lose_next_reply()
            try:
                writer = await log.claim(0, "a")
            except LogUnavailable:
                continue
            assert (await writer.append(f"c{n}", [event(f"s/{n}", 1)])).first.offset == writer.next_offset - 1


async def test_cut_connections_cost_a_follower_no_event(etcd_settings: EtcdSettings) -> None:
    total = 400
    async with (
        opened(etcd_settings) as log,
        through_proxy(etcd_settings) as (proxy, proxied),
        opened(proxied, recheck_s=60.0) as follower_log,
    ):
        writer = await log.claim(0, "a")
        following = asyncio.create_task(take(follower_log.follow(0, 0), total))
        for n in range(1, total + 1):
            await writer.append(f"c{n}", [event("s/1", n)])
            if n % 50 == 0:
                proxy.cut()
        assert offsets(await following) == list(range(total))


async def test_compaction_costs_a_follower_no_event(etcd_settings: EtcdSettings) -> None:
    async with (
        opened(etcd_settings) as log,
        through_proxy(etcd_settings) as (proxy, proxied),
        opened(proxied, recheck_s=60.0) as follower_log,
    ):
        writer = await log.claim(0, "a")
        seen: list[StoredEvent] = []

        async def follow() -> None:
            async for part in follower_log.follow(0, 0):
                seen.extend(part)

        following = asyncio.create_task(follow())
        for n in range(1, 101):
            await writer.append(f"c{n}", [event("s/1", n)])
            if n % 20 == 0:
                # The watch breaks and everything it could resume from is compacted away.
                proxy.cut()
                await log.client.compact(await log.client.revision())
        await eventually(lambda: len(seen) >= 100)
        following.cancel()
        assert offsets(seen) == list(range(100))


async def test_a_follower_that_hears_nothing_pages(
    etcd_settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(etcd_settings) as log, opened(etcd_settings, recheck_s=0.3) as deaf:
        # A watch that loses every event, as an etcd defect might: offsets are the proof, not arrival.
        monkeypatch.setattr(deaf._store.hub, "_deliver", lambda notice: None)
        writer = await log.claim(0, "a")
        following = asyncio.create_task(take(deaf.follow(0, 0), 10))
        for n in range(1, 11):
            await writer.append(f"c{n}", [event("s/1", n)])
        assert offsets(await following) == list(range(10))


async def test_a_lapsed_lease_without_successor_does_not_stop_the_writer(etcd_settings: EtcdSettings) -> None:
    async with opened(etcd_settings) as log:
        writer = await log.claim(0, "a")
        own = await log.client.get(f"/{etcd_settings.namespace}/p/00/own")
        assert own is not None
        await log.client.revoke_lease(own.lease)
        assert await log.owner_of(0) is None
        assert (await writer.append("c1", [event("s/1", 1)])).first.offset == 0
        # The owner can be found again, under the same epoch.
        states = log.client.mirror_prefix(f"/{etcd_settings.namespace}/p/00/own")
        async with asyncio.timeout(20):
            while not await anext(states):
                pass
        owner = await log.owner_of(0)
        assert owner is not None and owner.epoch == writer.epoch


@pytest.fixture
async def own_etcd(tmp_path: Path) -> AsyncIterator[EmbeddedEtcd]:
    etcd = EmbeddedEtcd(tmp_path)
    try:
        yield etcd
    finally:
        await etcd.stop()


async def test_a_paused_etcd_leaves_the_outcome_unknown_and_the_same_id_tells_it(own_etcd: EmbeddedEtcd) -> None:
    settings = await own_etcd.ensure()
    assert own_etcd.pid is not None
    async with opened(settings, append_deadline_s=0.5) as log:
        writer = await log.claim(0, "a")
        await writer.append("c1", [event("s/1", 1)])
        os.kill(own_etcd.pid, signal.SIGSTOP)
        try:
            with pytest.raises(LogUnavailable, match="c2"):
                await writer.append("c2", [event("s/1", 2)])
        finally:
            os.kill(own_etcd.pid, signal.SIGCONT)
        assert await append_patiently(writer, "c2", 2) == 1
        assert offsets(await read_all(log, 0)) == [0, 1]


async def test_killing_etcd_under_load_loses_nothing_acknowledged(own_etcd: EmbeddedEtcd) -> None:
    settings = await own_etcd.ensure()
    watching = asyncio.create_task(own_etcd.watch_over())
    stop = asyncio.Event()
    acked: list[dict[int, str]] = [{}, {}]

    async def load(writer: PartitionWriter) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            offset = await append_patiently(writer, f"c{n}", n)
            assert acked[writer.partition].setdefault(offset, f"s/1#{n}") == f"s/1#{n}"

    async with opened(settings, append_deadline_s=2.0) as log, opened(settings) as follower_log:
        writers = [await log.claim(partition, "a") for partition in range(2)]
        seen: list[StoredEvent] = []

        async def follow() -> None:
            async for part in follower_log.follow_all({0: 0, 1: 0}):
                seen.extend(part)

        following = asyncio.create_task(follow())
        async with asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(load(writer))
            for kills in range(1, 4):
                await eventually(lambda goal=50 * kills: min(map(len, acked)) > goal, 60)  # type: ignore[misc]
                victim = own_etcd.pid
                assert victim is not None
                os.kill(victim, signal.SIGKILL)
                await eventually(lambda dead=victim: own_etcd.pid not in (None, dead), 60)  # type: ignore[misc]
            stop.set()
        stored = [await read_all(log, partition) for partition in range(2)]
        await eventually(lambda: len(seen) >= sum(map(len, stored)), 60)
        following.cancel()
    watching.cancel()
    for partition in range(2):
        assert offsets(stored[partition]) == list(range(len(stored[partition])))
        ids = [e.record.event_id for e in stored[partition]]
        assert len(set(ids)) == len(ids), "no command took effect twice"
        assert all(ids[offset] == event_id for offset, event_id in acked[partition].items())
        assert [e for e in seen if e.position.partition == partition] == stored[partition]
