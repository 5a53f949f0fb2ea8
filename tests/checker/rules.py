"""The history checker: compares what every client saw with what the log holds and names each broken guarantee.

Offsets give the order, so nothing is searched for: apart from sorting, each rule walks its input once.
Knows no adapter.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import accumulate, groupby, pairwise

import msgspec

from tests.checker.history import Append, Consumed, History, Outcome
from tests.checker.stored import Batch, StoredFact, by_partition


class Rule(Enum):
    """Each guarantee as one sentence; docs/correctness.md repeats them word by word."""

    CONTIGUOUS = "The offsets of a partition are unique and contiguous from 0."
    ACKNOWLEDGED = "The events of an acknowledged command are in the log exactly once, where its answer says."
    REFUSED = "A command that was refused leaves nothing in the log."
    PROPOSED = "Nothing is in the log that no client asked for."
    ONE_SET = "A command id has at most one set of events, whole and in one run, however often it was sent."
    FIRST_RESULT = "A command that is repeated is answered with its first result."
    REAL_TIME = "What was acknowledged before a command was sent comes before it in its partition."
    VERSIONS = "The versions of a stream are contiguous from 1."
    EPOCHS = "Epochs never decrease along a partition: two owners never interleave."
    REVISIONS = "Revisions grow with the offsets of a partition."
    CHAIN = "Every batch carries the hash of the one before it."
    CLAIMS = "Every claim has an epoch of its own, higher than that of every claim won before it began."
    STALE = "Nothing sent to an owner after a newer claim was won is committed."
    SEQUENCE = "Every consumer is handed a run of the log: no gap, no repetition, nothing out of order."
    FRESH = "A read to the tail holds whatever was acknowledged before it began."
    CAUGHT_UP = "A follower reaches the log's end when it is given time."


class Violation(msgspec.Struct, frozen=True):
    rule: Rule
    details: str

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.details} — {self.rule.value}"


def check(history: History, batches: Iterable[Batch]) -> list[Violation]:
    """Every violation found. `batches` is all that was ever stored, archived ones included."""
    stored = by_partition(batches)
    partitions = {partition: _Partition(partition, mine) for partition, mine in stored.items()}
    for number in {entry.partition for entry in history.appends} | {entry.partition for entry in history.consumed}:
        partitions.setdefault(number, _Partition(number, []))
    appends = _grouped(history.appends)
    found: list[Violation] = []
    acknowledged: dict[int, _Newest] = {}
    for number, partition in sorted(partitions.items()):
        mine = appends.get(number, [])
        acknowledged[number] = _Newest((append.ended, append.last) for append in mine)
        found += partition.check_shape()
        found += _check_appends(partition, mine)
        found += _check_real_time(partition, mine)
        found += _check_stale(partition, mine, history)
    for entry in history.consumed:
        found += _check_consumed(partitions[entry.partition], entry, acknowledged[entry.partition])
    return [*found, *_check_claims(history, stored)]


def assert_holds(history: History, batches: Iterable[Batch]) -> None:
    """Raise AssertionError naming the first violations, if there are any."""
    violations = check(history, batches)
    shown = "\n".join(f"  {violation}" for violation in violations[:20])
    assert not violations, f"{len(violations)} violations:\n{shown}"


class _Newest:
    """Of numbers that became known at a time: the highest known before another time, -1 for none."""

    def __init__(self, pairs: Iterable[tuple[int | None, int | None]]) -> None:
        known = sorted((at, number) for at, number in pairs if at is not None and number is not None)
        self._times = [at for at, _ in known]
        self._highest = [-1, *accumulate((number for _, number in known), max)]

    def before(self, at: int) -> int:
        return self._highest[bisect_left(self._times, at)]


class _Partition:
    """One partition's log laid out by offset, as far as it is contiguous."""

    def __init__(self, number: int, batches: Sequence[Batch]) -> None:
        self.number = number
        self.batches = batches
        self.events: list[StoredFact] = []
        self.epochs: list[int] = []
        self.commands: dict[str, list[int]] = {}
        self.by_event: dict[str, list[int]] = {}
        for batch in batches:
            for fact in batch.events:
                offset = len(self.events)
                self.commands.setdefault(fact.command_id, []).append(offset)
                self.by_event.setdefault(fact.event_id, []).append(offset)
                self.events.append(fact)
                self.epochs.append(batch.epoch)

    def ids(self, first: int, last: int) -> tuple[str, ...]:
        return tuple(fact.event_id for fact in self.events[first : last + 1])

    def check_shape(self) -> Iterable[Violation]:
        expected = 0
        for batch in self.batches:
            if batch.base != expected:
                at = f"partition {self.number}: expected a batch at {expected}, found {batch.base}"
                yield Violation(Rule.CONTIGUOUS, at)
            expected = batch.base + len(batch.events)
        for before, after in pairwise(self.batches):
            place = f"partition {self.number}: batches at {before.base} and {after.base}"
            if after.epoch < before.epoch:
                yield Violation(Rule.EPOCHS, f"{place} have epochs {before.epoch} and {after.epoch}")
            if after.revision <= before.revision:
                yield Violation(Rule.REVISIONS, f"{place} have revisions {before.revision} and {after.revision}")
            if after.previous != before.hash:
                yield Violation(Rule.CHAIN, f"{place} do not belong together")
        versions: dict[str, int] = {}
        for offset, fact in enumerate(self.events):
            last = versions.get(fact.stream, 0)
            if fact.version != last + 1:
                text = f"{self.number}:{offset}: stream {fact.stream} goes from version {last} to {fact.version}"
                yield Violation(Rule.VERSIONS, text)
            versions[fact.stream] = fact.version


