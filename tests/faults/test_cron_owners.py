"""Cron jobs while their owners are killed, paused, woken and absent: no tick is lost, none is had twice.

Owners are processes of their own, on a real etcd; what they did is read from the log and from the node's files.
"""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.records import EventRecord, partition_of
from events.model.base import Event, partition_key
from events.model.build import Source
from events.model.component_commands import CreateComponent, Deploy, SetCron
from events.model.component_events import (
    CronMissed,
    CronSet,
    CronSkipped,
    CronTicked,
    InstanceExited,
    InstanceStarting,
    InstanceStopped,
    TaskRequested,
)
from events.model.component_parts import Spec
from events.model.cron import CronJob, CronPolicy, next_tick, tick_text
from events.model.operation import ENDINGS
from events.model.registry import decode_event
from tests.events.model.component_world import SERVICE
from tests.faults.cron_process import FENCED, Owner
from tests.projections.recorder import RecordedWorld, Recorder

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]
ROOT = Path(__file__).resolve().parents[2]
STREAM = f"component/{SERVICE}"
NOON = int(datetime.fromisoformat("2026-05-01T12:00:00+00:00").timestamp()) * 1_000_000
LATE_SECONDS = 100
JOBS = {
    name: CronJob(name=name, schedule=schedule, command="x", policy=policy, late_seconds=LATE_SECONDS)
    for name, schedule, policy in (
        ("each", "* * * * *", CronPolicy.FORBID),
        ("beside", "*/2 * * * *", CronPolicy.ALLOW),
        ("instead", "* * * * *", CronPolicy.REPLACE),
    )
}
WAYS = ("ticked", "committed", "kill", "pause", "begun", "pause", "absent", "kill", "ticked")
WAIT_SECONDS = 30.0


class Story:
    """What the log says of one component, in order."""

    def __init__(self, records: list[EventRecord]) -> None:
        self.events: list[Event] = [decode_event(record) for record in records]

    def of(self, kind: type[Event], name: str = "") -> list[Event]:
        return [e for e in self.events if isinstance(e, kind) and (not name or getattr(e, "name", "") == name)]


async def begin(log: EtcdEventLog, partition: int) -> None:
    """A deployed component with its jobs, at noon."""
    recorder = Recorder()
    world = RecordedWorld(recorder, STREAM)
    world.send(
        CreateComponent(service_id=SERVICE, team="default", app="shop", name="web", process="web", spec=Spec(scale=0))
    )
    world.send(Deploy(source=Source(kind="upload", digest="d")))
    world.run()
    world.now = NOON
    for job in JOBS.values():
        world.send(SetCron(job=job))
    writer = await log.claim(partition, "teller")
    for record in recorder.records:
        await writer.append(record.event_id, [record])
    await writer.release()


async def start(told: Owner) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.cron_process", json.dumps(msgspec.to_builtins(told)),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


async def ran(process: asyncio.subprocess.Process, times: int) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        for _ in range(times):
            while (line := await process.stdout.readline()) != b"ran\n":
                assert line, "expected it to go on, found it ended"


async def befall(process: asyncio.subprocess.Process, way: str) -> asyncio.subprocess.Process | None:
    """What happens to an owner; returns one that is to be woken once another serves."""
    if way in ("ticked", "begun", "committed"):  # it kills itself there
        async with asyncio.timeout(WAIT_SECONDS):
            assert await process.wait() in (137, -signal.SIGKILL)
        return None
    await ran(process, 3)
    if way == "pause":
        process.send_signal(signal.SIGSTOP)
        return process
    process.kill()
    await process.wait()
    if way == "absent":
        await asyncio.sleep(4.0)  # four minutes of the clock: some ticks are too late
    return None


