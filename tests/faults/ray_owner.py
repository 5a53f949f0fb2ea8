"""The thinnest Ray actor that owns a partition: what Ray does to it shows in the log, whatever Ray believes.

Like the platform's own actors its constructor has no effects; it knows nothing of who restarts it.
"""

import asyncio
import os

import msgspec

from events.log.errors import Fenced, LogError
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.port import PartitionWriter
from tests.events.log.contract import event

FENCED = 3
TICK_SECONDS = 0.02


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    epoch: int
    offset: int
    duplicate: bool


class Owner:
    """Appends what it is asked to, and a tick of its own ever so often; dies when it is fenced."""

    def __init__(self, settings: bytes) -> None:
        self._settings = msgspec.json.decode(settings, type=EtcdSettings)
        self._writer: PartitionWriter | None = None
        self._opening = asyncio.Lock()
        self._ticking: asyncio.Task[None] | None = None

    async def append(self, command_id: str) -> Answer:
        async with self._opening:
            if self._writer is None:
                log = EtcdEventLog(self._settings)
                await log.open()
                self._writer = await log.claim(0, "owner")
                self._ticking = asyncio.get_running_loop().create_task(self._tick(self._writer))
        done = await self._writer.append(command_id, [event(f"s/{command_id}", 1, command=command_id)])
        return Answer(pid=os.getpid(), epoch=self._writer.epoch, offset=done.first.offset, duplicate=done.duplicate)

    async def _tick(self, writer: PartitionWriter) -> None:
        number = 0
        while True:
            number += 1
            command_id = f"tick-{writer.epoch}-{number}"
            try:
                await writer.append(command_id, [event(f"s/{command_id}", 1, command=command_id)])
            except Fenced:
                os._exit(FENCED)
            except LogError:
                continue
            await asyncio.sleep(TICK_SECONDS)
