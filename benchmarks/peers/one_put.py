"""One put per event into the same etcd through the same client: what a log without group commit would do.

Must know nothing of batches.
"""

import msgspec

from benchmarks.append_load import Plan, drive, fresh_etcd, workload
from benchmarks.harness import Case, case
from events.log.etcd_client import EtcdClient

IN_FLIGHT = 64


async def run(seconds: float) -> Case:
    """64 entities, each awaits its put."""
    events = workload(Plan(name="", entities=IN_FLIGHT))
    encode = msgspec.msgpack.Encoder().encode
    async with fresh_etcd() as etcd:
        client = EtcdClient(etcd.settings)
        await client.open()

        async def append(entity: int) -> None:
            record = events.record(entity)
            await client.put(f"/bench/{record.event_id}", encode(record))

        before = etcd.cpu_seconds()
        samples, took = await drive(IN_FLIGHT, seconds, append)
        cpu, rss = etcd.cpu_seconds() - before, etcd.rss_mb()
        await client.close()
    return case(
        "one put per event",
        "event",
        samples,
        seconds=took,
        entities=IN_FLIGHT,
        etcd_cpu_us_per_event=round(cpu / len(samples) * 1e6, 2),
        rss_mb=rss,
        durability="etcd, one member, fsync before each acknowledgement",
    )
