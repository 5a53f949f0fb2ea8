"""One watch over all partitions for a whole process, fanned out to its followers.

It promises only to say when it may have missed something; followers page then, so a broken watch costs delay, not data.
"""

import asyncio
from collections.abc import Iterable

from events.failpoints import failpoint
from events.log.errors import Compacted, LogBroken, LogError, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import WatchNotice
from events.log.keys import Keys
from events.log.store import StoredBatch, Subscription

RETRY_FIRST_S = 0.1
RETRY_MOST_S = 2.0


class WatchHub:
    """Starts its watch with the first subscription and keeps it until `close`."""

    def __init__(self, client: EtcdClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        # In order of arrival: what a simulation sees must not hang on the order of a set.
        self._subscriptions: dict[Subscription, None] = {}
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, partitions: Iterable[int]) -> Subscription:
        """Live batches from now on. While no watch stands the subscription hears nothing, then that it lags."""
        subscription = Subscription(partitions)
        self._subscriptions[subscription] = None
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="log-watch")
            self._task.add_done_callback(self._on_task_done)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        pause = RETRY_FIRST_S
        while True:
            try:
                # Always from now, never from where the last watch broke: catching up by watch makes etcd read every
                # key's history. What lies between is paged by the followers, told to after the revision was read.
                revision = await self._client.revision()
                failpoint("log.hub.before-watch")
                async for notice in self._client.watch_prefix(self._keys.partitions, revision + 1, puts_only=True):
                    pause = RETRY_FIRST_S
                    self._deliver(notice)
            except (LogUnavailable, Compacted):
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST_S)

    def _deliver(self, notice: WatchNotice) -> None:
        if notice.created:
            for subscription in self._subscriptions:
                subscription.lag()
        for event in notice.events:
            if (place := self._keys.parse_batch(event.item.key)) is None:
                continue
            partition, base = place
            batch = StoredBatch(base, event.item.mod_revision, event.item.value)
            for subscription in self._subscriptions:
                subscription.offer(partition, batch)

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        """Whatever ended the watch for good, no follower waits for it in vain."""
        self._task = None
        reason: LogError = LogUnavailable("the log was closed; open it again")
        if not task.cancelled() and (error := task.exception()) is not None:
            reason = error if isinstance(error, LogError) else LogBroken(f"the log's watch died of {error!r}")
        for subscription in self._subscriptions:
            subscription.fail(reason)
