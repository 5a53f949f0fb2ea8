"""How many events a second are folded into the real aggregates' states: from etcd, and from the archive.

Batches are fetched, checked, decoded and applied. The peer is the `eventsourcing` library on SQLite and in memory, with
the same events and the same `apply`. Run: python -m benchmarks.replay [--json] [--quick].
"""

import asyncio
from pathlib import Path

from benchmarks.harness import Case, Result, main, result
from benchmarks.partition_log import Place, Worker, etcd_place, fill
from benchmarks.peers.eventsourcing_fold import fold_cases
from events.log.archive.archiver import ArchivePolicy, Archiver, Reach
from events.log.blobs import DirectoryBlobs
from events.log.etcd_client import EtcdClient
from events.log.etcd_store import EtcdStore
from events.log.keys import Keys

EVENTS = 500_000  # in each of two partitions
QUICK_EVENTS = 150_000
PEER_EVENTS = 40_000
QUICK_PEER_EVENTS = 10_000
ROUNDS = 3
SETTLE_SECONDS = 1.0  # for what the last case left etcd to do


async def fold(place: Place, name: str, partitions: list[int]) -> Case:
    """The best of some rounds, each in fresh processes, one for each partition, begun at the same moment."""
    best: Case | None = None
    for _ in range(ROUNDS):
        await asyncio.sleep(SETTLE_SECONDS)
        measured = await _fold_once(place, name, partitions)
        if best is None or float(measured["per_second"]) > float(best["per_second"]):
            best = measured
    assert best is not None
    return {**best, "rounds": ROUNDS}


async def _fold_once(place: Place, name: str, partitions: list[int]) -> Case:
    workers = [Worker("benchmarks.fold_worker", place=place, partition=number) for number in partitions]
    for worker in workers:
        await worker.answer()
    for worker in workers:
        worker.say("go")
    told = await asyncio.gather(*(worker.answer() for worker in workers))
    await asyncio.gather(*(worker.end() for worker in workers))
    count, seconds = sum(each["events"] for each in told), max(each["seconds"] for each in told)
    cpu = sum(each["cpu"] for each in told)
    return {
        "case": name,
        "unit": "event",
        "count": int(count),
        "seconds": round(seconds, 3),
        "per_second": round(count / seconds, 1),
        "cpu_seconds": round(cpu, 3),
        "cpu_us_per_event": round(cpu / count * 1e6, 2),
        "streams": int(sum(each["streams"] for each in told)),
        "processes": len(partitions),
        "rss_mb": int(max(each["rss_mb"] for each in told)),
    }


async def archive(place: Place, number: int) -> int:
    """Move all of a partition but its last batch out of etcd; returns the number of segments."""
    client = EtcdClient(place.etcd)
    await client.open()
    store = EtcdStore(client, Keys(place.etcd.namespace))
    archiver = Archiver(hot=store, blobs=DirectoryBlobs(Path(place.archive)), policy=ArchivePolicy(retain_s=0.0))
    segments = 0
    while await archiver.step(number, Reach(young=True, small=True)) is not None:
        segments += 1
    await store.hub.close()
    await client.close()
    return segments


async def run(quick: bool) -> Result:
    """All cases, then the peer."""
    events = QUICK_EVENTS if quick else EVENTS
    async with etcd_place() as place:
        await asyncio.gather(*(fill(place, number, events) for number in (0, 1)))
        cases = [
            await fold(place, "hot, one process", [0]),
            await fold(place, "hot, two processes", [0, 1]),
        ]
        await asyncio.gather(*(archive(place, number) for number in (0, 1)))
        cases += [
            await fold(place, "archive, one process", [0]),
            await fold(place, "archive, two processes", [0, 1]),
        ]
    peers = await asyncio.to_thread(fold_cases, QUICK_PEER_EVENTS if quick else PEER_EVENTS)
    return result("replay", ("msgspec", "zstandard", "grpcio"), cases, peers, _ratios(cases, peers))


def _ratios(cases: list[Case], peers: list[Case]) -> dict[str, float]:
    """One process of ours over the peer's one process."""
    ratios: dict[str, float] = {}
    for peer in (peer for peer in peers if "absent" not in peer):
        for ours in (case for case in cases if case["processes"] == 1):
            ratio = float(ours["per_second"]) / float(peer["per_second"])
            ratios[f"{ours['case']} over {peer['case']}"] = round(ratio, 1)
    return ratios


if __name__ == "__main__":
    main(run, __doc__)
