"""The bodies of the task queue: tasks to publish, claims and the word on them, what is queued and what was given up.

Shapes and bounds only; it knows nothing of how a request is served.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api.http.schema import Body, View
from events.queue.task import BACK_OFF_SECONDS, MAX_ATTEMPTS, VISIBLE_SECONDS

TaskId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Need = Annotated[str, Field(min_length=1, max_length=200)]
Seconds = Annotated[float, Field(ge=0, le=30 * 86400)]


class PublishedTask(Body):
    """A task; `payload` is text (other bytes over gRPC). Publishing an `id` again does nothing."""

    id: TaskId
    payload: str = Field(default="", max_length=256 << 10)
    key: str = Field(default="", max_length=200)
    team: str = Field(default="", max_length=200)
    priority: int = Field(default=0, ge=-100, le=100)
    needs: list[Need] = Field(default=[], max_length=16)
    delay_seconds: Seconds = 0.0
    visible_seconds: float = Field(default=VISIBLE_SECONDS, gt=0, le=86400)
    max_attempts: int = Field(default=MAX_ATTEMPTS, ge=1, le=1000)
    back_off_seconds: Seconds = BACK_OFF_SECONDS


class PublishTasks(Body):
    tasks: list[PublishedTask] = Field(min_length=1, max_length=500)


class PublishedView(View):
    id: str
    duplicate: bool


class PublishedTasks(View):
    published: list[PublishedView]


class ClaimTasks(Body):
    """`wait_seconds`: how long to wait for the first task."""

    consumer: TaskId
    offers: list[Need] = Field(default=[], max_length=64)
    most: int = Field(default=1, ge=1, le=500)
    wait_seconds: float = Field(default=0.0, ge=0, le=30)


class ClaimRef(Body):
    """Names one claim: what `claimTasks` gave."""

    task: TaskId
    claim: str = Field(min_length=1, max_length=100)


class ClaimView(View):
    """A claimed task. `attempt` grows with each claim of it."""

    task: str
    claim: str
    attempt: int
    payload: str
    key: str
    team: str
    published_at: datetime


class Claims(View):
    claims: list[ClaimView]


class AckTasks(Body):
    claims: list[ClaimRef] = Field(min_length=1, max_length=500)


class NackTasks(AckTasks):
    """`delay_seconds` left out: the task's own back-off. `dead`: no further attempt."""

    reason: str = Field(min_length=1, max_length=500)
    delay_seconds: Seconds | None = None
    dead: bool = False


class ExtendTasks(AckTasks):
    seconds: float = Field(gt=0, le=86400)


class Accepted(View):
    """In the order of the claims; false: the claim does not stand, and what was done in it must not count."""

    accepted: list[bool]


class Nacked(View):
    became: list[Literal["waiting", "dead", "stale"]]


class TaskIds(Body):
    ids: list[TaskId] = Field(min_length=1, max_length=500)


class Retried(View):
    """In the order of the ids; false: there is no such dead letter."""

    retried: list[bool]


class TopicView(View):
    """Counts by status; `oldest_seconds`: the age of the oldest task that nobody has."""

    topic: str
    ready: int
    delayed: int
    blocked: int
    parked: int
    claimed: int
    dead: int
    consumers: int
    oldest_seconds: float


class TaskView(View):
    """A task as it is now; `reason` says why it waits."""

    task: str
    status: Literal["ready", "delayed", "blocked", "parked", "claimed"]
    attempts: int
    reason: str
    consumer: str
    key: str
    team: str
    priority: int
    needs: list[str]
    published_at: datetime
    bytes: int


class DeadView(View):
    """A dead letter: why it was given up, and when."""

    task: str
    reason: str
    attempts: int
    key: str
    team: str
    dead_at: datetime
    bytes: int
