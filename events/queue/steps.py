"""Each thing the queue does to a task as one step: what must hold, what is then written, and how to read a refusal.

Pure: steps are built here and sent by `commit`. A step that was applied although its reply was lost is told by what it
wrote, so sending it again is safe.
"""

from collections.abc import Callable, Mapping

import msgspec

from events.log.etcd_wire import (
    Condition,
    CreatedAfter,
    Delete,
    KeyValue,
    ModRevisionIs,
    NotCreatedAt,
    Operation,
    Put,
    VersionIs,
)
from events.queue.keys import QueueKeys
from events.queue.task import ClaimRef, Dead, Progress, Task

NO_SESSION = "no-session"
GONE = "gone"
BLIND = "blind"
"""What the member has of the topic lacks something that etcd has: it must look again before it tries again."""

Found = Mapping[str, KeyValue | None]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended. `revision` is the store's of what it wrote; a step that is not `ok` wrote nothing."""

    ok: bool
    revision: int = 0
    word: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """`then` is applied, all or nothing, while `when` holds. When it does not, `judge` says what was found: a verdict,
    or the step to try instead."""

    when: tuple[Condition, ...]
    then: tuple[Operation, ...]
    reads: tuple[str, ...]
    judge: Callable[[Found], "Verdict | Step"]

    def holds(self, found: Found) -> bool:
        """Whether it was not this step that kept its transaction from being applied."""
        return all(_holds(condition, found) for condition in self.when)

    @property
    def tells(self) -> bool:
        """Whether `holds` says all: what a range holds is not read back."""
        return not any(isinstance(condition, CreatedAfter | NotCreatedAt) for condition in self.when)


def _holds(condition: Condition, found: Found) -> bool:
    item = found.get(condition.key)
    if isinstance(condition, ModRevisionIs):
        return (item.mod_revision if item else 0) == condition.revision
    return not isinstance(condition, VersionIs) or (item.version if item else 0) == condition.version


_encoder = msgspec.msgpack.Encoder()
_task_decoder = msgspec.msgpack.Decoder(Task)
_progress_decoder = msgspec.msgpack.Decoder(Progress)
_dead_decoder = msgspec.msgpack.Decoder(Dead)


def encode(value: msgspec.Struct) -> bytes:
    """As stored."""
    return _encoder.encode(value)


def decode_task(value: bytes) -> Task:
    """Of a stored task."""
    return _task_decoder.decode(value)


def decode_progress(value: bytes) -> Progress:
    """Of what became of it."""
    return _progress_decoder.decode(value)


def decode_dead(value: bytes) -> Dead:
    """Of a dead letter."""
    return _dead_decoder.decode(value)