def _check_appends(partition: _Partition, appends: Sequence[Append]) -> Iterable[Violation]:
    by_command: dict[str, list[Append]] = {}
    for append in appends:
        by_command.setdefault(append.command_id, []).append(append)
    for command_id, sendings in by_command.items():
        yield from _check_command(partition, command_id, sendings)
    for command_id, offsets in partition.commands.items():
        if command_id not in by_command:
            yield Violation(Rule.PROPOSED, f"{partition.number}:{offsets[0]}: command {command_id!r} was never sent")
    yield from _check_refused(partition, appends)


def _check_command(partition: _Partition, command_id: str, sendings: Sequence[Append]) -> Iterable[Violation]:
    offsets = partition.commands.get(command_id, [])
    name = f"partition {partition.number}: command {command_id!r}"
    if offsets:
        held = tuple(partition.events[offset].event_id for offset in offsets)
        if offsets != list(range(offsets[0], offsets[0] + len(offsets))):
            yield Violation(Rule.ONE_SET, f"{name} has events at {offsets[:12]}")
        elif held not in {sending.events for sending in sendings}:
            yield Violation(Rule.ONE_SET, f"{name} has events {held[:6]}, which no single sending proposed")
    acknowledged = [sending for sending in sendings if sending.outcome is Outcome.OK]
    for sending in acknowledged:
        told = (sending.first, sending.last)
        if not offsets or told != (offsets[0], offsets[-1]):
            yield Violation(Rule.ACKNOWLEDGED, f"{name} was told {told}, the log holds it at {offsets[:12]}")
        elif not sending.duplicate and partition.ids(offsets[0], offsets[-1]) != sending.events:
            yield Violation(
                Rule.ACKNOWLEDGED, f"{name} was acknowledged as new, but another sending's events are there"
            )
    if len({(sending.first, sending.last) for sending in acknowledged}) > 1:
        yield Violation(Rule.FIRST_RESULT, f"{name} was told {[(s.first, s.last) for s in acknowledged][:6]}")
    if sum(not sending.duplicate for sending in acknowledged) > 1:
        yield Violation(Rule.FIRST_RESULT, f"{name} was acknowledged as new more than once")


def _check_refused(partition: _Partition, appends: Sequence[Append]) -> Iterable[Violation]:
    # An event id that another sending proposed too may be there on that one's account.
    others = {event for append in appends if append.outcome is not Outcome.REFUSED for event in append.events}
    for append in appends:
        if append.outcome is Outcome.REFUSED:
            for event in append.events:
                if event not in others and event in partition.by_event:
                    where = f"{partition.number}:{partition.by_event[event][0]}"
                    yield Violation(Rule.REFUSED, f"{where}: {event!r} of refused command {append.command_id!r}")


