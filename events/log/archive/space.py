"""How full etcd is against its quota, and the gate that refuses appends before etcd itself would.

Knows shares and members' sizes; nothing of batches, nor of how room is made.
"""

import asyncio
from collections import deque

import msgspec

from events.log.errors import EtcdRefused, LogFull, LogUnavailable
from events.log.etcd_members import EtcdMembers, MemberStatus
from events.log.store import BatchSlots

MEASURE_EVERY_S = 1.0
MEASURE_AFTER_SHARE = 0.01
"""Measure again at once when this much of the quota was written here since: small quotas fill quickly."""
WAIT_AFTER_SHARE = 0.05
"""Write no more than this much of the quota without a measurement: others write too, and answers are lost."""
SEEN_AFTER_S = 1.0
"""etcd measures its file when it commits to it, every 0.1 s and later on a busy disk: what was written shortly before
a measurement is not in it."""


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of etcd's quota. What is *in use* is compared with all but the last, which is of the file's size.

    `hot`: the archive works above it. `warn`: it falls behind. `refuse`: nothing new is appended, until less than
    `resume`. etcd refuses every write once the *file* reaches the quota, whatever is free inside it, so at `file`
    nothing is appended either; freed pages are used again, so a file only gets there by a burst or torn into pieces.
    """

    quota_bytes: int
    hot: float = 0.40
    warn: float = 0.60
    refuse: float = 0.80
    resume: float = 0.75
    file: float = 0.95


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """The fullest member of each kind, in bytes. `no_space`: etcd's own alarm is up, it takes no write."""

    quota_bytes: int
    in_use: int
    file: int
    no_space: bool

    @property
    def share(self) -> float:
        return self.in_use / self.quota_bytes

    @property
    def file_share(self) -> float:
        return self.file / self.quota_bytes


def measure(budget: Budget, members: list[MemberStatus]) -> Space:
    """Each member keeps its own file and judges by it: the fullest one counts."""
    return Space(
        quota_bytes=budget.quota_bytes,
        in_use=max(member.db_in_use for member in members),
        file=max(member.db_size for member in members),
        no_space=any(member.no_space for member in members),
    )


def is_full(budget: Budget, space: Space, *, written: int = 0, was: bool) -> bool:
    """Whether nothing may be appended; `written` bytes are not in the measurement yet, `was`: it was so before."""
    used = (space.in_use + written) / budget.quota_bytes
    return space.no_space or used >= (budget.resume if was else budget.refuse) or space.file_share >= budget.file


class SpaceWatch:
    """The refusal gate of one process: `run` it as a task, ask `refuse` before each append, `note` what was written."""

    def __init__(self, members: EtcdMembers, budget: Budget) -> None:
        self._members = members
        self._budget = budget
        self._space: Space | None = None
        self._recent: deque[tuple[float, int]] = deque()
        self._written = 0
        """Bytes in `_recent`: written, and perhaps not in the last measurement."""
        self._measured_written = 0
        self._full = False
        self._wake = asyncio.Event()
        self._keeping_up = asyncio.Lock()

    async def run(self) -> None:
        """Measure for ever. While etcd does not answer the last measurement stands."""
        while True:
            try:
                await self.refresh()
            except (LogUnavailable, EtcdRefused):
                pass
            self._wake.clear()
            try:
                async with asyncio.timeout(MEASURE_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def refresh(self) -> Space:
        """Measure now."""
        asked_at = asyncio.get_running_loop().time()
        self._space = measure(self._budget, await self._members.statuses())
        # What may or may not be in the answer is counted once more, never missed.
        while self._recent and self._recent[0][0] < asked_at - SEEN_AFTER_S:
            self._written -= self._recent.popleft()[1]
        self._measured_written = self._written
        self._judge()
        return self._space

    def note(self, size: int) -> None:
        """This many bytes were written since the last measurement."""
        self._recent.append((asyncio.get_running_loop().time(), size))
        self._written += size
        if self._written - self._measured_written > MEASURE_AFTER_SHARE * self._budget.quota_bytes:
            self._wake.set()

    async def keep_up(self) -> None:
        """Wait for a measurement where much was written here since the last one.

        Without an answer what is on its way goes on, and waits again after as much more.
        """
        if not self._is_behind():
            return
        async with self._keeping_up:  # one asks for all the writers that wait
            if self._is_behind():
                try:
                    await self.refresh()
                except (LogUnavailable, EtcdRefused):
                    self._measured_written = self._written

    def _is_behind(self) -> bool:
        return self._written - self._measured_written > WAIT_AFTER_SHARE * self._budget.quota_bytes

    def refuse(self) -> LogFull | None:
        """Why nothing may be appended now; None when it may."""
        space = self._space
        if space is None:
            return None
        self._judge()
        if not self._full:
            return None
        return LogFull(
            used_bytes=space.in_use + self._written,
            budget_bytes=int(self._budget.refuse * self._budget.quota_bytes),
            advice=self._advice(space),
        )

    def _judge(self) -> None:
        if self._space is None:
            return
        self._full = is_full(self._budget, self._space, written=self._written, was=self._full)

    def _advice(self, space: Space) -> str:
        if space.no_space:
            return "etcd has raised its alarm of no space: see rayfold log stats for what holds up the archive"
        if space.share < self._budget.resume and space.file_share >= self._budget.file:
            return f"etcd's file has grown to {space.file} bytes, mostly of free pages: let it be defragmented"
        return "the archive does not keep up: see rayfold log stats for what holds it up"


class MeteredSlots:
    """A claim's slots that tell the gate how much went through them."""

    def __init__(self, slots: BatchSlots, watch: SpaceWatch) -> None:
        self._slots = slots
        self._watch = watch

    async def commit(self, *, base: int, previous: int | None, txn_id: str, value: bytes) -> int:
        await self._watch.keep_up()
        # Before the outcome is known: what may be stored is counted as stored.
        self._watch.note(len(value))
        return await self._slots.commit(base=base, previous=previous, txn_id=txn_id, value=value)

    async def hint(self, base: int) -> None:
        await self._slots.hint(base)

    async def give_up(self, last_base: int | None) -> None:
        await self._slots.give_up(last_base)
