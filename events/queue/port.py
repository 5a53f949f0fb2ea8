"""What a task queue promises. `tests/events/queue/contract.py` says it again in code.

Knows nothing of etcd, of gRPC or of what tasks are about.
"""

from collections.abc import Sequence
from typing import Protocol

from events.queue.task import (
    Claim,
    ClaimRef,
    Consumer,
    Dead,
    Nacked,
    NewTask,
    Published,
    TaskView,
    TopicStats,
)


class TaskQueue(Protocol):
    """Many topics of tasks, each done once. Everything that was answered is durable.

    - A task is claimed by one consumer at a time. A claim ends by ack, nack or withdrawal, when its consumer's process
      dies, or when it was not extended in time; then the task is claimed again, with a greater `attempt`.
    - Only the claim that stands has a say: an ack, a nack or an extension of an earlier one is refused.
    - Of the tasks with the same non-empty `key` one is claimable at a time, in the order they were published.
    - Of several teams with claimable tasks the one with the fewest claims is served first, then the one that waited
      longest; within a team the greatest priority, then the oldest.
    - Publishing an id again does nothing while its task or its dead letter is there, and for a few minutes after it
      was done.

    Every method raises LogUnavailable if the store does not answer, QueueError for what can never be.
    """

    async def publish(self, topic: str, tasks: Sequence[NewTask]) -> list[Published]:
        """Store tasks, in this order. Raises InvalidTask, QueueFull; then none of them was stored."""
        ...

    async def claim(self, topic: str, consumer: Consumer, *, most: int = 1, wait_seconds: float = 0.0) -> list[Claim]:
        """Up to `most` tasks that `consumer` can take; waits for the first one, empty when none came."""
        ...

    async def ack(self, claims: Sequence[ClaimRef]) -> list[bool]:
        """The tasks are done and go. False: the claim does not stand, and whatever was done in it must not count."""
        ...

    async def nack(
        self, claims: Sequence[ClaimRef], *, reason: str, delay_seconds: float | None = None, dead: bool = False
    ) -> list[Nacked]:
        """Give tasks back: to wait (None: the task's own back-off), or, after its last attempt or if `dead`, among the
        dead letters with the reason."""
        ...

    async def extend(self, claims: Sequence[ClaimRef], *, seconds: float) -> list[bool]:
        """Let claims stand for `seconds` from now on. False: it does not stand any more."""
        ...

    async def withdraw(self, topic: str, ids: Sequence[str]) -> list[bool]:
        """Take tasks out, claimed or not. False: there is no such task."""
        ...

    async def topics(self) -> list[str]:
        """The topics that hold tasks or dead letters, or have consumers."""
        ...

    async def peek(self, topic: str, *, limit: int = 100, team: str | None = None) -> list[TaskView]:
        """Tasks in the order of publishing, as they are now."""
        ...

    async def stats(self, topic: str) -> TopicStats:
        """Counts; zero for a topic nobody knows."""
        ...

    async def dead(self, topic: str, *, limit: int = 100, team: str | None = None) -> list[Dead]:
        """Dead letters, by id."""
        ...

    async def retry(self, topic: str, ids: Sequence[str]) -> list[bool]:
        """Publish dead letters again, at the end, with as many attempts as at first. False: there is no such letter."""
        ...
