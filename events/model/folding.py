"""Folding many events of many streams at once, straight from a batch's or a segment's columns: for recovery and tools.

The result is by definition that of `registry.fold`; must not know where batches come from nor who owns a partition.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import starmap
from typing import Any

import msgspec

from events.log.columns import Facts
from events.log.errors import LogBroken
from events.log.runs import Block, Runs
from events.log.snapshots.contents import CorruptSnapshot, Snapshot, StreamEntry
from events.model.base import Event
from events.model.drafts import Step, one_after_another
from events.model.registry import AGGREGATES, BODY_DECODERS, EVENT_TYPES, decode_body, kind_of

_encoder = msgspec.msgpack.Encoder()
_state_decoders = {kind: msgspec.msgpack.Decoder(aggregate.state).decode for kind, aggregate in AGGREGATES.items()}


class Poisoned:
    """A stream whose event of `version` could not be folded: its state is worth nothing, `behind` counts what came
    since."""

    def __init__(self, version: int, error: str) -> None:
        self.version = version
        self.error = error
        self.behind = 0

    def hold(self, draft: Any, event: Event, at: int) -> None:
        """The step of whatever comes."""
        self.behind += 1


class Folded:
    """One stream so far: its state after `version` events, the last of them at `last_offset` (-1: none).

    Folding goes on in a draft, and what is read of it is a state, which no later event changes.
    """

    __slots__ = ("_draft", "_drafting", "_state", "_version", "kind", "last_offset", "poisoned")

    def __init__(
        self, stream: str, state: msgspec.Struct | None = None, version: int = 0, last_offset: int = -1
    ) -> None:
        self.kind = kind_of(stream)
        aggregate = AGGREGATES[self.kind]
        self._drafting = aggregate.drafting or one_after_another(aggregate.apply)
        self._state: msgspec.Struct = aggregate.state() if state is None else state
        self._draft: Any = None  # while there is one, it has the state and the version
        self._version = version
        self.last_offset = last_offset
        self.poisoned: Poisoned | None = None

    @property
    def state(self) -> msgspec.Struct:
        """As of now, and for good."""
        self._end_draft()
        return self._state

    @property
    def version(self) -> int:
        """How many events it has."""
        return self._version if self._draft is None else self._draft.version

    def draft(self) -> Any:
        """Where to fold on, by `steps`, until the state is read."""
        if self._draft is None:
            self._draft = self._drafting.thaw(self._state)
            self._draft.version = self._version
        return self._draft

    @property
    def steps(self) -> Mapping[type[Event], Step]:
        """How an event is folded."""
        return self._drafting.steps

    def _end_draft(self) -> None:
        if self._draft is not None:
            self._state, self._version = self._drafting.freeze(self._draft), self._draft.version
            self._draft = None


class PartitionFold:
    """Every stream of one partition up to `next_offset`, the offset of the event it wants next.

    `states` may be handed over from a snapshot. Not for two threads at once. Where it is `tolerant`, a stream whose
    event cannot be folded is set aside in `poisoned` and the others go on, else that ends it.
    """

    def __init__(self, *, next_offset: int = 0, states: dict[str, Folded] | None = None) -> None:
        self.next_offset = self._first = next_offset
        self.states: dict[str, Folded] = {} if states is None else states
        self.poisoned: dict[str, Poisoned] = {}
        self.tolerant = False
        self._steps: dict[str, _NamedSteps] = {}
        """By the kind of stream."""

    @property
    def folded(self) -> int:
        """How many events were folded here, those before a snapshot not counted."""
        return self.next_offset - self._first

    def add(self, facts: Facts) -> None:
        """Fold a batch that begins at, or before and ends after, `next_offset`; what was folded already is passed over.

        Raises LogBroken for a batch that leaves a gap and for a stream whose versions do; UnknownEventError and
        msgspec.ValidationError for an event that cannot be read. After an error the fold is of no use.
        """
        skip = self.next_offset - facts.base
        if skip < 0:
            raise LogBroken(f"expected a batch that holds offset {self.next_offset}, found one from {facts.base} on")
        if skip:
            facts = facts.between(skip, len(facts))
        if len(facts):
            self._add(facts)

    def _add(self, facts: Facts) -> None:
        """Looks up a stream, how to read a type and its step once a batch and not once an event."""
        readers, types, type_of = _readers(facts)
        streams = [self.states.get(name) or self._begin(name) for name in facts.stream_names]
        steps = _StepsOfKinds(self._steps, types)
        drafts = [(folded.draft(), steps.of(folded)) for folded in streams]
        # All of them before the first step: reading and folding in turn drive each other's code out of the cache.
        events = [readers[of](body) for of, body in zip(type_of, facts.bodies, strict=True)]
        t_min, end = facts.t_min, facts.base + len(facts)
        columns = zip(facts.stream_of, facts.versions, type_of, facts.after, events, strict=True)
        for stream, version, of, after, event in columns:
            draft, steps_of = drafts[stream]
            if version != draft.version + 1:
                raise _gap(facts.stream_names[stream], draft.version, version, end - 1 - sum(1 for _ in columns))
            draft.version = version
            try:
                steps_of[of](draft, event, t_min + after)
            except Exception as error:
                hold = self._poison(facts.stream_names[stream], version, error)
                drafts[stream] = (draft, [hold] * len(types))
        for stream, last in dict(zip(facts.stream_of, range(facts.base, end), strict=True)).items():
            streams[stream].last_offset = last
        self.next_offset = end

    def add_runs(self, runs: Runs) -> None:
        """Fold a whole segment, which must begin at `next_offset`, stream by stream: each one's draft and what it holds
        are near at hand for all its events. Raises as `add`, and CorruptSegment."""
        if runs.base != self.next_offset:
            raise LogBroken(f"expected a segment from offset {self.next_offset} on, found one from {runs.base}")
        for block in runs.blocks():
            self._add_block(block)
        self.next_offset = runs.end

    def _add_block(self, block: Block) -> None:
        readers = [_reader(*kind) for kind in block.kinds]
        types = [name for name, _ in block.kinds]
        steps, t_min = _StepsOfKinds(self._steps, types), block.t_min
        for run in block.runs:
            folded = self.states.get(run.stream) or self._begin(run.stream)
            draft, steps_of = folded.draft(), steps.of(folded)
            version = draft.version
            if run.first_version != version + 1:
                raise _gap(run.stream, version, run.first_version, run.first_offset)
            events = [readers[of](body) for of, body in zip(run.kinds, run.bodies, strict=True)]
            for of, after, event in zip(run.kinds, run.after, events, strict=True):
                draft.version = version = version + 1
                try:
                    steps_of[of](draft, event, t_min + after)
                except Exception as error:
                    steps_of = [self._poison(run.stream, version, error)] * len(types)
            folded.last_offset = run.last_offset

    def _poison(self, stream: str, version: int, error: Exception) -> Step:
        """Set the stream aside, where that is wanted, else raise `error`; the step of what comes behind."""
        if not self.tolerant:
            raise error
        poisoned = Poisoned(version, f"{type(error).__name__}: {error}")
        self.poisoned[stream] = self.states[stream].poisoned = poisoned
        return poisoned.hold

    def _begin(self, stream: str) -> Folded:
        folded = self.states[stream] = Folded(stream)
        return folded


class _NamedSteps(dict[str, Step]):
    """The steps of one kind of stream by the name of the event's type. One that is not known fails to be read first."""

    def __init__(self, folded: Folded) -> None:
        super().__init__()
        self._steps = folded.steps

    def __missing__(self, name: str) -> Step:
        step = self[name] = self._steps[EVENT_TYPES.get(name, Event)]
        return step


