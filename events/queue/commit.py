"""Group commit: whatever steps arrive while a transaction is under way become the next one.

Knows transactions and their limits; nothing of what a step means.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from events.failpoints import failpoint
from events.log.errors import EtcdRefused, LogError, LogUnavailable
from events.log.etcd_wire import Condition, Get, KeyValue, Operation, TxnResult
from events.queue.steps import Step, Verdict, keys_written, size_of

MAX_OPERATIONS = 128
"""etcd's --max-txn-ops; each of a transaction's three lists is held against it."""
MAX_BYTES = 1 << 20
"""etcd takes requests of 1.5 MiB."""
RETRY_SECONDS = 0.1
GIVE_UP_SECONDS = 15.0
MAX_WAITING = 20_000
"""Steps that wait for their transaction; callers beyond that wait for room."""


class Transactions(Protocol):
    async def txn(
        self, *, when: Sequence[Condition] = (), then: Sequence[Operation] = (), otherwise: Sequence[Operation] = ()
    ) -> TxnResult: ...


class _Call:
    """The steps of one caller and what became of each."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.verdicts: list[Verdict | None] = [None] * len(steps)
        self.open = len(steps)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A caller that was cancelled does not ask any more.
        self.done.add_done_callback(lambda done: done.cancelled() or done.exception())

    def set(self, index: int, verdict: Verdict) -> None:
        self.verdicts[index] = verdict
        self.open -= 1
        if not self.open and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


_Item = tuple[Step, _Call, int]


class GroupCommit:
    """`submit` from anywhere on one loop; `run` as one task that must not end."""

    def __init__(self, store: Transactions) -> None:
        self._store = store
        self._waiting: deque[_Item] = deque()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    async def submit(self, steps: Sequence[Step]) -> list[Verdict]:
        """Commit steps; those of one caller in their order, each for itself. Raises LogUnavailable: outcome unknown."""
        if not steps:
            return []
        while len(self._waiting) >= MAX_WAITING and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise LogUnavailable("the queue was closed; open it again")
        call = _Call(steps)
        self._waiting.extend((step, call, index) for index, step in enumerate(steps))
        self._some.set()
        await asyncio.shield(call.done)
        return [verdict for verdict in call.verdicts if verdict is not None]

    async def run(self) -> None:
        """Send what waits, for ever. When it is cancelled all the same, nobody is left to wait."""
        try:
            while True:
                await self._some.wait()
                await self._send_next()
        finally:
            self.close()

    async def _send_next(self) -> None:
        batch = self._next()
        try:
            await self._send(batch)
        except LogError as error:
            for _, call, _ in batch:
                call.fail(error)
        except BaseException:
            for _, call, _ in batch:
                call.fail(LogUnavailable("the queue was closed under this call; its outcome is unknown"))
            raise
        if len(self._waiting) < MAX_WAITING:
            self._room.set()

    def close(self) -> None:
        """Refuse whatever still waits."""
        self._closed = True
        self._room.set()
        for _, call, _ in self._waiting:
            call.fail(LogUnavailable("the queue was closed before this was sent"))
        self._waiting.clear()

    def _next(self) -> list[_Item]:
        """As many of the waiting steps as one transaction takes."""
        batch: list[_Item] = []
        when: set[Condition] = set()
        reads: set[str] = set()
        written: set[str] = set()
        bytes_left = MAX_BYTES
        while self._waiting:
            step = self._waiting[0][0]
            keys, size = keys_written(step), size_of(step)
            full = (
                len(when) + sum(condition not in when for condition in step.when) > MAX_OPERATIONS
                or len(reads) + sum(key not in reads for key in step.reads) > MAX_OPERATIONS
                or len(written) + len(keys) > MAX_OPERATIONS
            )
            if batch and (full or size > bytes_left or not written.isdisjoint(keys)):
                break
            batch.append(self._waiting.popleft())
            when.update(step.when)
            reads.update(step.reads)
            written.update(keys)
            bytes_left -= size
        if not self._waiting:
            self._some.clear()
        return batch

    async def _send(self, batch: list[_Item]) -> None:
        """Until each step is applied or judged: a transaction fails whole, and its innocent steps are sent again."""
        while batch:
            steps = [step for step, _, _ in batch]
            failpoint("queue.before-commit")
            try:
                result, found = await self._transact(steps)
            except EtcdRefused:
                if len(batch) == 1:
                    raise
                # One of them names what etcd does not know (a lease that ended): the others must not suffer for it.
                await self._send_alone(batch)
                return
            failpoint("queue.after-commit")
            if result.succeeded:
                for _, call, index in batch:
                    call.set(index, Verdict(ok=True, revision=result.revision))
                return
            again: list[_Item] = []
            alone: list[_Item] = []
            for step, call, index in batch:
                if step.holds(found) and (step.tells or len(batch) > 1):
                    (again if step.tells else alone).append((step, call, index))
                    continue
                judged = step.judge(found)
                if isinstance(judged, Verdict):
                    call.set(index, judged)
                else:
                    again.append((judged, call, index))
            # Which of them it was that did not have its turn only a transaction of its own tells.
            await self._send_alone(alone)
            batch = again

    async def _send_alone(self, batch: list[_Item]) -> None:
        for item in batch:
            try:
                await self._send([item])
            except EtcdRefused as error:
                item[1].fail(error)

    async def _transact(self, steps: Sequence[Step]) -> tuple[TxnResult, Mapping[str, KeyValue | None]]:
        """The result, and, when nothing was applied, what stands now where the steps would have written."""
        when = list(dict.fromkeys(condition for step in steps for condition in step.when))
        then = [operation for step in steps for operation in step.then]
        # Sent again as it was: if it was applied before, the conditions fail and `judge` finds our own writing.
        result = await self._send_until_answered(when, then)
        if result.succeeded:
            return result, {}
        # Read only now, for almost none fails. What has changed meanwhile does no harm: a verdict is about what stands.
        reads = list(dict.fromkeys(key for step in steps for key in step.reads))
        found = (await self._send_until_answered([], [Get(key) for key in reads])).found
        return result, dict(zip(reads, found, strict=True))

    async def _send_until_answered(self, when: Sequence[Condition], then: Sequence[Operation]) -> TxnResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GIVE_UP_SECONDS
        while True:
            try:
                return await self._store.txn(when=when, then=then)
            except LogUnavailable:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
