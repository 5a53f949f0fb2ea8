"""The client's helpers, on a real etcd."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import psutil
import pytest
from aetcd.rpc import rpc_pb2, rpc_pb2_grpc

from events.log import etcd_connection
from events.log.embedded import EmbeddedEtcd
from events.log.errors import Compacted, EtcdRefused, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdConnection, EtcdSettings, Purpose
from events.log.etcd_watch import watch_range
from events.log.etcd_wire import KeyValue, prefix_end

pytestmark = pytest.mark.servers


@pytest.fixture
async def client(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(etcd_settings) as opened:
        yield opened


@pytest.fixture
def root(etcd_settings: EtcdSettings) -> str:
    return f"/{etcd_settings.namespace}/"


async def test_single_keys(client: EtcdClient, root: str) -> None:
    key = f"{root}k"
    assert await client.get(key) is None
    revision = await client.put(key, b"1")
    found = await client.get(key)
    assert found == KeyValue(key, b"1", revision, revision, 1, 0)
    assert not await client.put_if_absent(key, b"2")
    assert await client.put_if_absent(f"{root}new", b"2")
    assert not await client.compare_and_put(key, b"3", mod_revision=revision - 1)
    assert await client.compare_and_put(key, b"3", mod_revision=revision)
    assert await client.delete(key)
    assert not await client.delete(key)


async def test_a_prefix_is_listed_whole_at_one_revision(client: EtcdClient, root: str) -> None:
    count = 1103
    await asyncio.gather(*(client.put(f"{root}n/{n:05d}", b"%d" % n) for n in range(count)))
    last = await client.put(f"{root}o", b"outside")
    listing = await client.get_prefix(f"{root}n/")
    assert [item.value for item in listing] == [b"%d" % n for n in range(count)]
    # Others write to this etcd as well: a revision is one that was current between the last write and now.
    assert last <= listing.revision <= await client.revision()


async def test_a_mirror_shows_every_state(client: EtcdClient, root: str) -> None:
    await client.put(f"{root}m/a", b"1")
    states = client.mirror_prefix(f"{root}m/")
    async with asyncio.timeout(10):
        assert {k: v.value for k, v in (await anext(states)).items()} == {f"{root}m/a": b"1"}
        await client.put(f"{root}m/b", b"2")
        assert {k: v.value for k, v in (await anext(states)).items()} == {f"{root}m/a": b"1", f"{root}m/b": b"2"}
        await client.delete(f"{root}m/a")
        assert set(await anext(states)) == {f"{root}m/b"}


async def test_a_lease_holds_its_keys_and_takes_them_along(client: EtcdClient, root: str) -> None:
    async with client.lease(2) as lease:
        await client.put(f"{root}leased", b"", lease=lease.id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.5):
                await lease.lost()
        assert await client.get(f"{root}leased") is not None
    assert await client.get(f"{root}leased") is None


async def test_a_lost_lease_is_noticed(client: EtcdClient) -> None:
    async with client.lease(2) as lease:
        await client.revoke_lease(lease.id)
        async with asyncio.timeout(10):
            await lease.lost()
        with pytest.raises(EtcdRefused, match="NOT_FOUND"):
            await client.revoke_lease(lease.id)


async def test_watching_compacted_history_says_so(client: EtcdClient, root: str) -> None:
    for n in range(5):
        await client.put(f"{root}w", b"%d" % n)
    await client.compact(await client.revision())
    with pytest.raises(Compacted):
        async for _ in client.watch_prefix(root, 1):
            pass


async def test_a_watch_of_a_paused_server_ends(tmp_path: Path) -> None:
    etcd = EmbeddedEtcd(tmp_path)
    connection = EtcdConnection(await etcd.ensure())
    await connection.open()
    assert etcd.pid is not None
    try:
        watch = watch_range(connection, b"/", prefix_end("/"), start_revision=1, idle_s=0.5)
        assert (await anext(watch)).created
        os.kill(etcd.pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            with pytest.raises(LogUnavailable):
                while True:
                    await anext(watch)
    finally:
        os.kill(etcd.pid, signal.SIGCONT)
        await connection.close()
        await etcd.stop()


async def test_several_endpoints_one_of_them_dead(etcd_settings: EtcdSettings, root: str) -> None:
    both = msgspec.structs.replace(etcd_settings, endpoints=("127.0.0.1:1", *etcd_settings.endpoints))
    async with EtcdClient(both) as client:
        with pytest.raises(LogUnavailable):
            # A write is sent once; the next one goes to the next endpoint.
            await client.put(f"{root}k", b"")
        await client.put(f"{root}k", b"")


async def test_a_user_logs_in_and_again_when_the_token_is_stale(tmp_path: Path) -> None:
    etcd = EmbeddedEtcd(tmp_path)
    settings = await etcd.ensure()
    password_file = tmp_path / "password"
    password_file.write_text("s3cret\n")
    try:
        await _enable_auth(settings, "s3cret")
        with_user = msgspec.structs.replace(settings, username="root", password_file=str(password_file))
        async with EtcdClient(with_user) as client:
            await client.put("/k", b"1")
            # Tokens live in etcd's memory: a restart makes every one stale.
            await etcd.stop()
            await etcd.ensure()
            assert (found := await client.get("/k")) is not None and found.value == b"1"
            await client.put("/k", b"2")
        password_file.write_text("wrong")
        stranger = EtcdClient(with_user)
        with pytest.raises(EtcdRefused):
            await stranger.open()
        await stranger.close()
    finally:
        await etcd.stop()


async def _enable_auth(settings: EtcdSettings, password: str) -> None:
    connection = EtcdConnection(settings)
    await connection.open()
    stub = rpc_pb2_grpc.AuthStub(connection.channel(Purpose.READ))
    await stub.UserAdd(rpc_pb2.AuthUserAddRequest(name="root", password=password))
    await stub.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="root"))
    await stub.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"))
    await stub.AuthEnable(rpc_pb2.AuthEnableRequest())
    await connection.close()


async def test_a_call_whose_channel_is_retired_under_it_is_unavailable_not_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another call's failure retires the channel that they share; a task must not end as if it had been cancelled."""
    monkeypatch.setattr(etcd_connection, "RETIRED_GRACE_S", 0.05)
    etcd = EmbeddedEtcd(tmp_path)
    settings = await etcd.ensure()
    two = msgspec.structs.replace(settings, endpoints=(*settings.endpoints, "127.0.0.1:1"))
    connection = EtcdConnection(two)
    await connection.open()
    assert etcd.pid is not None
    try:
        await connection.call(Purpose.READ, _range, rpc_pb2.RangeRequest(key=b"k"), 5.0)
        os.kill(etcd.pid, signal.SIGSTOP)
        while psutil.Process(etcd.pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(connection.call(Purpose.READ, _range, rpc_pb2.RangeRequest(key=b"k"), 30.0))
        await asyncio.sleep(0)
        connection.leave(Purpose.READ, connection.channel(Purpose.READ))
        async with asyncio.timeout(20):
            with pytest.raises(LogUnavailable):
                await waiting
        cancelled = asyncio.create_task(connection.call(Purpose.LEASE, _range, rpc_pb2.RangeRequest(key=b"k"), 30.0))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    finally:
        os.kill(etcd.pid, signal.SIGCONT)
        await connection.close()
        await etcd.stop()


def _range(channel: grpc.aio.Channel) -> Any:
    return rpc_pb2_grpc.KVStub(channel).Range
