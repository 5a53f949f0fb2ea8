"""A process that owns one partition as a supervisor does: claims it, recovers it, answers a command, and waits.

Reads what to do on stdin, says it is ready, begins at the next line; each answer is a line. Effects are never carried
out: what they would do to the world is no part of recovering.
"""

import asyncio
import resource
import sys
import time
from pathlib import Path

import msgspec

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from actors.supervisor.snapshots import SnapshotPolicy
from benchmarks.histories import ROOMS
from benchmarks.partition_log import PARTITIONS, Place
from benchmarks.partitions import idle_stream
from events.log.blobs import DirectoryBlobs
from events.log.etcd_log import EtcdEventLog
from events.model.base import Envelope
from events.model.component_commands import ChangeSpec
from events.model.component_progress import Effect
from events.model.registry import encode_command

BEAT_SECONDS = 0.002


class Todo(msgspec.Struct, frozen=True, kw_only=True):
    """`idle`: how many idle components there are; commands change them in turn. `commands`: how many to answer.
    `snapshot`: take one before the last `tail` of them, whose events are then the tail."""

    place: Place
    partition: int
    name: str
    idle: int
    commands: int = 1
    tail: int = 0
    snapshot: bool = False


class NoEffects:
    """Leaves the world alone."""

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        await asyncio.Event().wait()


def _tell(**what: float) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


async def _answer(engine: PartitionEngine, todo: Todo, number: int) -> None:
    change = ChangeSpec(config_set={"GREETING": f"{todo.name}{number}"})
    stream = idle_stream(number % todo.idle)
    envelope = Envelope(stream=stream, command=encode_command(change), command_id=f"{todo.name}.{number}")
    reply = await engine.handle(envelope)
    if reply.error or reply.refusal:
        raise RuntimeError(f"expected command {number} of {todo.name} to be durable, found {reply}")


async def _answer_all(engine: PartitionEngine, todo: Todo, first: int, last: int) -> None:
    for start in range(first, last, 200):
        await asyncio.gather(*(_answer(engine, todo, number) for number in range(start, min(start + 200, last))))


class Beat:
    """How long the loop was held up at most: what another partition of the process would have waited."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(BEAT_SECONDS)
            self.longest = max(self.longest, time.perf_counter() - before - BEAT_SECONDS)

    def stop(self) -> None:
        self._task.cancel()


async def main() -> None:
    """Claim, recover, answer; tell how long each took."""
    todo = msgspec.json.decode(sys.stdin.readline(), type=Todo)
    blobs = DirectoryBlobs(Path(todo.place.archive)) if todo.place.archive else None
    log = EtcdEventLog(todo.place.etcd, partitions=PARTITIONS, blobs=blobs)
    await log.open()
    _tell(ready=1)
    await asyncio.to_thread(sys.stdin.readline)
    beat = Beat()
    begin, spent = time.perf_counter(), time.process_time()
    # By force: how long a dead owner's lease still lives is set, not measured.
    writer = await log.claim(todo.partition, todo.name, force=True)
    claimed = time.perf_counter()
    policy = SnapshotPolicy(events=1 << 40, seconds=1e9)
    engine = PartitionEngine(
        event_log=log, writer=writer, runner=NoEffects(), nodes=lambda: ROOMS, snapshots=policy
    )  # fmt: skip
    folded = await engine.recover()
    recovered = time.perf_counter()
    await _answer(engine, todo, 0)
    served, cpu = time.perf_counter(), time.process_time() - spent
    beat.stop()
    _tell(
        claim=claimed - begin,
        recover=recovered - claimed,
        append=served - recovered,
        total=served - begin,
        cpu=cpu,
        longest_pause=beat.longest,
        folded=folded,
        events=writer.next_offset,
        streams=len(engine.entities),
        rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    )
    await _answer_all(engine, todo, 1, todo.commands - todo.tail)
    if todo.snapshot:
        begin, spent = time.perf_counter(), time.process_time()
        if engine.snapshots is None or not await engine.snapshots.take():
            raise RuntimeError("expected a snapshot to be kept, found it given up")
        _tell(snapshot=time.perf_counter() - begin, cpu=time.process_time() - spent)
    await _answer_all(engine, todo, max(1, todo.commands - todo.tail), todo.commands)
    _tell(events=writer.next_offset)
    await asyncio.to_thread(sys.stdin.readline)
    await engine.close()
    await log.close()


if __name__ == "__main__":
    asyncio.run(main())
