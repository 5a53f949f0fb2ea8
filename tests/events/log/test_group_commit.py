"""Appends of several partitions that wait at once: one transaction, and each partition's fate is still its own."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from events.log.errors import Fenced, LogUnavailable
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_group import GROUP_APPENDS
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_wire import Put, TxnResult
from events.log.pace import Pace
from events.log.port import Committed, PartitionWriter
from tests.events.log.contract import event, read_all

pytestmark = pytest.mark.servers

PARTITIONS = 40  # more than one transaction takes


@pytest.fixture
async def log(etcd_settings: EtcdSettings) -> AsyncIterator[EtcdEventLog]:
    opened = EtcdEventLog(etcd_settings, partitions=PARTITIONS)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def sent(log: EtcdEventLog, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_batches(log, monkeypatch)


def count_batches(log: EtcdEventLog, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches each transaction with batches carries from now on, in order."""
    counts: list[int] = []
    send = log.client.txn

    async def counting(**request: object) -> TxnResult:
        then = request.get("then", ())
        batches = [put for put in then if isinstance(put, Put) and "/b/" in put.key]  # type: ignore[attr-defined]
        if batches:
            counts.append(len(batches))
        return await send(**request)  # type: ignore[arg-type]

    monkeypatch.setattr(log.client, "txn", counting)
    return counts


def submit(writer: PartitionWriter, n: int, body: object = None) -> "asyncio.Future[Committed]":
    name = f"s/{writer.partition}"
    return writer.submit(f"c{writer.partition}.{n}", [event(name, n, body, command=f"c{writer.partition}.{n}")])


async def test_what_waits_at_once_goes_in_as_few_transactions_as_fit(log: EtcdEventLog, sent: list[int]) -> None:
    writers = [await log.claim(partition, "a") for partition in range(PARTITIONS)]

    await asyncio.gather(*(submit(writer, 1) for writer in writers))

    assert sent == [GROUP_APPENDS, PARTITIONS - GROUP_APPENDS]
    for partition in range(PARTITIONS):
        assert [stored.record.version for stored in await read_all(log, partition)] == [1]


async def test_large_batches_share_a_transaction_only_as_far_as_etcd_takes_it(
    log: EtcdEventLog, sent: list[int]
) -> None:
    writers = [await log.claim(partition, "a") for partition in range(6)]

    await asyncio.gather(*(submit(writer, 1, os.urandom(250_000)) for writer in writers))

    assert sent == [4, 2]


async def test_one_that_lost_its_partition_takes_no_other_with_it(
    log: EtcdEventLog, etcd_settings: EtcdSettings, sent: list[int]
) -> None:
    writers = [await log.claim(partition, "a") for partition in range(3)]
    other = EtcdEventLog(etcd_settings, partitions=PARTITIONS)
    await other.open()
    await other.claim(1, "b", force=True)

    outcomes = await asyncio.gather(*(submit(writer, 1) for writer in writers), return_exceptions=True)

    await other.close()
    assert isinstance(outcomes[1], Fenced)
    assert isinstance(outcomes[0], Committed) and isinstance(outcomes[2], Committed)
    assert sent == [3, 1, 1, 1], "refused together, each is told its own reason"
    assert [len(await read_all(log, partition)) for partition in range(3)] == [1, 0, 1]


@pytest.mark.parametrize("arrived", [True, False], ids=["reply lost", "request lost"])
async def test_after_no_answer_all_of_them_are_there_once(
    log: EtcdEventLog, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    writers = [await log.claim(partition, "a") for partition in range(3)]
    send, lost = log.client.txn, 0

    async def lose_the_first(**request: object) -> TxnResult:
        nonlocal lost
        lost += 1
        if lost > 1:
            return await send(**request)  # type: ignore[arg-type]
        if arrived:
            await send(**request)  # type: ignore[arg-type]
        raise LogUnavailable("no answer")

    monkeypatch.setattr(log.client, "txn", lose_the_first)
    first = await asyncio.gather(*(submit(writer, 1) for writer in writers))
    await asyncio.gather(*(submit(writer, 2) for writer in writers))

    assert [committed.last.offset for committed in first] == [0, 0, 0]
    for partition in range(3):
        assert [stored.record.version for stored in await read_all(log, partition)] == [1, 2]


async def test_a_group_that_comes_late_changes_nothing(log: EtcdEventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request stays on the way while each append is sent again, and arrives when those have been written."""
    writers = [await log.claim(partition, "a") for partition in range(3)]
    send = log.client.txn
    delayed: list[dict[str, object]] = []

    async def delay_the_first(**request: object) -> TxnResult:
        if not delayed:
            delayed.append(request)
            raise LogUnavailable("no answer")
        return await send(**request)  # type: ignore[arg-type]

    monkeypatch.setattr(log.client, "txn", delay_the_first)
    await asyncio.gather(*(submit(writer, 1) for writer in writers))
    late = await send(**delayed[0])  # type: ignore[arg-type]

    assert not late.succeeded
    for partition in range(3):
        assert [stored.record.version for stored in await read_all(log, partition)] == [1]


async def test_a_writer_that_is_stopped_takes_no_other_with_it(log: EtcdEventLog, sent: list[int]) -> None:
    writers = [await log.claim(partition, "a") for partition in range(3)]

    waiting = [submit(writer, 1) for writer in writers]
    await asyncio.sleep(0)
    await writers[0].release()

    assert [committed.last.offset for committed in await asyncio.gather(*waiting[1:])] == [0, 0]


async def test_what_comes_while_a_turn_is_awaited_goes_with_it(
    etcd_settings: EtcdSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EtcdEventLog(etcd_settings, partitions=2, pace=Pace(seconds=0.2, burst=1))
    await log.open()
    sent = count_batches(log, monkeypatch)
    try:
        writers = [await log.claim(partition, "a") for partition in range(2)]
        await submit(writers[0], 1)
        early = submit(writers[0], 2)
        await asyncio.sleep(0.01)  # it waits for its turn by now
        await asyncio.gather(early, submit(writers[0], 3), submit(writers[1], 1))
        assert sent == [1, 2]
        assert [stored.record.version for stored in await read_all(log, 0)] == [1, 2, 3]
    finally:
        await log.close()