class TopicSteps:
    """The steps on one topic's tasks."""

    def __init__(self, keys: QueueKeys, topic: str) -> None:
        self._keys = keys
        self._topic = topic

    def publish(self, task: Task) -> Step:
        """Store it unless its id is in use or used up."""
        key, done = self._keys.task(self._topic, task.id), self._keys.done(self._topic, task.id)
        value = encode(task)

        def judge(found: Found) -> Verdict:
            there = found.get(key)
            mine = there is not None and there.value == value
            return Verdict(ok=mine, revision=there.mod_revision if there else 0, word="" if mine else "duplicate")

        lane = (Put(place, b"") for place in self._lane_of(task))
        return Step(
            when=(VersionIs(key, 0), VersionIs(done, 0)),
            then=(Put(key, value), *lane),
            reads=(key, done),
            judge=judge,
        )

    def claim(self, task: Task, progress: Progress, *, since: int, made: int) -> Step:
        """Take it, if nothing became of it since `since` (0: since publishing, at revision `made`), if no task of its
        key is before it, and if the claimant's session lives."""
        key, own, _ = self._keys_of(task.id)
        session = self._keys.session(progress.session)
        value = encode(progress)

        def judge(found: Found) -> Verdict:
            there = found.get(key)
            if there is not None and there.value == value:
                return Verdict(ok=True, revision=there.mod_revision)
            if found.get(session) is None:
                return Verdict(ok=False, revision=there.mod_revision if there else 0, word=NO_SESSION)
            if found.get(own) is None:
                return Verdict(ok=False, word=GONE)
            if (there.mod_revision if there else 0) == since:
                return Verdict(ok=False, word=BLIND)
            return Verdict(ok=False, revision=there.mod_revision if there else 0, word="taken")

        when: list[Condition] = [ModRevisionIs(key, since), VersionIs(own, 1), VersionIs(session, 1)]
        for place in self._lane_of(task):
            lane = self._keys.lane(self._topic, task.key)
            when += [CreatedAfter(lane, f"{lane[:-1]}0", made - 1), NotCreatedAt(lane, place, made)]
        return Step(when=tuple(when), then=(Put(key, value),), reads=(key, own, session), judge=judge)

    def write(self, task: str, claim: str, revision: int, progress: Progress) -> Step:
        """While `claim` stands, as of `revision`, `progress` takes its place: given back, or extended."""
        key, _, _ = self._keys_of(task)
        written = encode(progress)

        def judge(found: Found) -> Verdict | Step:
            there = found.get(key)
            if there is not None and there.value == written:
                return Verdict(ok=True, revision=there.mod_revision)
            if there is None or decode_progress(there.value).claim != claim:
                return Verdict(ok=False, word="stale")
            return self.write(task, claim, there.mod_revision, progress)

        return Step(when=(ModRevisionIs(key, revision),), then=(Put(key, written),), reads=(key,), judge=judge)

    def finish(self, ref: ClaimRef, task: Task | None, revision: int, lease: int) -> Step:
        """While the claim stands, as of `revision`: the task goes, and its id is remembered on `lease`."""
        key, own, done = self._keys_of(ref.task)

        def judge(found: Found) -> Verdict | Step:
            there, used = found.get(key), found.get(done)
            if used is not None and used.value == ref.claim.encode():
                return Verdict(ok=True, revision=used.mod_revision)
            if task is None or there is None or decode_progress(there.value).claim != ref.claim:
                return Verdict(ok=False, word="stale")
            return self.finish(ref, task, there.mod_revision, lease)

        lane = () if task is None else self._lane_of(task)
        return Step(
            # Revision 0 would mean "while there is no such key"; 1 is no key's, so that `judge` looks first.
            when=(ModRevisionIs(key, max(revision, 1)),),
            then=(Delete(own), Delete(key), *map(Delete, lane), Put(done, ref.claim.encode(), lease)),
            reads=(key, done),
            judge=judge,
        )

    def bury(self, letter: Dead, *, claim: str, since: int) -> Step:
        """The task becomes a dead letter, if nothing became of it since; with `claim`, while that stands."""
        key, own, done = self._keys_of(letter.task.id)
        dead = self._keys.dead(self._topic, letter.task.id)
        value = encode(letter)

        def judge(found: Found) -> Verdict | Step:
            there, buried = found.get(key), found.get(dead)
            if buried is not None and buried.value == value:
                return Verdict(ok=True, revision=buried.mod_revision)
            if not claim or there is None or decode_progress(there.value).claim != claim:
                return Verdict(ok=False, word="stale")
            return self.bury(letter, claim=claim, since=there.mod_revision)

        return Step(
            when=(ModRevisionIs(key, since), VersionIs(own, 1)),
            # The id stays used for as long as the letter is there: it is published again by a retry only.
            then=(
                Delete(own),
                Delete(key),
                *map(Delete, self._lane_of(letter.task)),
                Put(dead, value),
                Put(done, b"dead"),
            ),
            reads=(key, own, done, dead),
            judge=judge,
        )

    def retry(self, letter: Dead, revision: int, task: Task) -> Step:
        """The dead letter stored at `revision` becomes a task again. Its claims are counted on: no claim of its former
        life is taken for one of its new."""
        key, own, done = self._keys_of(task.id)
        dead = self._keys.dead(self._topic, task.id)
        value = encode(task)
        progress = Progress(attempts=letter.attempts, forgiven=letter.attempts, at=task.published_at)

        def judge(found: Found) -> Verdict:
            there = found.get(own)
            mine = there is not None and there.value == value
            return Verdict(ok=mine, revision=there.mod_revision if there else 0, word="" if mine else "absent")

        return Step(
            when=(ModRevisionIs(dead, revision), VersionIs(own, 0)),
            then=(
                Delete(dead),
                Delete(done),
                Put(own, value),
                Put(key, encode(progress)),
                *(Put(place, b"") for place in self._lane_of(task)),
            ),
            reads=(dead, own),
            judge=judge,
        )

    def withdraw(self, task: Task, lease: int, nonce: str) -> Step:
        """The task goes, claimed or not; whoever has it learns so from its next word. `nonce` names this withdrawal."""
        key, own, done = self._keys_of(task.id)

        def judge(found: Found) -> Verdict:
            used = found.get(done)
            mine = used is not None and used.value == nonce.encode()
            return Verdict(ok=mine, word="" if mine else "absent")

        return Step(
            when=(VersionIs(own, 1),),
            then=(Delete(own), Delete(key), *map(Delete, self._lane_of(task)), Put(done, nonce.encode(), lease)),
            reads=(own, done),
            judge=judge,
        )

    def _lane_of(self, task: Task) -> tuple[str, ...]:
        """Its place in the lane of its key; nothing without one."""
        return (self._keys.in_lane(self._topic, task.key, task.sequence, task.id),) if task.key else ()

    def _keys_of(self, task: str) -> tuple[str, str, str]:
        """Keys: of its progress, of the task itself, and of its id being used up."""
        keys, topic = self._keys, self._topic
        return keys.progress(topic, task), keys.task(topic, task), keys.done(topic, task)


def keys_written(step: Step) -> list[str]:
    """A transaction may write each key once only."""
    return [operation.key for operation in step.then]


def size_of(step: Step) -> int:
    """About its bytes in a request: keys are short, values may not be."""
    return 256 + sum(len(part.value) for part in step.then if isinstance(part, Put))