class _StepsOfKinds:
    """The steps of a list of types, for each kind of stream that is asked for."""

    def __init__(self, named: dict[str, _NamedSteps], types: Sequence[str]) -> None:
        self._named = named
        self._types = types
        self._found: dict[str, list[Step]] = {}

    def of(self, folded: Folded) -> list[Step]:
        """Those of this stream, by the index of the type."""
        if folded.poisoned is not None:
            return [folded.poisoned.hold] * len(self._types)
        found = self._found.get(folded.kind)
        if found is None:
            named = self._named.get(folded.kind) or self._named.setdefault(folded.kind, _NamedSteps(folded))
            found = self._found[folded.kind] = list(map(named.__getitem__, self._types))
        return found


_Reader = Callable[[msgspec.Raw], Event]


def _readers(facts: Facts) -> tuple[list[_Reader], Sequence[str], Sequence[int]]:
    """How to read each kind of body, of which type it is, and per event which kind is its own."""
    types = facts.type_names
    current = [BODY_DECODERS[name][1] if name in BODY_DECODERS else 0 for name in types]
    if list(map(current.__getitem__, facts.type_of)) == facts.schema_versions:
        return list(map(_reader, types, current)), types, facts.type_of
    pairs = list(zip(facts.types, facts.schema_versions, strict=True))
    index = {pair: at for at, pair in enumerate(dict.fromkeys(pairs))}
    return list(starmap(_reader, index)), [name for name, _ in index], list(map(index.__getitem__, pairs))


def _reader(event_type: str, schema_version: int) -> _Reader:
    known = BODY_DECODERS.get(event_type)
    if known is not None and known[1] == schema_version:
        return known[0]
    return partial(decode_body, event_type, schema_version)


def snapshot_entries(streams: Iterable[tuple[str, msgspec.Struct, int, int]]) -> Iterator[StreamEntry]:
    """(stream, state, version, last offset) as a snapshot keeps them."""
    for stream, state, version, last_offset in streams:
        yield StreamEntry(stream, version, last_offset, msgspec.Raw(_encoder.encode(state)))


def restored(snapshot: Snapshot) -> PartitionFold:
    """The fold that a snapshot is of; its fingerprint must be this fold's, which the caller has compared.

    Blocking: some 100 ms for 10,000 streams. Raises CorruptSnapshot.
    """
    states: dict[str, Folded] = {}
    try:
        for entries in snapshot.streams():
            for entry in entries:
                state = _state_decoders[kind_of(entry.stream)](entry.state)
                states[entry.stream] = Folded(entry.stream, state, entry.version, entry.last_offset)
    except (msgspec.MsgspecError, KeyError) as error:
        raise CorruptSnapshot(f"a state cannot be decoded: {error}") from error
    return PartitionFold(next_offset=snapshot.head.offset, states=states)


def _gap(stream: str, known: int, version: int, offset: int) -> LogBroken:
    return LogBroken(
        f"{stream}: expected version {known + 1} at offset {offset}, found {version}: events are missing; "
        "look with: rayfold log verify"
    )
