"""Long-running tasks with an owner that sees their exceptions, for objects started and closed by different callers.

A TaskGroup must be left by the task that entered it, which an actor's calls are not. Knows nothing of their work.
"""

import asyncio
import logging
from collections.abc import Coroutine

_log = logging.getLogger(__name__)


class Background:
    """Owns tasks. `check` raises the first failure of any of them; `aclose` cancels and awaits them all."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run `work` until it ends or `aclose`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = self._failure or error
            _log.error("%s: a background task failed", self._name, exc_info=error)

    def check(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise RuntimeError(f"{self._name}: a background task failed; restart it") from self._failure

    async def aclose(self) -> None:
        """Cancel what still runs and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