def _check_real_time(partition: _Partition, appends: Sequence[Append]) -> Iterable[Violation]:
    """Of two commands, the one with the lower offset was sent before the other was acknowledged."""
    sent: dict[str, int] = {}
    acknowledged: dict[str, int] = {}
    for append in appends:
        sent[append.command_id] = min(append.invoked, sent.get(append.command_id, append.invoked))
        if append.outcome is Outcome.OK and append.ended is not None:
            acknowledged[append.command_id] = min(append.ended, acknowledged.get(append.command_id, append.ended))
    latest, latest_command = -1, ""
    for command_id, group in groupby(enumerate(partition.events), lambda item: item[1].command_id):
        offset = next(group)[0]
        if acknowledged.get(command_id, latest) < latest:
            text = f"{partition.number}:{offset}: {command_id!r} was acknowledged before {latest_command!r} was sent"
            yield Violation(Rule.REAL_TIME, f"{text}, which has a lower offset")
        if sent.get(command_id, -1) > latest:
            latest, latest_command = sent[command_id], command_id


def _check_stale(partition: _Partition, appends: Sequence[Append], history: History) -> Iterable[Violation]:
    won = _Newest((claim.ended, claim.epoch) for claim in history.claims if claim.partition == partition.number)
    proposed: dict[str, int] = {}
    for append in appends:
        for event in append.events:
            # The same events sent again later may be there on the first sending's account.
            proposed[event] = min(append.invoked, proposed.get(event, append.invoked))
    for event, invoked in proposed.items():
        newest = won.before(invoked)
        for offset in partition.by_event.get(event, ()):
            if partition.epochs[offset] < newest:
                text = f"{partition.number}:{offset}: {event!r} committed under epoch {partition.epochs[offset]}"
                yield Violation(Rule.STALE, f"{text} though epoch {newest} was won before it was sent")


def _check_consumed(partition: _Partition, entry: Consumed, acknowledged: _Newest) -> Iterable[Violation]:
    name = f"partition {partition.number}: {entry.consumer} from {entry.from_offset}"
    expected = entry.from_offset
    for offset, event in entry.events:
        if offset != expected:
            yield Violation(Rule.SEQUENCE, f"{name} was handed offset {offset} where {expected} was due")
            return
        if offset >= len(partition.events) or partition.events[offset].event_id != event:
            yield Violation(Rule.SEQUENCE, f"{name} was handed {event!r} at {offset}, where the log holds another")
            return
        expected += 1
    if entry.caught_up and expected != len(partition.events):
        yield Violation(Rule.CAUGHT_UP, f"{name} stopped at {expected}, the log ends at {len(partition.events)}")
    if entry.to_tail and (newest := acknowledged.before(entry.invoked)) >= expected:
        yield Violation(Rule.FRESH, f"{name} ended at {expected}, though {newest} was acknowledged before")


def _check_claims(history: History, stored: Mapping[int, Sequence[Batch]]) -> Iterable[Violation]:
    found: list[Violation] = []
    won: dict[int, list[tuple[int, int, int]]] = {}
    for claim in history.claims:
        if claim.epoch is not None and claim.ended is not None:
            won.setdefault(claim.partition, []).append((claim.invoked, claim.ended, claim.epoch))
    for partition, claims in won.items():
        for one, other in pairwise(sorted(epoch for _, _, epoch in claims)):
            if one == other:
                found.append(Violation(Rule.CLAIMS, f"partition {partition}: epoch {one} was won twice"))
        earlier = _Newest((ended, epoch) for _, ended, epoch in claims)
        for invoked, _, epoch in claims:
            if epoch <= (highest := earlier.before(invoked)):
                text = f"partition {partition}: epoch {epoch} was won by a claim begun after epoch {highest} was won"
                found.append(Violation(Rule.CLAIMS, text))
    # A claim that was sent and never answered may have won too; but some claim must stand behind each epoch.
    claims_of = Counter(claim.partition for claim in history.claims)
    for partition, batches in stored.items():
        tried = claims_of[partition]
        used = {batch.epoch for batch in batches}
        if len(used) > tried:
            found.append(
                Violation(Rule.CLAIMS, f"partition {partition}: {len(used)} epochs wrote, {tried} were claimed")
            )
    return found


def _grouped(appends: Iterable[Append]) -> dict[int, list[Append]]:
    grouped: dict[int, list[Append]] = {}
    for append in appends:
        grouped.setdefault(append.partition, []).append(append)
    return grouped
