"""Blobs as a process in a simulated world meets them: they take their time, fail, and keep what they said they did not.

Knows a real blob store that holds what is kept; nothing of segments.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from events.log.blobs import BlobStore, MemoryBlobs
from events.log.errors import ArchiveUnavailable
from tests.simulation.server import Weather
from tests.simulation.world import Process

_T = TypeVar("_T")


class EveryBlob(MemoryBlobs):
    """What is kept, and beside it all that ever was, for the judge."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: dict[str, bytes] = {}

    async def put(self, name: str, data: bytes) -> None:
        self.ever[name] = data
        await super().put(name, data)


class SimulatedBlobs:
    """A `BlobStore` over another, which all processes of the world share."""

    def __init__(self, process: Process, kept: BlobStore, weather: Weather) -> None:
        self._process = process
        self._kept = kept
        self._weather = weather

    async def put(self, name: str, data: bytes) -> None:
        await self._call("put", name, lambda: self._kept.put(name, data))

    async def get(self, name: str) -> bytes:
        return await self._call("get", name, lambda: self._kept.get(name))

    async def delete(self, name: str) -> None:
        await self._call("delete", name, lambda: self._kept.delete(name))

    async def names(self, prefix: str) -> list[str]:
        return await self._call("list", prefix, lambda: self._kept.names(prefix))

    async def _call(self, what: str, name: str, work: Callable[[], Awaitable[_T]]) -> _T:
        world, chance = self._process.world, self._process.world.chance
        await asyncio.sleep(2 * self._weather.slow_s * chance.random())
        if chance.random() < self._weather.lost_request:
            world.note(f"{self._process.name} {what} {name}: the archive is away")
            raise ArchiveUnavailable(f"{name}: simulated: nothing was done")
        done = await work()
        world.note(f"{self._process.name} {what} {name}")
        await asyncio.sleep(2 * self._weather.slow_s * chance.random())
        if chance.random() < self._weather.lost_reply:
            raise ArchiveUnavailable(f"{name}: simulated: it was done all the same")
        return done
