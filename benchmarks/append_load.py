"""Drives closed loops of entities against the log: each awaits its append before it sends its next one.

Knows how load is made, spread over processes and checked against what etcd holds afterwards; not which cases matter.
"""

import asyncio
import multiprocessing
import resource
import shutil
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import msgspec
import psutil

from actors.cluster.garbage import collect_seldom
from benchmarks.harness import Case, case
from benchmarks.workload import Workload, encoded_bytes
from events.log.codec import decode_header
from events.log.embedded import EmbeddedEtcd
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.keys import Keys
from events.log.port import Committed
from events.log.records import Position
from events.log.store import PAGE_BATCHES, PAGE_OFFSETS

WARM_UP_SECONDS = 0.5
WORKERS_READY_SECONDS = 60.0
SAMPLE_RECORDS = 2_000

_barrier: Barrier | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One case. Each process claims its share of the partitions and runs its share of the entities."""

    name: str
    entities: int
    processes: int = 1
    partitions: int = 1
    zipf: float = 0.0
    event_bytes: int = 0

    @property
    def share(self) -> int:
        """Entities of each process."""
        return self.entities // self.processes


class Driven(msgspec.Struct, frozen=True, kw_only=True):
    """What one process measured. `samples`: seconds per append; `appended` counts the warm-up too."""

    samples: bytes
    seconds: float
    cpu_seconds: float
    appended: int


class Etcd(msgspec.Struct, frozen=True, kw_only=True):
    """A running etcd of a benchmark's own."""

    settings: EtcdSettings
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> int:
        """Resident memory in MiB."""
        return int(self.process.memory_info().rss) >> 20


@asynccontextmanager
async def fresh_etcd() -> AsyncIterator[Etcd]:
    """An empty embedded etcd as `rayfold up` starts it: TLS, one member, fsync on; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rf-append-"))
    etcd = EmbeddedEtcd(directory)
    try:
        settings = await etcd.ensure()
        pid = etcd.pid
        assert pid is not None, "etcd answered and is gone"
        yield Etcd(settings=settings, process=psutil.Process(pid))
    finally:
        await etcd.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def drive(
    entities: int, seconds: float, append: Callable[[int], Awaitable[object]]
) -> tuple["array[float]", float]:
    """`entities` closed loops for `seconds`; returns each append's seconds, and how long it took altogether."""
    samples = array("d")
    clock = time.perf_counter
    began = clock()
    ends = began + seconds

    async def entity(number: int) -> None:
        begin = clock()
        while begin < ends:
            await append(number)
            now = clock()
            samples.append(now - begin)
            begin = now

    async with asyncio.TaskGroup() as group:
        for number in range(entities):
            group.create_task(entity(number))
    return samples, clock() - began


async def drive_log(
    entities: int, seconds: float, submit: Callable[[int], "asyncio.Future[Committed]"]
) -> tuple["array[float]", float]:
    """As `drive`, without a task each: a supervisor has none either, it is called back when a command is durable. A
    task's switches are a tenth of what the log takes for an event."""
    samples = array("d")
    clock = time.perf_counter
    ended = asyncio.get_running_loop().create_future()
    began = clock()
    ends = began + seconds
    running = entities

    def send(entity: int, begin: float) -> None:
        submit(entity).add_done_callback(partial(answered, entity, begin))

    def answered(entity: int, begin: float, answer: "asyncio.Future[Committed]") -> None:
        nonlocal running
        try:
            answer.result()
            now = clock()
            samples.append(now - begin)
            if now < ends:
                send(entity, now)
            elif (running := running - 1) == 0:
                ended.set_result(None)
        except Exception as error:
            if not ended.done():
                ended.set_exception(error)

    for entity in range(entities):
        send(entity, clock())
    await ended
    return samples, clock() - began


