"""Has etcd forget old versions and deleted keys, once in a while for the whole cluster, whoever's turn it is.

Knows one key that elects; nothing of the log. Reading is never hurt: whoever watches from a forgotten revision lists.
"""

import asyncio

import msgspec

from events.failpoints import failpoint
from events.log.errors import EtcdRefused, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import KeyValue
from events.log.keys import Keys

INTERVAL_S = 300.0


class CompactionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The store's `revision` when somebody last compacted, to what the one before had noted. `at` in microseconds."""

    revision: int
    at: int


class Compactor:
    """As many as there are processes: the record is compared with what each saw an interval ago, so one wins.

    The winner compacts to the revision that was noted one interval before, so at least that much history stays for
    watchers. No clock is compared between machines: each measures its own interval since it saw the record change.
    """

    def __init__(self, client: EtcdClient, keys: Keys, *, interval_s: float = INTERVAL_S) -> None:
        self._client = client
        self._key = keys.compaction
        self._interval_s = interval_s
        self._seen = -1
        self._changed_at = 0.0

    async def tick(self, now_us: int) -> bool:
        """Compact if nobody did for an interval; whether this one did. Raises LogUnavailable."""
        stored = await self._client.get(self._key)
        seen = 0 if stored is None else stored.mod_revision
        now = asyncio.get_running_loop().time()
        if seen != self._seen:
            self._seen, self._changed_at = seen, now
            return False
        if now - self._changed_at < self._interval_s:
            return False
        if not await self._elect(seen, await self._client.revision(), now_us):
            return False
        failpoint("log.compact.elected")
        if stored is not None:
            await self._compact(_decode(stored).revision)
        return True

    async def now(self, now_us: int) -> None:
        """Compact up to the present, because much was deleted. Raises LogUnavailable."""
        wanted = await self._client.revision()
        stored = await self._client.get(self._key)
        if stored is not None and _decode(stored).revision >= wanted:
            return
        try:
            await self._elect(0 if stored is None else stored.mod_revision, wanted, now_us)
        except LogUnavailable:
            # An etcd without space takes no put; it takes a compaction, which twice does no harm.
            pass
        failpoint("log.compact.elected")
        await self._compact(wanted)

    async def touch(self, now_us: int) -> None:
        """Have etcd commit: it counts freed pages as free only with some commits after the compaction.

        An etcd that is started so as to commit rarely (`flags_against_loss`) does so at once for a compaction only, and
        one put makes a revision that can be compacted. What lies before was forgotten a moment ago anyway.
        """
        stored = await self._client.get(self._key)
        if stored is None:
            return
        try:
            if await self._elect(stored.mod_revision, stored.mod_revision, now_us):
                await self._compact(stored.mod_revision)
        except LogUnavailable:
            # No space for it: then pages are given back otherwise.
            pass

    async def _elect(self, seen: int, revision: int, now_us: int) -> bool:
        record = msgspec.json.encode(CompactionRecord(revision=revision, at=now_us))
        return await self._client.compare_and_put(self._key, record, mod_revision=seen)

    async def _compact(self, revision: int) -> None:
        try:
            await self._client.compact(revision)
        except EtcdRefused:
            # Compacted as far already, by another or by this one before a reply was lost.
            pass


def _decode(stored: KeyValue) -> CompactionRecord:
    try:
        return msgspec.json.decode(stored.value, type=CompactionRecord)
    except msgspec.MsgspecError:
        # Nothing depends on it: a new one is written over it.
        return CompactionRecord(revision=0, at=0)
