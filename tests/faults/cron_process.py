"""The owner of one partition in a process of its own, by a clock that runs sixty times as fast: a minute is a second.

Its node keeps a file for each instance that ever began there, and begins none twice, as an agent does. Exits with
FENCED when another owner took over; dies where it is told to. Knows nothing of what befalls it otherwise.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import msgspec

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from events.failpoints import arm
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.model.base import Envelope
from events.model.component_commands import ReportExited
from events.model.component_progress import Effect
from events.model.placement import Room
from events.model.registry import encode_command

FENCED = 3
FASTER = 60
RUN_SECONDS = (0.1, 1.4)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told. `began`: the real and the virtual time (s, µs) at which the clocks agreed; `dies`:
    `ticked` (a tick is durable, its run is not begun), `begun` (its run is begun, and nobody knows), or empty."""

    settings: EtcdSettings
    name: str
    partition: int
    began: tuple[float, int]
    ran: str
    dies: str = ""

    def now(self) -> int:
        """Virtual microseconds UTC."""
        return self.began[1] + int((time.time() - self.began[0]) * FASTER * 1e6)


class Hands:
    """Starts a run by making its file, lets it take a while, and tells of its end."""

    def __init__(self, told: Owner) -> None:
        self._told = told
        self._random = random.Random(told.name)

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        if effect.kind == "stop":
            await self._end(engine, entity, effect.key, signal=15)
        elif effect.kind == "start":
            if self._told.dies == "ticked":
                os.kill(os.getpid(), signal.SIGKILL)
            over_at = await asyncio.to_thread(self._begin, effect.key)
            if self._told.dies == "begun":
                os.kill(os.getpid(), signal.SIGKILL)
            print("ran", flush=True)
            await asyncio.sleep(max(0.0, over_at - time.time()))
            await self._end(engine, entity, effect.key)

    def _begin(self, instance: str) -> float:
        """When it will be over: it goes on while no owner looks."""
        path = Path(self._told.ran) / instance
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            pass  # an earlier owner began it, and the node knows it by its id
        return path.stat().st_mtime + self._random.uniform(*RUN_SECONDS)

    async def _end(self, engine: PartitionEngine, entity: Entity, instance: str, signal: int = 0) -> None:
        report = ReportExited(instance=instance, exit_code=0, signal=signal)
        await engine.handle(
            Envelope(stream=entity.stream, command=encode_command(report), command_id=f"{instance}.exited")
        )


async def main(told: Owner) -> int:
    """Serve the partition until fenced; returns the exit code."""
    event_log = EtcdEventLog(told.settings)
    await event_log.open()
    writer = await event_log.claim(told.partition, told.name, force=True)
    engine = PartitionEngine(
        event_log=event_log, writer=writer, runner=Hands(told), nodes=lambda: [Room(name="node1")], clock=told.now
    )
    if told.dies == "committed":
        arm("supervisor.after-commit", "exit")
    await engine.recover()
    while not engine.closed:
        await asyncio.sleep(0.02)
        await engine.nodes_changed()  # its timers count real seconds
    return FENCED if engine.fenced else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(msgspec.convert(json.loads(sys.argv[1]), Owner))))
