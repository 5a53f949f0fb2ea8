"""The queue's key layout in etcd, the one place that spells its keys.

Knows names only; nothing of transactions or of what the values hold.
"""

from enum import StrEnum

import msgspec
from xxhash import xxh3_128_hexdigest


class Kind(StrEnum):
    """What a key of a topic holds: a task, its progress, its place in the lane of its key, or a dead letter."""

    TASK = "t"
    PROGRESS = "c"
    LANE = "l"
    DEAD = "d"


class TopicKey(msgspec.Struct, frozen=True):
    topic: str
    kind: Kind
    task: str


class QueueKeys:
    """Keys under `/{namespace}/queue/`. Topics and ids hold no `/`."""

    def __init__(self, namespace: str) -> None:
        root = f"/{namespace}/queue/"
        # Apart from the rest: what is done is never read but by its own id, and must not be listed with the others.
        self._done = f"{root}done/"
        self.live = f"{root}live/"
        """Everything that members keep a mirror of."""
        self.sessions = f"{self.live}s/"
        self.consumers = f"{self.live}r/"
        self._topics = f"{self.live}t/"

    def session(self, session: str) -> str:
        """A member of the queue, on its lease: while it is there the member's claims stand."""
        return f"{self.sessions}{session}"

    def consumer(self, session: str, topic: str, name: str) -> str:
        """A consumer of a topic, on its member's lease."""
        return f"{self.consumers}{session}/{topic}/{name}"

    def task(self, topic: str, task: str) -> str:
        """A task, from publishing to its end; never changed."""
        return f"{self._topics}{topic}/{Kind.TASK.value}/{task}"

    def progress(self, topic: str, task: str) -> str:
        """Who has it, or until when it waits and why; absent before the first claim."""
        return f"{self._topics}{topic}/{Kind.PROGRESS.value}/{task}"

    def lane(self, topic: str, key: str) -> str:
        """The prefix of the lane of the tasks that share `key`, whatever characters that has."""
        return f"{self._topics}{topic}/{Kind.LANE.value}/{xxh3_128_hexdigest(key.encode())}/"

    def in_lane(self, topic: str, key: str, sequence: int, task: str) -> str:
        """A task's place: sorts, among those published in one transaction, as they were published."""
        return f"{self.lane(topic, key)}{sequence:016x}-{task}"

    def dead(self, topic: str, task: str) -> str:
        """A dead letter."""
        return f"{self._topics}{topic}/{Kind.DEAD.value}/{task}"

    def dead_of(self, topic: str) -> str:
        """The prefix of a topic's dead letters."""
        return f"{self._topics}{topic}/{Kind.DEAD.value}/"

    def done(self, topic: str, task: str) -> str:
        """That the id is used up: by which claim. On a lease after an ack, for good while there is a dead letter."""
        return f"{self._done}{topic}/{task}"

    def parse(self, key: str) -> TopicKey | None:
        """A topic's key taken apart; None for any other."""
        if not key.startswith(self._topics):
            return None
        topic, kind, task = key.removeprefix(self._topics).split("/", 2)
        return TopicKey(topic, Kind(kind), task)

    def parse_consumer(self, key: str) -> tuple[str, str, str]:
        """(session, topic, name) of a consumer's key."""
        session, topic, name = key.removeprefix(self.consumers).split("/", 2)
        return session, topic, name
