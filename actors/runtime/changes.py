"""Hands status changes to whoever watches, coalesced per instance so that a slow watcher costs no memory.

Knows nothing of where changes come from.
"""

import asyncio
from collections.abc import AsyncIterator
from weakref import WeakSet

from actors.runtime.port import InstanceState, InstanceStatus

_OVER = (InstanceState.EXITED, InstanceState.LOST)


class Watch(AsyncIterator[list[InstanceStatus]]):
    """One watcher's view: at each step the last state of every instance that changed since the step before."""

    def __init__(self) -> None:
        self._waiting: dict[str, InstanceStatus] = {}
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, status: InstanceStatus) -> None:
        """Tell of a change."""
        self._waiting[status.instance_id] = status
        self._ready.set()

    def close(self) -> None:
        """End the iteration after what is waiting."""
        self._closed = True
        self._ready.set()

    async def __anext__(self) -> list[InstanceStatus]:
        await self._ready.wait()
        if not self._waiting and self._closed:
            raise StopAsyncIteration
        changes = list(self._waiting.values())
        self._waiting.clear()
        if not self._closed:
            self._ready.clear()
        return changes


class Changes:
    """All watchers; one that is no longer referred to is forgotten."""

    def __init__(self) -> None:
        self._watches: WeakSet[Watch] = WeakSet()
        self._last: dict[str, InstanceStatus] = {}

    def watch(self) -> Watch:
        """A new watcher, of changes from now on."""
        watch = Watch()
        self._watches.add(watch)
        return watch

    def tell(self, status: InstanceStatus) -> None:
        """Pass a status on unless it is the one told last, or older than an end that was told."""
        last = self._last.get(status.instance_id)
        if last == status or (last is not None and last.state in _OVER and status.state not in _OVER):
            return
        self._last[status.instance_id] = status
        for watch in list(self._watches):
            watch.put(status)

    def forget(self, instance_id: str) -> None:
        """The instance was removed."""
        self._last.pop(instance_id, None)

    def close(self) -> None:
        """End every watch."""
        for watch in list(self._watches):
            watch.close()
