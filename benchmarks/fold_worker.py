"""A process that folds one partition when told to: reads where on stdin, says it is ready, folds at the next line.

Must not know what the figures are compared with.
"""

import asyncio
import resource
import sys
import time
from pathlib import Path

import msgspec

from actors.cluster.garbage import collect_seldom
from benchmarks.partition_log import PARTITIONS, Place
from events.log.blobs import DirectoryBlobs
from events.log.etcd_log import EtcdEventLog
from events.replay.current import fold_partition
from events.scheduling import give_way


class Todo(msgspec.Struct, frozen=True, kw_only=True):
    place: Place
    partition: int


def _tell(**what: float) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


async def main() -> None:
    """Fold, and tell how long it took."""
    todo = msgspec.json.decode(sys.stdin.readline(), type=Todo)
    log = EtcdEventLog(todo.place.etcd, partitions=PARTITIONS, blobs=DirectoryBlobs(Path(todo.place.archive)))
    await log.open()
    collect_seldom()  # this and the next as every process of the platform
    give_way()
    _tell(ready=1)
    await asyncio.to_thread(sys.stdin.readline)
    begin, spent = time.perf_counter(), time.process_time()
    fold = await fold_partition(log, todo.partition)
    _tell(
        events=fold.folded,
        streams=len(fold.states),
        seconds=time.perf_counter() - begin,
        cpu=time.process_time() - spent,
        rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    )
    await log.close()


if __name__ == "__main__":
    asyncio.run(main())
