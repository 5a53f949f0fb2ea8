"""Replies that get lost after etcd committed: the identical transaction, sent again, tells what became of the first.

Some commands are sent again by their clients as well; the checker finds each of them once.
"""

import asyncio

import msgspec
import pytest

from events.log.errors import LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_wire import TxnResult
from tests.checker.history import Recorder
from tests.checker.rules import assert_holds
from tests.checker.stored import hot_batches
from tests.events.log.contract import event
from tests.events.log.tcp_proxy import TcpProxy

pytestmark = pytest.mark.servers

WRITERS = 8


class _Writer:
    """One partition's writer behind a proxy of its own, that loses a reply in each round."""

    def __init__(self, settings: EtcdSettings, recorder: Recorder, partition: int) -> None:
        self._settings = settings
        self._recorder = recorder
        self._partition = partition
        self.lost = 0
        self.told_it_had_won = 0

    async def run(self, rounds: int) -> None:
        host, _, port = self._settings.endpoints[0].rpartition(":")
        async with TcpProxy(host, int(port)) as proxy:
            log = EtcdEventLog(msgspec.structs.replace(self._settings, endpoints=(proxy.endpoint,)))
            await log.open()
            self._count_refusals(log.client)
            writer = await self._recorder.claim(f"o{self._partition}", log, self._partition)
            for n in range(1, rounds + 1):
                proxy.lose_next_reply()
                await self._send(writer, n)
                if n % 5 == 0:
                    # Its client did not hear the answer either.
                    await self._send(writer, n)
            self.lost = proxy.lost
            await log.close()

    async def _send(self, writer: object, n: int) -> None:
        while True:
            try:
                await self._recorder.append(
                    f"c{self._partition}",
                    writer,  # type: ignore[arg-type]
                    f"c{self._partition}.{n}",
                    [event(f"s/{self._partition}", n)],
                )
                return
            except LogUnavailable:
                continue

    def _count_refusals(self, client: EtcdClient) -> None:
        send = client.txn

        async def counting(**request: object) -> TxnResult:
            answer = await send(**request)  # type: ignore[arg-type]
            self.told_it_had_won += not answer.succeeded
            return answer

        client.txn = counting  # type: ignore[method-assign]


@pytest.mark.parametrize("rounds", [40, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
async def test_lost_replies_lose_and_repeat_nothing(etcd_settings: EtcdSettings, rounds: int) -> None:
    recorder = Recorder()
    writers = [_Writer(etcd_settings, recorder, partition) for partition in range(WRITERS)]
    async with asyncio.TaskGroup() as group:
        for writer in writers:
            group.create_task(writer.run(rounds // WRITERS))
    async with EtcdClient(etcd_settings) as client:
        batches = await hot_batches(client, etcd_settings.namespace)
    assert_holds(recorder.history(), batches)
    lost, won = sum(w.lost for w in writers), sum(w.told_it_had_won for w in writers)
    # A reply of another kind (a lease's, a watch's) is lost now and then; most are an append's that had committed.
    assert lost >= 0.9 * rounds
    assert won > rounds / 2
    events = sum(len(batch.events) for batch in batches)
    print(f"{lost} replies lost in {rounds} rounds, {won} resent transactions had won, {events} events: sound")
