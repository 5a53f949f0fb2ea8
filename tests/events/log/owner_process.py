"""An owner in a process of its own, for tests that pause and kill it: claims, repeats what it is told, then appends.

Exits with FENCED when another owner took over; writes all it saw into a history. Knows nothing of what befalls it.
"""

import asyncio
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from events.log.errors import Fenced, LogUnavailable
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.port import PartitionWriter
from tests.checker.history import Recorder
from tests.events.log.contract import event

FENCED = 3
CLIENTS = 4
ACKNOWLEDGED_FIRST = 12
"""Commands after which it says that it is under way."""


def serve(settings: EtcdSettings, name: str, history: Path, repeat: tuple[str, ...], told: Connection) -> None:
    """The process's main function: `told` gets one message when appends flow."""
    with history.open("w") as sink:
        fenced = False
        try:
            asyncio.run(_serve(settings, name, Recorder(sink=sink), repeat, told))
        except* Fenced:
            fenced = True  # and no exit from here: CPython before 3.11.4 would put it into a group
        if fenced:
            sys.exit(FENCED)


async def _serve(
    settings: EtcdSettings, name: str, recorder: Recorder, repeat: tuple[str, ...], told: Connection
) -> None:
    log = EtcdEventLog(settings)
    await log.open()
    writer = await recorder.claim(name, log, 0, force=True)
    for command in repeat:
        await _send(recorder, writer, name, command)
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        for n in range(1_000_000):
            await _send(recorder, writer, name, f"{name}.{number}.{n}")
            done += 1
            if done == ACKNOWLEDGED_FIRST:
                told.send("under way")

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number))


async def _send(recorder: Recorder, writer: PartitionWriter, name: str, command: str) -> None:
    # A stream for each command, and events that tell who proposed them.
    proposed = [event(f"s/{command}", 1, name, command=f"{command}/{name}")]
    while True:
        try:
            await recorder.append(name, writer, command, proposed)
            return
        except LogUnavailable:
            continue
