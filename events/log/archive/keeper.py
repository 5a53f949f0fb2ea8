"""Keeps a log within etcd's quota: archives by age and by budget, compacts, and gives pages back when it must.

Decides when; how a segment is made, who compacts and what fills etcd are its neighbours'. Knows no actor and no HTTP.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from events.clock import now_micros
from events.failpoints import failpoint
from events.log.archive.archiver import LEAST_BYTES, SEGMENT_BYTES, ArchivePolicy, Archiver, Reach
from events.log.archive.compactor import INTERVAL_S, Compactor
from events.log.archive.manifest import SegmentManifest
from events.log.archive.meter import PartitionMeter, PartitionUse
from events.log.archive.space import Budget, Space, is_full, measure
from events.log.blobs import BlobStore
from events.log.errors import ArchiveUnavailable, LogBroken, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_members import EtcdMembers
from events.log.etcd_store import EtcdStore
from events.log.keys import Keys

ROUND_S = 1.0
AGE_ROUND_S = 300.0
STEPS_A_ROUND = 16
"""Segments made before the quota is looked at again."""
SLACK = 0.05
"""Archive to this share of the quota below the hot budget, so that it does not begin again at once."""
RECLAIM_S = 5.0
"""A compaction works in the background, and etcd needs some commits more until freed pages count as free."""
RETRY_S = 10.0
"""After the archive did not answer, or room could not be made."""
DEFRAGMENT_FILE_SHARE = 0.85
DEFRAGMENT_FREE_SHARE = 0.40
DEFRAGMENT_EVERY_S = 3600.0
DEFRAGMENT_REFUSING_S = 60.0
"""As long as nothing is appended because of the file's size, though it is mostly of free pages."""


class KeeperStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper did and sees. Times in microseconds since 1970, 0: never. `trouble` in words, empty if none."""

    space: Space
    refusing: bool
    warned: bool
    last_archived_at: int = 0
    last_compacted_at: int = 0
    last_defragmented_at: int = 0
    trouble: str = ""


class _Marks(msgspec.Struct, kw_only=True):
    """When things were last done here: microseconds since 1970 to be shown, the loop's clock to be waited by."""

    archived_at: int = 0
    compacted_at: int = 0
    defragmented_at: int = 0
    defragmented: float = float("-inf")
    aged: float = float("-inf")
    archive_away: float = float("-inf")
    relieved: float = float("-inf")
    reclaiming: float = float("-inf")


