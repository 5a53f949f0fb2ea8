"""Group commit over partitions: the appends of a process that wait for etcd at once go there in one transaction.

Knows transactions only; what one of them means, and what to do when it is refused, is whoever asked for it's business.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from events.log.errors import EtcdRefused, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import Condition, Operation, Put, TxnResult
from events.log.pace import Pace

GROUP_APPENDS = 32  # of three conditions each: etcd takes 128 of them in a transaction
GROUP_BYTES = 1 << 20  # of values: with keys and envelope below the 1.5 MiB that etcd takes


class _Append:
    """One transaction that waits, until `answer`."""

    __slots__ = ("answer", "otherwise", "size", "then", "when")

    def __init__(self, when: Sequence[Condition], then: Sequence[Put], otherwise: Sequence[Operation]) -> None:
        self.when = when
        self.then = then
        self.otherwise = otherwise
        self.size = sum(len(put.value) for put in then)
        self.answer: asyncio.Future[TxnResult] = asyncio.get_running_loop().create_future()


class GroupCommit:
    """Sends conditional puts, together where several wait. Their keys must differ: each is another partition's.

    While one group is on its way everything that arrives becomes the next one; nothing waits longer than that.
    """

    def __init__(self, client: EtcdClient, timeout_s: float, pace: Pace | None = None) -> None:
        """`timeout_s`: for one transaction, alone or together. `pace` is told of each that begins."""
        self._client = client
        self._timeout_s = timeout_s
        self._pace = pace
        self._waiting: deque[_Append] = deque()
        self._task: asyncio.Task[None] | None = None

    async def txn(self, *, when: Sequence[Condition], then: Sequence[Put], otherwise: Sequence[Operation]) -> TxnResult:
        """As `EtcdClient.txn` answers this one alone. Raises as it does: LogUnavailable for an unknown outcome.

        Whoever is cancelled while it waits may still have its puts written, as with any transaction on its way.
        """
        append = _Append(when, then, otherwise)
        self._waiting.append(append)
        if self._task is None:
            # A task of its own, which begins only after everyone else whose turn it is now has put in what it has; and
            # none of them takes the others' transaction with it when it is cancelled.
            self._task = asyncio.get_running_loop().create_task(self._send_all(), name="log-group-commit")
        return await append.answer

    async def close(self) -> None:
        """Stop. Whoever still waits is told that the outcome is unknown."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _send_all(self) -> None:
        group: list[_Append] = []
        try:
            while group := self._next_group():
                if self._pace is not None:
                    self._pace.began()
                await self._send(group)
        finally:
            self._task = None
            for append in (*group, *self._waiting):
                _fail(append, LogUnavailable("appends were stopped on their way to etcd; their outcome is unknown"))
            self._waiting.clear()

    def _next_group(self) -> list[_Append]:
        group: list[_Append] = []
        size = 0
        while self._waiting and len(group) < GROUP_APPENDS:
            size += self._waiting[0].size
            if group and size > GROUP_BYTES:
                break
            append = self._waiting.popleft()
            if not append.answer.done():  # else its writer was stopped before anything was sent
                group.append(append)
        return group

    async def _send(self, group: list[_Append]) -> None:
        if len(group) > 1 and await self._sent_together(group):
            return
        # Refused together, each by itself is told what is the matter with it, and no other suffers from it.
        async with asyncio.TaskGroup() as tasks:
            for append in group:
                tasks.create_task(self._send_alone(append))

    async def _sent_together(self, group: list[_Append]) -> bool:
        """Whether each has its answer. False: nothing was written, unless an earlier copy of one had been."""
        try:
            result = await self._client.txn(
                when=[condition for append in group for condition in append.when],
                then=[put for append in group for put in append.then],
                timeout_s=self._timeout_s,
            )
        except EtcdRefused:
            return False
        except LogUnavailable as error:
            # All or none: each asks again with the identical conditions, together with whomever or alone. If this one
            # won, the slots are taken and tell so; if it comes late, one of its slots is taken and it changes nothing.
            for append in group:
                _fail(append, LogUnavailable(str(error)))
            return True
        if result.succeeded:
            for append in group:
                if not append.answer.done():
                    append.answer.set_result(result)
        return result.succeeded

    async def _send_alone(self, append: _Append) -> None:
        try:
            result = await self._client.txn(
                when=append.when, then=append.then, otherwise=append.otherwise, timeout_s=self._timeout_s
            )
        except Exception as error:
            _fail(append, error)
        else:
            if not append.answer.done():
                append.answer.set_result(result)


def _fail(append: _Append, error: Exception) -> None:
    if not append.answer.done():
        append.answer.set_exception(error)
        # Looked at here: that its writer was stopped must not be reported as an exception nobody retrieved.
        append.answer.exception()
