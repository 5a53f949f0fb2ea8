"""One supervisor that owns every partition of a benchmark's log: claims all, recovers all, and then tends to them.

Reads what to do on stdin and begins at once; each answer is a line. Effects are never carried out.
"""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import structlog

from actors.supervisor.orders import Ended, Known, Started, StartOrder
from actors.supervisor.supervisor import Supervisor
from benchmarks.histories import ROOMS
from benchmarks.owner_worker import NoEffects
from benchmarks.partition_log import PARTITIONS, Place
from events.log.blobs import DirectoryBlobs
from events.log.etcd_log import EtcdEventLog
from events.model.placement import Room

SETTLE_SECONDS = 120.0
QUIET_SECONDS = 5
BUSY_SHARE = 0.1  # of a core


class Todo(msgspec.Struct, frozen=True, kw_only=True):
    """`idle_seconds`: how long it is watched while nobody asks anything of it."""

    place: Place
    idle_seconds: float


class Nodes:
    """Live, and knowing every instance."""

    def nodes(self) -> Sequence[Room]:
        return ROOMS

    def gone(self) -> Sequence[str]:
        return ()

    async def start(self, node: str, order: StartOrder) -> Started:
        raise NotImplementedError

    async def stop(self, node: str, instance: str, grace_seconds: int) -> Ended:
        raise NotImplementedError

    async def unknown(self, node: str, instances: Sequence[str]) -> list[str]:
        return []

    async def settle(self, node: str, known: Sequence[Known]) -> list[str]:
        return []

    async def tell(self, node: str, *, leaving: bool) -> None:
        raise NotImplementedError

    async def strike(self, node: str, *, gone: bool) -> None:
        raise NotImplementedError


async def _at_rest() -> None:
    """Until what follows a recovery is done: nodes are settled, snapshots taken. Raises TimeoutError."""
    async with asyncio.timeout(SETTLE_SECONDS):
        quiet = 0
        while quiet < QUIET_SECONDS:
            spent = time.process_time()
            await asyncio.sleep(1.0)
            quiet = quiet + 1 if time.process_time() - spent < BUSY_SHARE else 0


def _tell(**what: float) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


async def main() -> None:
    """Claim, recover, rest; tell what it took."""
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    todo = msgspec.json.decode(sys.stdin.readline(), type=Todo)
    process = psutil.Process()
    log = EtcdEventLog(todo.place.etcd, partitions=PARTITIONS, blobs=DirectoryBlobs(Path(todo.place.archive)))
    await log.open()
    supervisor = Supervisor(name="supervisor-0", event_log=log, nodes=Nodes())
    supervisor.use(NoEffects())
    gc.collect()
    empty = process.memory_info().rss
    begin = time.perf_counter()
    served = await supervisor.assign(range(PARTITIONS))
    claimed = time.perf_counter() - begin
    if len(served) != PARTITIONS:
        raise RuntimeError(f"expected {PARTITIONS} partitions to be served, found {served}")
    gc.collect()
    entities = sum(len(engine.entities) for engine in supervisor.engines.values())
    _tell(claim=claimed, entities=entities, bytes=process.memory_info().rss - empty, rss=process.memory_info().rss)
    tending = asyncio.create_task(supervisor.tend())
    await _at_rest()
    rested = time.perf_counter() - begin - QUIET_SECONDS
    spent, begin = time.process_time(), time.perf_counter()
    await asyncio.sleep(todo.idle_seconds)
    _tell(idle_cpu=(time.process_time() - spent) / (time.perf_counter() - begin), rest=rested)
    for engine in supervisor.engines.values():
        if engine.snapshots is not None:
            await engine.snapshots.take()
    _tell(snapshots=1)
    await asyncio.to_thread(sys.stdin.readline)
    tending.cancel()


if __name__ == "__main__":
    asyncio.run(main())