async def measure(plan: Plan, seconds: float) -> Case:
    """Run one case on an etcd of its own, and check that what was acknowledged is what etcd holds, without a gap."""
    async with fresh_etcd() as etcd:
        barrier = multiprocessing.get_context("spawn").Barrier(plan.processes)
        before = etcd.cpu_seconds()
        with ProcessPoolExecutor(
            plan.processes, multiprocessing.get_context("spawn"), initializer=_set_barrier, initargs=(barrier,)
        ) as pool:
            loop = asyncio.get_running_loop()
            work = [
                loop.run_in_executor(pool, _work, etcd.settings, plan, seconds, index)
                for index in range(plan.processes)
            ]
            parts = await asyncio.gather(*work)
        etcd_cpu, rss = etcd.cpu_seconds() - before, etcd.rss_mb()
        appended = sum(part.appended for part in parts)
        stored, batches, size = await _stored(etcd.settings, plan.partitions)
        if stored != appended:
            raise AssertionError(f"{plan.name}: expected the {appended} acknowledged events in etcd, found {stored}")
    samples = array("d")
    for part in parts:
        samples.frombytes(part.samples)
    cpu = sum(part.cpu_seconds for part in parts)
    return case(
        plan.name,
        "event",
        samples,
        seconds=max(part.seconds for part in parts),
        entities=plan.entities,
        processes=plan.processes,
        partitions=plan.partitions,
        encoded_bytes=round(_encoded_bytes(plan), 1),
        stored_bytes_per_event=round(size / stored, 1),
        events_per_batch=round(stored / batches, 1),
        cpu_seconds=round(cpu + etcd_cpu, 3),
        client_cpu_us_per_event=round(cpu / len(samples) * 1e6, 2),
        etcd_cpu_us_per_event=round(etcd_cpu / appended * 1e6, 2),
        rss_mb=rss,
        durability="etcd, one member, fsync before each acknowledgement",
    )


def workload(plan: Plan, *, index: int = 0) -> Workload:
    """The events of one process's share of the entities."""
    return Workload(entities=plan.share, event_bytes=plan.event_bytes, zipf=plan.zipf, seed=index + 1)


def _encoded_bytes(plan: Plan) -> float:
    sample = workload(plan)
    return encoded_bytes([sample.record(number % plan.share) for number in range(SAMPLE_RECORDS)])


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _work(settings: EtcdSettings, plan: Plan, seconds: float, index: int) -> Driven:
    return asyncio.run(_drive_share(settings, plan, seconds, index))


async def _drive_share(settings: EtcdSettings, plan: Plan, seconds: float, index: int) -> Driven:
    log = EtcdEventLog(settings, partitions=plan.partitions)
    await log.open()
    mine = range(index, plan.partitions, plan.processes)
    writers = [await log.claim(partition, f"bench-{partition}") for partition in mine]
    events = workload(plan, index=index)

    def submit(entity: int) -> "asyncio.Future[Committed]":
        record = events.record(entity)
        return writers[entity % len(writers)].submit(record.command_id, (record,))

    warm, _ = await drive_log(plan.share, WARM_UP_SECONDS, submit)
    collect_seldom()
    assert _barrier is not None, "the pool's initializer sets it"
    await asyncio.to_thread(_barrier.wait, WORKERS_READY_SECONDS)
    before = _cpu()
    samples, took = await drive_log(plan.share, seconds, submit)
    cpu = _cpu() - before
    for writer in writers:
        await writer.release()
    await log.close()
    return Driven(samples=samples.tobytes(), seconds=took, cpu_seconds=cpu, appended=len(warm) + len(samples))


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _stored(settings: EtcdSettings, partitions: int) -> tuple[int, int, int]:
    """Events, batches, and bytes of keys and values in etcd; raises AssertionError at a gap."""
    keys, client = Keys(settings.namespace), EtcdClient(settings)
    await client.open()
    events = batches = size = 0
    for partition in range(partitions):
        expected = 0
        while True:
            start, end = keys.batch(partition, expected), keys.batch(partition, expected + PAGE_OFFSETS)
            page = await client.range(start, end, limit=PAGE_BATCHES)
            for item in page:
                header = decode_header(item.value, Position(partition, expected))
                expected = header.end
                size += len(item.key) + len(item.value)
            batches += len(page)
            if not page.items:
                break
        events += expected
    await client.close()
    return events, batches, size
