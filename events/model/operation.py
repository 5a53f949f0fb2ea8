"""Operation: the events by which any aggregate says that a piece of work began and how it ended.

An operation is no stream of its own: its events stand in the stream of the thing it works on, and share one
`correlation_id` with everything it caused. Every operation ends in exactly one of the four endings, with a reason.
"""

from enum import StrEnum
from typing import ClassVar

from events.model.base import Event
from events.model.evolution import Fields

RUN = "run"
CRON_RUN = "cron"
TASK_KINDS = (RUN, CRON_RUN)
"""Operations that run a command once: beside each other, and beside the one piece of work that goes on otherwise."""


class OperationStatus(StrEnum):
    """running → succeeded | failed | cancelled | timed_out; an ended operation never moves again."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class OperationStarted(Event, frozen=True):
    """`deadline_at`: microseconds UTC after which it ends as timed out; 0 where its parts carry the deadlines.
    `parent` is the operation that asked for this one, if any, and `parent_stream` where it stands;
    `by` and `why` are who asked and in what words, for what follows later in the operation.
    `release_step`: the release command of what it releases is run, though it was not this operation that built it."""

    schema_version: ClassVar[int] = 2

    operation: str
    kind: str
    detail: str = ""
    deadline_at: int = 0
    parent: str = ""
    parent_stream: str = ""
    by: str = ""
    why: str = ""
    release_step: bool = False

    @staticmethod
    def upcast_1(fields: Fields) -> Fields:
        """1 ran a release command only where a build had just made it."""
        return fields


class OperationSucceeded(Event, frozen=True):
    operation: str
    detail: str = ""


class OperationFailed(Event, frozen=True):
    """`lines` are the output lines that matter; `still_serving` is the release that goes on serving (0: none)."""

    operation: str
    code: str
    reason: str
    lines: tuple[str, ...] = ()
    still_serving: int = 0


class OperationCancelled(Event, frozen=True):
    operation: str
    reason: str


class OperationTimedOut(Event, frozen=True):
    operation: str
    reason: str
    still_serving: int = 0


ENDINGS: dict[type[Event], OperationStatus] = {
    OperationSucceeded: OperationStatus.SUCCEEDED,
    OperationFailed: OperationStatus.FAILED,
    OperationCancelled: OperationStatus.CANCELLED,
    OperationTimedOut: OperationStatus.TIMED_OUT,
}
