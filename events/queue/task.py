"""What a task is, what is stored of it, and what a consumer gets and gives back. Values only.

Knows nothing of etcd and of when a task is whose.
"""

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from events.queue.errors import InvalidTask

VISIBLE_SECONDS = 60.0
"""How long a claim stands without an extension."""
MAX_ATTEMPTS = 5
BACK_OFF_SECONDS = 1.0
"""After the first nack; twice as long after each further one."""
MAX_BACK_OFF_SECONDS = 600.0
MAX_PAYLOAD_BYTES = 256 << 10
"""As much as one command's events may have; several such tasks still fit into one request of etcd."""
MAX_REASON = 500
PRIORITIES = range(-100, 101)

_TOPIC = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}\Z")
_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_WORD = re.compile(r"^[^\x00-\x1f\x7f]{0,200}\Z")


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task to publish. Times in seconds.

    `id` makes publishing idempotent; `key` orders: of the tasks of one key each is claimed only when those before it
    are gone. `needs` are what a consumer must offer. `priority` counts within a team: the greater first.
    """

    id: str
    payload: bytes = b""
    key: str = ""
    team: str = ""
    priority: int = 0
    needs: tuple[str, ...] = ()
    delay_seconds: float = 0.0
    visible_seconds: float = VISIBLE_SECONDS
    max_attempts: int = MAX_ATTEMPTS
    back_off_seconds: float = BACK_OFF_SECONDS


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task as stored, never changed. `not_before` and `published_at` in microseconds UTC; `sequence` orders the tasks
    that one process published in one transaction."""

    id: str
    published_at: int
    sequence: int
    payload: bytes = b""
    key: str = ""
    team: str = ""
    priority: int = 0
    needs: tuple[str, ...] = ()
    not_before: int = 0
    visible_seconds: float = VISIBLE_SECONDS
    max_attempts: int = MAX_ATTEMPTS
    back_off_seconds: float = BACK_OFF_SECONDS

    def back_off_after(self, attempt: int) -> float:
        """Seconds to wait after the `attempt`-th attempt failed."""
        return min(self.back_off_seconds * 2.0 ** min(attempt - 1, 30), MAX_BACK_OFF_SECONDS)


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened to a task since it was published. `claim` empty: nobody has it, and it waits until `not_before`.

    `attempts` counts claims and only grows: it is the claim's epoch. `forgiven` of them came before a retry of the dead
    letter and do not count against the task's own limit.
    """

    attempts: int
    forgiven: int = 0
    claim: str = ""
    session: str = ""
    consumer: str = ""
    at: int = 0
    visible_seconds: float = VISIBLE_SECONDS
    not_before: int = 0
    reason: str = ""


class Dead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dead letter: the task, why it was given up, and when."""

    task: Task
    attempts: int
    reason: str
    at: int


class ClaimRef(msgspec.Struct, frozen=True, kw_only=True):
    """Names one claim of one task for ever: what a consumer gives back with its word."""

    topic: str
    task: str
    claim: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a consumer's hands. `attempt` is the claim's epoch: 1 for the first, and greater for each later one."""

    ref: ClaimRef
    task: Task
    attempt: int


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes tasks, by a name for people, and what it offers to those that need something."""

    name: str
    offers: frozenset[str] = frozenset()


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """`duplicate`: a task of this id was there, or was done a short while ago; nothing new was stored."""

    id: str
    duplicate: bool


class Nacked(StrEnum):
    """What became of a task that was given back. `stale`: the claim was not the task's any more; nothing was done."""

    WAITING = "waiting"
    DEAD = "dead"
    STALE = "stale"


class TaskStatus(StrEnum):
    """ready: to be claimed now. delayed: later. blocked: an earlier task of its key is there. parked: no consumer can
    take it. claimed: in a consumer's hands."""

    READY = "ready"
    DELAYED = "delayed"
    BLOCKED = "blocked"
    PARKED = "parked"
    CLAIMED = "claimed"


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is now, and why."""

    task: Task
    status: TaskStatus
    attempts: int
    reason: str = ""
    consumer: str = ""


class TopicStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts by status, consumers now, and the age of the oldest task nobody has, in seconds."""

    topic: str
    ready: int = 0
    delayed: int = 0
    blocked: int = 0
    parked: int = 0
    claimed: int = 0
    dead: int = 0
    consumers: int = 0
    oldest_seconds: float = 0.0
    teams: Mapping[str, int] = {}


def check_topic(topic: str) -> str:
    """The topic. Raises InvalidTask for what is none."""
    if not _TOPIC.match(topic):
        raise InvalidTask(f"expected a topic of a-z, 0-9 and -, at most 63 characters, found {topic[:80]!r}")
    return topic


def check_id(ident: str) -> str:
    """The task's id. Raises InvalidTask for what is none."""
    if not _ID.match(ident):
        raise InvalidTask(f"expected a task id of 1 to 128 letters, digits, . _ or -, found {ident[:80]!r}")
    return ident


def stored(new: NewTask, *, at: int, sequence: int) -> Task:
    """What is stored of a task published at `at` (microseconds UTC). Raises InvalidTask."""
    check_id(new.id)
    for word in (new.key, new.team, *new.needs):
        if not _WORD.match(word):
            raise InvalidTask(f"{new.id}: expected key, team and needs of up to 200 characters, found {word[:80]!r}")
    if len(new.payload) > MAX_PAYLOAD_BYTES:
        raise InvalidTask(
            f"{new.id}: expected a payload of at most {MAX_PAYLOAD_BYTES} bytes, found {len(new.payload)}; "
            "store it elsewhere and publish where it is"
        )
    if new.priority not in PRIORITIES:
        raise InvalidTask(f"{new.id}: expected a priority from -100 to 100, found {new.priority}")
    if new.max_attempts < 1 or not new.visible_seconds > 0 or new.delay_seconds < 0 or new.back_off_seconds < 0:
        raise InvalidTask(f"{new.id}: expected at least one attempt, and no negative time, found {new}"[:300])
    return Task(
        id=new.id,
        published_at=at,
        sequence=sequence,
        payload=new.payload,
        key=new.key,
        team=new.team,
        priority=new.priority,
        needs=tuple(sorted(set(new.needs))),
        not_before=at + int(new.delay_seconds * 1e6) if new.delay_seconds else 0,
        visible_seconds=new.visible_seconds,
        max_attempts=new.max_attempts,
        back_off_seconds=new.back_off_seconds,
    )