def policy_for(quota_bytes: int, retain_s: float) -> ArchivePolicy:
    """Segments of a small etcd are small, so that a few partitions' worth of them fit into its hot budget."""
    segment = min(SEGMENT_BYTES, quota_bytes // 32)
    return ArchivePolicy(retain_s=retain_s, segment_bytes=segment, least_bytes=min(LEAST_BYTES, segment // 8))


class LogKeeper:
    """One is enough; two, while one takes over from another, do no harm: each step compares before it changes."""

    def __init__(
        self,
        *,
        client: EtcdClient,
        members: EtcdMembers,
        blobs: BlobStore,
        partitions: int,
        budget: Budget,
        policy: ArchivePolicy | None = None,
        compact_every_s: float = INTERVAL_S,
        on_warning: Callable[[str], None] = lambda words: None,
    ) -> None:
        keys = Keys(client.settings.namespace)
        self._client = client
        self._members = members
        self._budget = budget
        self._hot = EtcdStore(client, keys)
        policy = policy or policy_for(budget.quota_bytes, ArchivePolicy().retain_s)
        self._segment_bytes = policy.segment_bytes
        self._archiver = Archiver(hot=self._hot, blobs=blobs, policy=policy)
        self._compactor = Compactor(client, keys, interval_s=compact_every_s)
        self._meters = [PartitionMeter(self._hot, partition) for partition in range(partitions)]
        self._on_warning = on_warning
        self._marks = _Marks()
        self._warned = self._full = False
        self._space: Space | None = None
        self._trouble: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    async def round(self) -> Space:
        """Look at the quota and do what is due. Raises LogUnavailable when etcd does not answer.

        An archive that does not answer, or one damaged partition, is `trouble`: the rest goes on.
        """
        async with self._one_at_a_time:
            space = await self._measure()
            self._warn(space)
            if space.no_space and self._is_due(self._marks.relieved, RETRY_S):
                space = await self._relieve()
            if self._is_due(self._marks.archive_away, RETRY_S):
                try:
                    await self._make_room(space)
                except ArchiveUnavailable as error:
                    self._marks.archive_away = self._clock()
                    self._note_trouble("archive", str(error))
            if await self._compactor.tick(now_micros()):
                self._marks.compacted_at = now_micros()
            await self._defragment(space)
            return space

    async def archive(self, partitions: Sequence[int], *, everything: bool) -> list[SegmentManifest]:
        """Archive what the policy lets go, or `everything` but each partition's last batch, now. Raises LogError."""
        made: list[SegmentManifest] = []
        async with self._one_at_a_time:
            for partition in partitions:
                while (manifest := await self._step(partition, Reach(young=everything, small=True))) is not None:
                    made.append(manifest)
            if made:
                await self._compact()
        return made

    async def uses(self) -> list[PartitionUse]:
        """What each partition keeps where. Raises LogUnavailable."""
        async with self._one_at_a_time:
            return [await meter.measure() for meter in self._meters]

    async def status(self) -> KeeperStatus:
        """As of the last round. Raises LogUnavailable before the first."""
        space = self._space or await self._measure()
        return KeeperStatus(
            space=space,
            refusing=self._full,
            warned=self._warned,
            last_archived_at=self._marks.archived_at,
            last_compacted_at=self._marks.compacted_at,
            last_defragmented_at=self._marks.defragmented_at,
            trouble="; ".join(self._trouble.values()),
        )

    # -- space

    async def _measure(self) -> Space:
        if not self._is_due(self._marks.reclaiming, RECLAIM_S):
            await self._compactor.touch(now_micros())
        self._space = measure(self._budget, await self._members.statuses())
        self._full = is_full(self._budget, self._space, was=self._full)
        return self._space

    async def _excess(self, space: Space) -> int:
        """Bytes that should leave etcd, to a little below the hot budget; 0 or less for none.

        What is in use holds much that was deleted already and is not free yet, so the hot batches themselves are
        counted. Only when etcd had time to free all that was deleted is what remains, small keys and etcd's own, too.
        """
        if space.share < self._budget.hot:
            return 0
        for meter in self._meters:
            await meter.measure()
        target = int((self._budget.hot - SLACK) * self._budget.quota_bytes)
        excess = sum(meter.hot_bytes for meter in self._meters) - target
        if excess <= 0 and self._is_due(self._marks.reclaiming, RECLAIM_S):
            return space.in_use - target
        return excess

    def _warn(self, space: Space) -> None:
        over = space.share >= self._budget.warn or space.no_space
        if over and not self._warned:
            self._on_warning(
                f"etcd uses {space.share:.0%} of its quota of {space.quota_bytes} bytes; the archive should keep it "
                f"below {self._budget.hot:.0%}, and appends are refused from {self._budget.refuse:.0%} on"
            )
        self._warned = over

    async def _make_room(self, space: Space) -> None:
        """Archive what the budget demands, else what is old enough; then have etcd forget what was deleted."""
        made = 0
        if (excess := await self._excess(space)) > 0:
            made = await self._shrink(excess)
        elif self._is_due(self._marks.aged, AGE_ROUND_S):
            self._marks.aged = self._clock()
            for partition in range(len(self._meters)):
                while await self._try_step(partition, Reach()) is not None:
                    made += 1
        self._note_trouble("archive", "")
        if made:
            await self._compact()

    async def _shrink(self, excess: int) -> int:
        """Archive, from whichever partition keeps most hot, until `excess` bytes left etcd or nothing more can.

        Returns how many segments it made.
        """
        stuck: set[int] = set()
        made = 0
        while made < STEPS_A_ROUND and excess > 0:
            candidates = [p for p in range(len(self._meters)) if p not in stuck and self._meters[p].hot_bytes > 0]
            if not candidates:
                break
            partition = max(candidates, key=lambda p: self._meters[p].hot_bytes)
            manifest = await self._try_step(partition, Reach(young=True))
            if manifest is None:
                stuck.add(partition)
                continue
            made += 1
            excess -= manifest.bytes
            await self._meters[partition].measure()
        return made

    async def _try_step(self, partition: int, reach: Reach) -> SegmentManifest | None:
        """One damaged partition stays as it is, and is told; the others go on."""
        try:
            manifest = await self._step(partition, reach)
        except LogBroken as error:
            self._note_trouble(f"partition {partition}", str(error))
            return None
        self._note_trouble(f"partition {partition}", "")
        return manifest

    async def _step(self, partition: int, reach: Reach) -> SegmentManifest | None:
        manifest = await self._archiver.step(partition, reach)
        if manifest is not None:
            self._marks.reclaiming = self._clock()
            self._marks.archived_at = now_micros()
        return manifest

    async def _compact(self) -> None:
        await self._compactor.now(now_micros())
        self._marks.compacted_at = now_micros()
        self._marks.reclaiming = self._clock()

    def _note_trouble(self, what: str, words: str) -> None:
        """Told once, when it begins or changes; empty when it is over."""
        if words and self._trouble.get(what) != words:
            self._on_warning(f"{what}: {words}")
        if words:
            self._trouble[what] = words
        else:
            self._trouble.pop(what, None)

    # -- etcd's own file

    async def _relieve(self) -> Space:
        """etcd has raised its alarm: it takes deletes and compactions only. Make room with these, then disarm it.

        A delete that is part of a transaction it takes only while its file is below the quota: so first the file is
        made as small as what is in it, then what is archived is deleted.
        """
        self._marks.relieved = self._clock()
        await self._condense()
        try:
            swept = sum([await self._archiver.sweep(partition) for partition in range(len(self._meters))])
        except LogUnavailable:
            swept = 0
        if swept:
            await self._condense()
        space = await self._measure()
        failpoint("log.keeper.relieved")
        if space.file_share < self._budget.file:
            await self._members.disarm_no_space()
            self._note_trouble("etcd", "")
            return await self._measure()
        self._note_trouble(
            "etcd",
            f"expected less than {self._budget.file:.0%} of its quota of {space.quota_bytes} bytes in use after all "
            f"that is archived was deleted, found {space.file_share:.0%}; give it a larger quota",
        )
        return space

    async def _defragment(self, space: Space) -> None:
        """Give free pages back where a file came near the quota and is mostly air; one member after another.

        A steady hot set never needs it: freed pages are used again before the file grows.
        """
        every_s = DEFRAGMENT_EVERY_S if space.file_share < self._budget.file else DEFRAGMENT_REFUSING_S
        if space.file_share < DEFRAGMENT_FILE_SHARE or not self._is_due(self._marks.defragmented, every_s):
            return
        members = await self._members.statuses()
        if len(members) < len(self._client.settings.endpoints):
            # One is away already: another that answers nobody for a while could cost the majority.
            return
        for member in members:
            free = 1 - member.db_in_use / member.db_size
            if member.db_size >= DEFRAGMENT_FILE_SHARE * self._budget.quota_bytes and free >= DEFRAGMENT_FREE_SHARE:
                await self._rewrite(member.endpoint)

    async def _condense(self) -> None:
        """Have each member forget what was deleted, and give back its pages."""
        await self._compact()
        for member in await self._members.statuses():
            await self._rewrite(member.endpoint)

    async def _rewrite(self, endpoint: str) -> None:
        await self._members.defragment(endpoint)
        self._marks.defragmented = self._clock()
        self._marks.defragmented_at = now_micros()

    def _is_due(self, last: float, every_s: float) -> bool:
        return self._clock() - last >= every_s

    @staticmethod
    def _clock() -> float:
        return asyncio.get_running_loop().time()
