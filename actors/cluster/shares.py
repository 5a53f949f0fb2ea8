"""How the partitions of the log are shared among a pool's actors: asked who serves what, then told, losers first.

Safety never rests on it: the log's fence, or a read model's checkpoints, decide whose word counts.
"""

import asyncio
from collections.abc import Sequence

import structlog

from actors.cluster.assignment import assign, next_step
from actors.cluster.directory import ActorUnreachable, Directory
from actors.cluster.shell import Serving
from events.failpoints import failpoint
from events.model.pool import PoolState

log = structlog.get_logger("reconciler")

ANSWER_SECONDS = 15.0


class Shares:
    """The partitions of one pool. `round` again and again brings everybody to their share."""

    def __init__(self, pool: str, partitions: int, directory: Directory, streams: Sequence[str] = ()) -> None:
        """`streams`: of pools, whose states the owners are asked for as well."""
        self._pool = pool
        self._partitions = partitions
        self._directory = directory
        self._streams = list(streams)
        self._given: dict[int, str] = {}
        self._serving: dict[int, str] = {}
        self._unserved: dict[int, tuple[str, str]] = {}

    @property
    def complete(self) -> bool:
        """Whether every partition was served when last asked."""
        return len(self._serving) == self._partitions

    @property
    def settled(self) -> bool:
        """Whether every partition was served, or found to be one that cannot be: waiting brings no more."""
        return len(self._serving.keys() | self._unserved.keys()) == self._partitions

    def unserved_by(self, name: str) -> list[str]:
        """What an actor said of partitions that it was given and cannot serve, when it was last asked."""
        return [why for owner, why in self._unserved.values() if owner == name]

    def owned(self) -> dict[str, list[int]]:
        """Who served what when last asked."""
        found: dict[str, list[int]] = {}
        for partition, owner in sorted(self._serving.items()):
            found.setdefault(owner, []).append(partition)
        return found

    def yet_to_move(self, staying: Sequence[str]) -> int:
        """How many partitions are not yet with the one of `staying` to whom they belong."""
        target = assign(self._partitions, list(staying))
        return sum(self._serving.get(p) != owner for owner, share in target.items() for p in share)

    def holds(self, name: str) -> bool:
        """Whether an actor serves something, or has been told to."""
        return name in self._serving.values() or name in self._given.values()

    async def round(self, *, staying: Sequence[str], going: Sequence[str]) -> list[PoolState]:
        """One step towards equal shares of those that stay. Returns what the owners know of pools."""
        everybody = [*staying, *going]
        answers = dict(zip(everybody, await asyncio.gather(*map(self._ask, everybody)), strict=True))
        self._note(answers)
        live = [name for name, answer in answers.items() if answer is not None]
        target = assign(self._partitions, [name for name in staying if name in live])
        if not target:
            return []
        before, self._given = self._given, next_step(
            target=target, given=self._given, serving=self._serving, live=live
        )  # fmt: skip
        failpoint("reconciler.before-assign")
        # Who loses a partition lets go of it first: then whoever gains it finds it free.
        losing = [name for name in live if any(before.get(p, name) == name != o for p, o in self._given.items())]
        for group in (losing, [name for name in live if name not in losing]):
            told = await asyncio.gather(*(self._tell(name) for name in group))
            answers |= dict(zip(group, told, strict=True))
        failpoint("reconciler.assigned")
        self._note(answers)
        return [state for answer in answers.values() if answer is not None for state in answer.pools]

    def _note(self, answers: dict[str, Serving | None]) -> None:
        told = {name: answer for name, answer in answers.items() if answer is not None}
        self._serving = {p: name for name, answer in told.items() for p in answer.partitions}
        self._unserved = {p: (name, why) for name, answer in told.items() for p, why in answer.unserved.items()}

    async def _ask(self, name: str) -> Serving | None:
        return await self._call(name, "serving", self._streams)

    async def _tell(self, name: str) -> Serving | None:
        share = sorted(p for p, owner in self._given.items() if owner == name)
        return await self._call(name, "assign", share, self._streams)

    async def _call(self, name: str, method: str, *arguments: object) -> Serving | None:
        try:
            found: Serving = await self._directory.call(name, method, *arguments, seconds=ANSWER_SECONDS)
        except ActorUnreachable as error:
            log.warning("an owner of partitions is away", pool=self._pool, actor=name, error=str(error))
            return None
        return found
