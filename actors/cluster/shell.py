"""The shell every Ray actor here wears: opens its engine once, keeps its long tasks, dies rather than limp.

An actor's constructor has no effects, since Ray may run it while an earlier process still lives; the first call opens.
"""

import asyncio
import os
from collections.abc import Coroutine

import msgspec
import psutil
import structlog

from actors.cluster.garbage import collect_seldom
from actors.cluster.journal import open_journal
from actors.cluster.settings import PlatformSettings
from actors.cluster.tracing import configure
from events.model.pool import PoolState
from events.scheduling import give_way

log = structlog.get_logger("actor")

OPEN_SECONDS = 60.0
EXIT_FAILED = 70  # Ray starts the actor again

WORK = "work"


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How an actor is; `detail` in words, for a person, and `fix` what that one can do. `gauges` are what it measures
    of itself, by name: bytes, seconds and counts; `work` is what its pool is scaled by. `going`: it was asked to go,
    and takes on nothing new."""

    name: str
    pid: int
    ready: bool
    detail: str = ""
    fix: str = ""
    gauges: dict[str, float] = {}
    going: bool = False


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor of a pool that shares the log's partitions serves now. `unserved`: those given to it that it cannot
    serve, and why; a person must look. `pools`: decisions about pools that it knows from the log, where it owns it."""

    partitions: list[int]
    unserved: dict[int, str] = {}
    pools: list[PoolState] = []


class ActorShell:
    """Base of the actor classes. Subclasses give `open`, and `await self.opened()` first in every method.

    `gives_way`: whether its process, and what that starts, leaves the core to whoever is using it.
    """

    gives_way = True
    fix = ""
    """What a person does when it is not `fine`."""

    def __init__(self, name: str, settings: bytes) -> None:
        self.name = name
        self.settings = msgspec.json.decode(settings, type=PlatformSettings)
        self._opening: asyncio.Task[None] | None = None
        self._kept: set[asyncio.Task[None]] = set()
        self.going = False

    async def open(self) -> None:
        """Acquire everything; runs once, before any other method goes on."""
        raise NotImplementedError

    async def detail(self) -> str:
        """A few words for `rayfold status`."""
        return ""

    async def fine(self) -> bool:
        """Whether it does its work; False when it waits for a person, and `detail` then says for what."""
        return True

    async def gauges(self) -> dict[str, float]:
        """What it measures of its own work; see `Health`."""
        return {}

    async def drained(self) -> bool:
        """Asked once it is to go: take on nothing new from then on, and say whether nothing is left to do."""
        return True

    async def opened(self) -> None:
        """Wait until the actor is open. When opening fails the process ends, and Ray starts another."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
        await asyncio.shield(self._opening)

    async def health(self) -> Health:
        """Open if need be, and say how it is."""
        await self.opened()
        return Health(
            name=self.name,
            pid=os.getpid(),
            ready=await self.fine(),
            detail=await self.detail(),
            fix=self.fix,
            gauges={**_of_process(), **await self.gauges()},
            going=self.going,
        )

    async def drain(self) -> bool:
        """Be asked to go; True when it may be ended. Asked again and again until then. It cannot be taken back: one
        that is wanted again goes first, and begins anew."""
        self.going = True
        await self.opened()
        return await self.drained()

    def keep(self, work: Coroutine[object, object, None], what: str) -> None:
        """Run a task that must never end; when it does, the whole actor starts anew from the log."""
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._kept.add(task)
        task.add_done_callback(self._ended)

    async def _open(self) -> None:
        open_journal(self.settings.platform_logs, self.name)
        configure(self.name)
        if self.gives_way:
            give_way()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self.open()
        except BaseException as error:
            log.exception("could not open", actor=self.name, error=str(error))
            os._exit(EXIT_FAILED)
        collect_seldom()
        log.info("open", actor=self.name, pid=os.getpid())

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        log.error("a task that must not end has ended", actor=self.name, task=task.get_name(), exc_info=error)
        os._exit(EXIT_FAILED)


def _of_process() -> dict[str, float]:
    process = psutil.Process()
    with process.oneshot():
        spent = process.cpu_times()
        return {"rss_bytes": float(process.memory_info().rss), "cpu_seconds": spent.user + spent.system}
