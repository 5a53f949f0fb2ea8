"""A member of the queue: a key on a lease that says "what I claimed stands", and a new one when etcd lets it go.

Knows nothing of tasks. The lease proves nothing to anyone: each word on a claim is fenced by the claim itself.
"""

import asyncio
import uuid
from collections.abc import Callable

import structlog

from events.log.errors import EtcdRefused, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.queue.keys import QueueKeys

log = structlog.get_logger("queue")

SESSION_SECONDS = 8
"""How long after a member's death its claims stand on; renewed three times as often."""
DEDUPE_SECONDS = 300
"""How long the id of a task that is done is remembered; NATS JetStream does it for 120 s."""
SHARE_SECONDS = 10.0
SHARE_IDS = 4000
"""So many ids, or so long a time, share a lease: etcd deletes the keys of a lease that ends in one go."""
RETRY_SECONDS = 0.2


class Session:
    """`id` empty: there is none just now. `alone`: whoever else has this name is dead, or is to be taken for dead.
    `came_up` is called with each new session."""

    def __init__(
        self, client: EtcdClient, keys: QueueKeys, name: str, *, alone: bool, came_up: Callable[[], None]
    ) -> None:
        self.id = ""
        self.lease = 0
        self.up = asyncio.Event()
        self._client = client
        self._keys = keys
        self._name = name
        self._alone = alone
        self._came_up = came_up
        self._gone = asyncio.Event()

    def gone(self, session: str) -> None:
        """A transaction found that etcd has this session no more; of one before the present it says nothing new."""
        if session == self.id:
            self._down()
            self._gone.set()

    async def run(self) -> None:
        """Be a member, for ever; the session is ended when this task is cancelled."""
        while True:
            try:
                if self._alone:
                    await self._end_namesakes()
                if not await self._one():
                    return
                log.warning("etcd let the queue's session go, another one is made", member=self._name)
            except (LogUnavailable, EtcdRefused) as error:
                log.info("no session with the queue yet", member=self._name, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _one(self) -> bool:
        """One session from its beginning to its end; False when another process has taken the name over."""
        self._gone.clear()
        async with self._client.lease(SESSION_SECONDS) as lease:
            ident = uuid.uuid4().hex[:16]
            # Never written again, lest a request that arrives twice make it another version than claims expect.
            await self._client.put_if_absent(self._keys.session(ident), self._name.encode(), lease=lease.id)
            self.id, self.lease = ident, lease.id
            self.up.set()
            self._came_up()
            lost = asyncio.ensure_future(lease.lost())
            gone = asyncio.ensure_future(self._gone.wait())
            try:
                await asyncio.wait((lost, gone), return_when=asyncio.FIRST_COMPLETED)
                if self._alone and not lost.done() and await self._client.keep_lease_alive(lease.id) > 0:
                    # The lease lives and the key does not: it was deleted, by a process that was started in our place.
                    log.error("another process took this member's name; it claims no more", member=self._name)
                    return False
                return True
            finally:
                self._down()
                lost.cancel()
                gone.cancel()

    def _down(self) -> None:
        self.id = ""
        self.up.clear()

    async def _end_namesakes(self) -> None:
        """An earlier process of this name died, and Ray starts the next one long before its lease ends."""
        for item in await self._client.get_prefix(self._keys.sessions):
            if item.value.decode() == self._name:
                await self._client.delete(item.key)


class DedupeLease:
    """The lease on which the ids of tasks that are done are remembered for a while."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._lease = 0
        self._left = 0
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def get(self, ids: int) -> int:
        """A lease for so many more ids. Raises LogUnavailable."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._left < ids or now >= self._until:
                self._lease = await self._client.grant_lease(DEDUPE_SECONDS)
                self._left, self._until = max(SHARE_IDS, ids), now + SHARE_SECONDS
            self._left -= ids
            return self._lease
