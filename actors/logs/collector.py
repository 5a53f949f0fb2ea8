"""Follows the output of every instance on this node and hands it to the log server, each line once, in order.

Reads no faster than the server acknowledges; what waits, waits in the instance's own segments. Knows nothing of
processes: it is told which instances there are, and sees in their directories when one has ended.
"""

import asyncio
import hashlib
import logging
from pathlib import Path

from actors.logs.background import Background
from actors.logs.client import LogClient
from actors.logs.drain import Drain
from actors.logs.drivers.named import driver_for
from actors.logs.drivers.port import BadDriver
from actors.logs.errors import LogError
from actors.logs.file_follower import FileFollower
from actors.logs.followed import Followed, FollowedBook
from actors.logs.inotify import DirectoryWatcher
from actors.logs.instance_follower import CollectorStats, InstanceFollower
from actors.runtime.record import hidden_texts
from actors.runtime.shim.files import HOME
from actors.runtime.shim.masking import Masking

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 2.0


class Collector:
    """Use `start` before, `aclose` after; both, like `follow`, on the event loop."""

    def __init__(self, client: LogClient, state_dir: Path) -> None:
        self.stats = CollectorStats()
        self._client = client
        self._book = FollowedBook(state_dir)
        self._tasks = Background("log collector")
        self._ended: dict[str, asyncio.Event] = {}
        self._watcher: DirectoryWatcher | None = None

    async def start(self) -> None:
        """Go on with the instances that were followed when the collector last stopped."""
        self._watcher = DirectoryWatcher()
        for followed in await asyncio.to_thread(self._book.all):
            self._follow(followed)

    async def aclose(self) -> None:
        """Stop; positions are with the server, the next collector goes on."""
        await self._tasks.aclose()
        if self._watcher is not None:
            self._watcher.close()

    async def follow(self, followed: Followed) -> None:
        """Follow an instance until it has ended and all it printed is stored. May be repeated.

        Whoever removes the directory of an instance waits for `drained` first.
        """
        self._tasks.check()
        if followed.instance_id not in self._ended:
            await asyncio.to_thread(self._book.add, followed)
            if followed.instance_id not in self._ended:
                self._follow(followed)

    async def drained(self, instance_id: str, seconds: float) -> bool:
        """Wait until all output of an instance that has ended is stored; False when `seconds` pass first.

        True at once for one that is not followed (any more).
        """
        ended = self._ended.get(instance_id)
        if ended is None:
            return True
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            return False
        return True

    def _follow(self, followed: Followed) -> None:
        instance_id = followed.instance_id
        self._ended[instance_id] = asyncio.Event()
        self.stats.instances += 1
        self._tasks.start(self._run(followed))

    async def _run(self, followed: Followed) -> None:
        assert self._watcher is not None  # noqa: S101 (started)
        follower = InstanceFollower(self._client, self._book, followed, self.stats, self._watcher)
        instance_id = followed.instance_id
        hidden = await asyncio.to_thread(hidden_texts, Path(followed.directory))
        files, drains = self._files(followed, Masking(hidden)), self._drains(followed)
        try:
            while not await self._attempt(follower):
                self.stats.failures += 1
                await asyncio.sleep(_RETRY_SECONDS)
            # Nothing writes any more: an application's own files are complete as well.
            for file, _ in files:
                file.finish()
            await asyncio.gather(*(task for _, task in files))
            for drain, task in drains:
                await _cancel(task)
                await drain.finish()
        finally:
            follower.close()
            for file, task in files:
                task.cancel()
                file.close()
            for _, task in drains:
                task.cancel()
            self.stats.instances -= 1
            self._ended.pop(instance_id).set()

    def _files(self, followed: Followed, masking: Masking) -> list[tuple[FileFollower, asyncio.Task[None]]]:
        assert self._watcher is not None  # noqa: S101 (started)
        home, files = Path(followed.directory) / HOME, []
        for name in followed.files:
            place = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
            file = FileFollower(
                self._client,
                self._watcher,
                path=home / name,
                root=home,
                stream=followed.stream,
                origin=followed.origin,
                state=self._book.directory / "files" / f"{followed.instance_id}.{place}.json",
                masking=masking,
            )
            files.append((file, self._tasks.start(file.run())))
        return files

    def _drains(self, followed: Followed) -> list[tuple[Drain, asyncio.Task[None]]]:
        drains = []
        for url in followed.drains:
            try:
                driver = driver_for(url, followed.whose)
            except BadDriver as error:
                _log.warning("log collector: %s: %s", followed.instance_id, error)
                continue
            place = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
            drain = Drain(
                self._client,
                driver,
                stream=followed.stream,
                instance=followed.instance_id,
                state=self._book.directory / "drains" / f"{followed.instance_id}.{place}",
            )
            drains.append((drain, self._tasks.start(drain.run())))
        return drains

    async def _attempt(self, follower: InstanceFollower) -> bool:
        try:
            await follower.run()
        except (LogError, OSError) as error:
            _log.warning("log collector: %s: %s; trying again", follower.instance_id, error)
            return False
        return True


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
