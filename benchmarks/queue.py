"""How many tasks a second go from claim to acknowledgement, and how long a task waits until a consumer has it.

The peers do the same with the same durability in the same run: Redis Streams' consumer groups, a NATS JetStream work
queue. Run: python -m benchmarks.queue [--json] [--quick].
"""

from collections.abc import Sequence

import msgspec

from actors.cluster.garbage import collect_seldom
from benchmarks.append_load import fresh_etcd
from benchmarks.harness import Case, Result, main, result
from benchmarks.peers import nats_queue, redis_queue
from benchmarks.queue_load import CONSUMERS, PAYLOAD, Load, drive
from events.log.etcd_client import EtcdClient
from events.queue.etcd_queue import EtcdTaskQueue
from events.queue.task import ClaimRef, Consumer, NewTask

BACKLOG = "a backlog"
STEADY = "2,000 offered a second"
LOADS = (Load(name=BACKLOG, tasks=30_000), Load(name=STEADY, tasks=30_000, per_second=2_000))
QUICK_LOADS = (Load(name=BACKLOG, tasks=6_000), Load(name=STEADY, tasks=8_000, per_second=2_000))
WAIT_SECONDS = 1.0


class _Queue:
    def __init__(self, publisher: EtcdTaskQueue, member: EtcdTaskQueue, topic: str) -> None:
        self._publisher = publisher
        self._member = member
        self._topic = topic
        self._consumers = [Consumer(name=f"c{n}") for n in range(CONSUMERS)]

    async def offer(self, ids: Sequence[str]) -> None:
        await self._publisher.publish(self._topic, [NewTask(id=ident, payload=PAYLOAD) for ident in ids])

    async def take(self, consumer: int, most: int) -> list[tuple[str, object]]:
        claims = await self._member.claim(self._topic, self._consumers[consumer], most=most, wait_seconds=WAIT_SECONDS)
        return [(claim.task.id, claim.ref) for claim in claims]

    async def done(self, consumer: int, handles: Sequence[object]) -> None:
        accepted = await self._member.ack(msgspec.convert(list(handles), list[ClaimRef]))
        if not all(accepted):
            raise AssertionError("expected every acknowledgement to be accepted, found a stale one")


async def ours(loads: Sequence[Load]) -> list[Case]:
    """A member that publishes and one that consumes, on an etcd of this run's own; set up as an actor that opened."""
    cases: list[Case] = []
    async with fresh_etcd() as etcd, EtcdClient(etcd.settings) as one, EtcdClient(etcd.settings) as two:
        publisher, member = EtcdTaskQueue(one, name="publisher"), EtcdTaskQueue(two, name="consumers")
        await publisher.open()
        await member.open()
        collect_seldom()
        for number, load in enumerate(loads):
            before = etcd.cpu_seconds()
            measured = await drive(load, _Queue(publisher, member, f"bench-{number}"),
                                   durability="etcd, one member, fsync before each acknowledgement")  # fmt: skip
            measured["etcd_cpu_us_per_task"] = round((etcd.cpu_seconds() - before) / load.tasks * 1e6, 1)
            cases.append(measured)
        await publisher.close()
        await member.close()
    return cases


async def run(quick: bool) -> Result:
    """Ours, then each peer by itself: nothing shares the machine with what is measured."""
    loads = QUICK_LOADS if quick else LOADS
    cases = await ours(loads)
    peers = [peer for run_peer in (redis_queue.run, nats_queue.run) for peer in await run_peer(loads)]
    ratios: dict[str, float] = {}
    for peer in peers:
        if "absent" in peer:
            continue
        name = str(peer["case"])
        mine = next(each for each in cases if name.endswith(str(each["case"])))
        if name.endswith(BACKLOG):
            ratios[name] = round(float(mine["per_second"]) / float(peer["per_second"]), 2)
        else:
            ratios[f"{name}, p99 wait"] = round(float(peer["p99_ms"]) / float(mine["p99_ms"]), 2)
    return result("queue", ("msgspec", "grpcio", "redis", "nats-py"), cases, peers, ratios)


if __name__ == "__main__":
    main(run, __doc__)
