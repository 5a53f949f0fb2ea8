"""A log on a real etcd, filled with whole partitions of history, and processes that work on it: for replay, recovery.

Knows how to fill and how to talk to a worker; nothing of what is measured.
"""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks.partitions import idle_components, partition
from benchmarks.platform_run import PROJECT
from events.log.embedded import EmbeddedEtcd
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.port import PartitionWriter
from events.log.records import EventRecord

PARTITIONS = 4
QUOTA_BYTES = 4 << 30  # a million events take some 200 MiB, and nothing is compacted here
SUBMITTED_AT_ONCE = 2048  # commands on their way
ANSWER_SECONDS = 300.0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a benchmark's log is; workers get it as JSON. `archive`: a directory, empty for none."""

    etcd: EtcdSettings
    archive: str = ""


@asynccontextmanager
async def etcd_place() -> AsyncIterator[Place]:
    """An etcd of this run's own, and a directory for its archive; both gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rf-bench-"))
    etcd = EmbeddedEtcd(directory, quota_bytes=QUOTA_BYTES)
    try:
        yield Place(etcd=await etcd.ensure(), archive=str(directory / "archive"))
    finally:
        await etcd.stop()
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """`idle`: how many of its streams are components that were never deployed."""

    events: int
    streams: int
    idle: int


async def fill(place: Place, number: int, events: int, *, streams_of: int = 200, entities: int = 0) -> Filled:
    """Append a partition's history: `events` events or a few more of lives about `streams_of` long, then as many idle
    components as make its streams exactly `entities` (0: as they come)."""
    log = EtcdEventLog(place.etcd, partitions=PARTITIONS)
    await log.open()
    writer = await log.claim(number, "filler")
    streams = await _append_all(writer, partition(events=events, streams_of=streams_of))
    idle = max(0, entities - streams)
    streams += await _append_all(writer, idle_components(idle))
    if entities and (not idle or streams != entities):
        raise ValueError(f"expected {entities} streams, some of them idle, found {streams}: make lives longer")
    count = writer.next_offset
    await writer.release()
    await log.close()
    return Filled(events=count, streams=streams, idle=idle)


async def _append_all(writer: PartitionWriter, commands: Iterable[list[EventRecord]]) -> int:
    """Returns of how many streams they are."""
    streams: set[str] = set()
    waiting = []
    for command in commands:
        streams.update(record.stream for record in command)
        waiting.append(writer.submit(command[0].command_id, command))
        if len(waiting) >= SUBMITTED_AT_ONCE:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    return len(streams)


class Worker:
    """A process of its own: `python -m MODULE` with a JSON line of what to do; it answers in JSON lines."""

    def __init__(self, module: str, **todo: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        self.say(msgspec.json.encode(todo).decode())

    def say(self, line: str) -> None:
        """Send it a line."""
        if self._process.stdin is not None:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    async def answer(self) -> dict[str, float]:
        """Its next line. Raises RuntimeError when it ended instead; its complaint is on stderr."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), ANSWER_SECONDS)
        if not line:
            raise RuntimeError(f"expected an answer of worker {self.pid}, found its end: exit {self._process.wait()}")
        return msgspec.json.decode(line, type=dict[str, float])

    async def kill(self) -> None:
        """As kill -9."""
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def end(self) -> None:
        """Wait for its end; it has answered all there was."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await asyncio.to_thread(self._process.wait, 30)
