"""Traps 7, 8, 19 and 20 of docs/correctness.md: requests that etcd refuses or pays for, and keys that must not move."""

import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.log.codec import MAX_BATCH_BYTES, check_command
from events.log.errors import EtcdRefused, EventTooLarge
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdConnection, EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_wire import Delete, Operation, Put
from events.log.memory import MemoryEventLog
from events.log.port import Committed
from events.log.records import partition_of
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS
from tests.events.log.contract import event, offsets, read_all, take

ETCD_OPERATIONS_MAX = 128


@pytest.fixture
async def client(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(etcd_settings) as opened:
        yield opened


# --- 7: request too large -------------------------------------------------------------------------------------------

_overhead = check_command("c0", [event("s/0", 1, "", command="c0")]).size
around_the_cap = st.one_of(
    st.integers(0, 2000), st.integers(MAX_BATCH_BYTES - _overhead - 200, MAX_BATCH_BYTES - _overhead + 200)
)


@given(st.lists(around_the_cap, min_size=1, max_size=8))
@settings(max_examples=30)
def test_a_command_over_the_cap_is_refused_alone(sizes: list[int]) -> None:
    """Trap 7. All are submitted before the first batch is written: those that fit would share one with the others."""

    async def submit_all() -> None:
        log = MemoryEventLog()
        writer = await log.claim(0, "a")
        taken: list[asyncio.Future[Committed]] = []
        for n, size in enumerate(sizes):
            events = [event(f"s/{n}", 1, "x" * size, command=f"c{n}")]
            if check_command(f"c{n}", events).size > MAX_BATCH_BYTES:
                with pytest.raises(EventTooLarge):
                    writer.submit(f"c{n}", events)
            else:
                taken.append(writer.submit(f"c{n}", events))
        done = await asyncio.gather(*taken)
        assert [committed.first.offset for committed in done] == list(range(len(taken)))
        assert offsets(await read_all(log, 0)) == list(range(len(taken)))

    asyncio.run(submit_all())


@pytest.mark.servers
async def test_the_largest_command_fits_into_etcds_request(etcd_settings: EtcdSettings) -> None:
    """Trap 7. Incompressible, and exactly as large as is taken."""
    log = EtcdEventLog(etcd_settings)
    await log.open()
    writer = await log.claim(0, "a")
    base = check_command("c", [event("s/1", 1, "")]).size
    noise = os.urandom(MAX_BATCH_BYTES - base - 16)
    await writer.append("c", [event("s/1", 1, noise)])
    (stored,) = await read_all(log, 0)
    assert noise in bytes(stored.record.body)
    await log.close()


# --- 8: operations, duplicate keys, puts under deletes ----------------------------------------------------------------


@pytest.mark.servers
@pytest.mark.parametrize(
    "operations",
    [
        pytest.param(lambda root: [Put(f"{root}{n}", b"") for n in range(ETCD_OPERATIONS_MAX + 1)], id="too-many"),
        pytest.param(lambda root: [Put(f"{root}1", b"a"), Put(f"{root}1", b"b")], id="one-key-twice"),
        pytest.param(lambda root: [Put(f"{root}1", b"a"), Delete(f"{root}1")], id="put-and-deleted"),
    ],
)
async def test_a_transaction_that_etcd_does_not_take_is_refused_whole(
    client: EtcdClient, operations: Callable[[str], list[Operation]]
) -> None:
    """Trap 8. A typed refusal, not an unknown outcome that would be sent again for ever."""
    root = f"/{client.settings.namespace}/t/"
    with pytest.raises(EtcdRefused):
        await client.txn(then=operations(root))
    assert len(await client.get_prefix(root)) == 0


# --- 19: what makes etcd walk everything ------------------------------------------------------------------------------


def test_the_client_offers_neither_sorting_nor_revision_filters() -> None:
    """Trap 19."""
    offered = {
        name
        for method in vars(EtcdClient).values()
        if callable(method)
        for name in inspect.signature(method).parameters
    }
    assert not {name for name in offered if "sort" in name or name.startswith(("min_", "max_"))}


async def _ranges_of_a_reader(settings: EtcdSettings, batches: int, noting: list[Any]) -> list[Any]:
    """The range requests of reading near the tail, asking for the tail, and following, in such a log."""
    log = EtcdEventLog(settings)
    await log.open()
    writer = await log.claim(0, "a")
    for n in range(batches):
        await writer.append(f"c{n}", [event("s/1", n + 1)])
    await writer.release()
    noting.clear()
    assert len(await read_all(log, 0, batches - 5)) == 5
    assert await log.tail(0) == batches
    assert len(await take(log.follow(0, batches - 5), 5)) == 5
    await log.close()
    return [request for request in noting if type(request).__name__ == "RangeRequest"]


@pytest.mark.servers
async def test_what_a_read_costs_does_not_grow_with_the_log(
    etcd_settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 19. Every range is of one key or bounded by a page, in key order, at the present revision."""
    seen: list[Any] = []
    send = EtcdConnection.call

    async def noting(self: EtcdConnection, *sent: Any, **more: Any) -> Any:
        seen.extend(sent)
        return await send(self, *sent, **more)

    monkeypatch.setattr(EtcdConnection, "call", noting)
    small, large = etcd_settings, msgspec.structs.replace(etcd_settings, namespace=f"{etcd_settings.namespace}-large")
    of_small = await _ranges_of_a_reader(small, 3 * PAGE_BATCHES, seen)
    of_large = await _ranges_of_a_reader(large, 5 * PAGE_BATCHES, seen)

    for request in (*of_small, *of_large):
        assert request.sort_order == 0 and request.sort_target == 0
        assert not any((request.min_mod_revision, request.max_mod_revision, request.min_create_revision,
                        request.max_create_revision, request.revision))  # fmt: skip
        if request.range_end and not request.range_end.startswith(b"\0"):
            assert 0 < request.limit <= PAGE_OFFSETS
            if b"/b/" in request.key:
                first, end = (int(key.rpartition(b"/")[2], 16) for key in (request.key, request.range_end))
                assert end - first <= PAGE_OFFSETS
    read_small, read_large = (
        [request for request in requests if b"/b/" in request.key] for requests in (of_small, of_large)
    )
    assert len(read_large) == len(read_small) > 0


# --- 20: a hash that is salted ----------------------------------------------------------------------------------------

ROUTE = """
import json, sys
from events.log.records import partition_of
print(json.dumps([partition_of(f"component/{n}", 16) for n in range(1000)]), hash("component/1"))
"""


def test_every_process_routes_alike_whatever_its_hash_seed() -> None:
    """Trap 20."""
    told = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", ROUTE], env=env, capture_output=True, text=True, check=True)
        told.append(done.stdout.rsplit(" ", 1))
    assert told[0][1] != told[1][1], "Python's own hash did differ"
    assert json.loads(told[0][0]) == json.loads(told[1][0]) == [partition_of(f"component/{n}", 16) for n in range(1000)]
