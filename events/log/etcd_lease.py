"""A lease that is kept alive while its holder lives: for registering a node, a gateway, a leader.

Holding a lease proves nothing to anyone else: what must not happen twice is fenced by a compare in its own write.
"""

import asyncio
from types import TracebackType
from typing import Protocol

from events.log.errors import EtcdRefused, LogUnavailable


class _Leases(Protocol):
    async def grant_lease(self, ttl_s: int) -> int: ...
    async def revoke_lease(self, lease: int) -> None: ...
    async def keep_lease_alive(self, lease: int) -> int: ...


class KeptLease:
    """An async context manager. `id` is valid inside; leaving it revokes the lease and so deletes its keys."""

    def __init__(self, client: _Leases, ttl_s: int) -> None:
        self._client = client
        self._ttl_s = ttl_s
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.id = 0

    async def __aenter__(self) -> "KeptLease":
        self.id = await self._client.grant_lease(self._ttl_s)
        self._task = asyncio.create_task(self._keep(), name=f"etcd-lease-{self.id:x}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        try:
            await self._client.revoke_lease(self.id)
        except (EtcdRefused, LogUnavailable):
            # Gone already, or it will lapse by itself.
            pass

    async def lost(self) -> None:
        """Wait until the lease is gone although it was kept: its keys are deleted, register again with a new one."""
        await self._lost.wait()

    async def _keep(self) -> None:
        try:
            while True:
                await asyncio.sleep(self._ttl_s / 3)
                try:
                    if await self._client.keep_lease_alive(self.id) <= 0:
                        return
                except LogUnavailable:
                    # etcd decides whether the lease has ended, not our clock: ask again.
                    continue
        finally:
            self._lost.set()