async def test_no_tick_is_lost_and_none_is_had_twice(
    etcd_settings: EtcdSettings, log: EtcdEventLog, tmp_path: Path
) -> None:
    partition = partition_of(partition_key(STREAM), log.partitions)
    await begin(log, partition)
    first = Owner(settings=etcd_settings, name="o", partition=partition, began=(time.time(), NOON), ran=str(tmp_path))
    paused: asyncio.subprocess.Process | None = None
    living: list[asyncio.subprocess.Process] = []
    try:
        for number, way in enumerate((*WAYS, "")):
            dies = way if way in ("ticked", "begun", "committed") else ""
            owner = await start(msgspec.structs.replace(first, name=f"o{number}", dies=dies))
            living.append(owner)
            if paused is not None:
                if not dies:
                    await ran(owner, 1)
                paused.send_signal(signal.SIGCONT)
                async with asyncio.timeout(WAIT_SECONDS):
                    assert await paused.wait() == FENCED, "the stale one ends by itself"
            paused = await befall(owner, way) if way else None
        await ran(living[-1], 8)
        living[-1].kill()
    finally:
        for process in living:
            if process.returncode is None:
                process.kill()
            await process.wait()

    records = [e.record async for part in log.read(partition, 0) for e in part if e.record.stream == STREAM]
    story = Story(records)
    for name in JOBS:
        every_tick_is_accounted_for(story, name)
    every_run_began_once_and_ended(story, {path.name for path in tmp_path.iterdir()})
    for name in ("each", "instead"):
        runs_do_not_overlap(story, name)
    assert story.of(CronMissed) and story.of(CronSkipped), "the test was hard enough"
    print(
        f"{len(WAYS)} owners cut off: {Counter(type(e).__name__ for e in story.events if 'Cron' in type(e).__name__)}"
    )


def every_tick_is_accounted_for(story: Story, name: str) -> None:
    """Run, skipped or missed: each tick of the schedule once, up to the last."""
    [set_up] = [event for event in story.of(CronSet) if isinstance(event, CronSet) and event.job.name == name]
    found: list[int] = []
    for event in story.of(CronTicked, name) + story.of(CronSkipped, name):
        assert isinstance(event, CronTicked | CronSkipped)
        found.append(event.tick)
    for event in story.of(CronMissed, name):
        assert isinstance(event, CronMissed)
        tick, missed = event.first, [event.first]
        while (tick := next_tick(JOBS[name], tick)) <= event.last:
            missed.append(tick)
        assert len(missed) == event.count and not event.more
        found += missed
    expected, tick = [], set_up.next_at
    while len(expected) < len(found):
        expected.append(tick)
        tick = next_tick(JOBS[name], tick)
    assert sorted(found) == expected


def every_run_began_once_and_ended(story: Story, began: set[str]) -> None:
    ticks = [event for event in story.of(CronTicked) if isinstance(event, CronTicked)]
    operations = [event.operation for event in ticks]
    assert operations == [f"cron-{SERVICE}-{event.name}-{tick_text(event.tick)}" for event in ticks]
    asked = [event.operation for event in story.of(TaskRequested) if isinstance(event, TaskRequested)]
    assert asked == operations, "each tick its run, in the same append"
    starts = Counter(e.task for e in story.of(InstanceStarting) if isinstance(e, InstanceStarting))
    assert max(starts.values()) == 1, "an operation never has two instances"
    instances = {e.instance for e in story.of(InstanceStarting) if isinstance(e, InstanceStarting)}
    assert began <= instances, "nothing ran that the log had not meant to"
    ended = Counter(str(getattr(e, "operation", "")) for e in story.events if type(e) in ENDINGS)
    assert all(ended[operation] <= 1 for operation in operations)
    unended = [operation for operation in operations if not ended[operation]]
    assert len(unended) <= len(JOBS) + 2, "all but those under way at the end"


def runs_do_not_overlap(story: Story, name: str) -> None:
    mine = {e.operation for e in story.of(TaskRequested) if isinstance(e, TaskRequested) and e.cron == name}
    alive: set[str] = set()
    for event in story.events:
        if isinstance(event, InstanceStarting) and event.task in mine:
            alive.add(event.instance)
            assert len(alive) == 1, f"two runs of {name} at once: {alive}"
        elif isinstance(event, InstanceExited | InstanceStopped):
            alive.discard(event.instance)
