"""How often the folding of each event was tried, each try noted before it is made, in files that outlive the process.

A model may take its process along: whoever comes next finds what was being folded, by which model, and how often that
was before. A kill from outside is noted alike; so only the very event at hand is held to it, and forgotten once it is
folded. Knows nothing of transactions, nor of what a model makes of an event.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from events.failpoints import failpoint
from events.hand import Hand
from events.log.records import Position, StoredEvent

ATTEMPTS_MOST = 3
DIED = "the process died in it"
NOTE_BYTES = 64 * 1024
NOTED_TRIES = 32
"""The newest of them; a process that died has one, and each further one a model that fails beside it."""
NOTED_ERROR_CHARACTERS = 200
NOTE_VERSION = 1
"""Of what stands in both files; of another is read as nothing."""

_log = structlog.get_logger(__name__)
_place = struct.Struct("<BIq")  # version, partition and offset; the model's name follows


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Events of one partition, from `first` to before `end`."""

    partition: int
    first: int
    end: int

    def __contains__(self, other: "Span") -> bool:
        return other.partition == self.partition and self.first <= other.first and other.end <= self.end


class _Tries(msgspec.Struct, frozen=True, array_like=True):
    projection: str
    partition: int
    offset: int
    count: int
    error: str


class _Note(msgspec.Struct, frozen=True, array_like=True):
    version: int
    spans: list[Span]
    tries: list[_Tries]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Note).decode

Gathered = Mapping[int, Sequence[StoredEvent]]
"""Contiguous events by partition."""


class Poison(msgspec.Struct, frozen=True, kw_only=True):
    """The event at which a projection gives up on a stream."""

    projection: str
    stored: StoredEvent
    error: str
    attempts: int


class Attempts:
    """Of one projector, which alone uses the files `path` and, beside it, `.batch`. Without a path nothing outlives the
    process.

    They belong to the machine and to the projector's name: whoever folds a partition elsewhere begins to count anew.
    A damaged file, or one of another version, counts as none. A kill in the instant in which they are read and written
    anew may lose a count: then there is a try more.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._hand = Hand(path)
        self._note = Hand(path and path.with_suffix(".batch"), size=NOTE_BYTES)
        self._doubtful: list[Span] = []
        self._tries: dict[tuple[str, Position], _Tries] = {}
        self._durable = path is not None
        self._learn()

    def _learn(self) -> None:
        if self._note.left:
            note = _note_of(self._note.left)
            self._doubtful = list(note.spans)
            self._tries = {(t.projection, Position(t.partition, t.offset)): t for t in note.tries}
        if (left := _event_of(self._hand.left)) is not None:
            projection, place = left
            count = self._count(projection, place, DIED)
            span = Span(place.partition, place.offset, place.offset + 1)
            if not any(span in known for known in self._doubtful):
                self._doubtful.append(span)
            _log.warning("projector.died_in_it", projection=projection, position=str(place), attempt=count)
        self._write(self._doubtful)
        failpoint("projections.counted")

    # --- noted before it is done ----------------------------------------------------------------------------------

    @contextmanager
    def of(self, spans: Iterable[Span]) -> Iterator[None]:
        """While this lasts, a death leaves these spans in doubt."""
        self._write([*self._doubtful, *(span for span in spans if not any(span in s for s in self._doubtful))])
        try:
            yield
        finally:
            self._write(self._doubtful)

    def begin(self, projection: str, position: Position) -> None:
        """From here on a death of this process is the event's, in this model."""
        if self._durable:  # on the hot path: half a microsecond
            self._hand.take(_place.pack(NOTE_VERSION, *position) + projection.encode())

    def end(self) -> None:
        """No event is at hand."""
        self._hand.put_down()

    # --- what came of it ------------------------------------------------------------------------------------------

    def failed(self, projection: str, position: Position, error: str) -> int:
        """It was tried and failed; returns how often by now."""
        count = self._count(projection, position, error)
        self._write(self._doubtful)
        return count

    def reached(self, next_: Mapping[tuple[str, int], int]) -> None:
        """Where the models are, (model, partition) → next offset: what they have folded is held to nothing any more."""
        if not self._doubtful and not self._tries:
            return
        slowest: dict[int, int] = {}
        for (_, partition), offset in next_.items():
            slowest[partition] = min(offset, slowest.get(partition, offset))
        self._doubtful = [span for span in self._doubtful if span.end > slowest.get(span.partition, 0)]
        self._tries = {
            key: tries
            for key, tries in self._tries.items()
            if tries.offset >= next_.get((tries.projection, tries.partition), 0)
        }
        self._write(self._doubtful)

    # --- what is to be done ---------------------------------------------------------------------------------------

    def portions(self, gathered: Gathered) -> Iterator[tuple[Gathered, bool]]:
        """What is gathered, in order; what is in doubt event by event, and then True is beside it."""
        if not self._doubtful:
            yield gathered, False
            return
        rest: dict[int, Sequence[StoredEvent]] = {}
        for partition, events in gathered.items():
            alone = len(events)
            while alone and not self._in_doubt(events[alone - 1].position):
                alone -= 1
            for stored in events[:alone]:
                yield {partition: [stored]}, True
            if alone < len(events):
                rest[partition] = events[alone:]
        if rest:
            yield rest, False

    def given_up(self, gathered: Gathered) -> list[Poison]:
        """Of these events those that were tried often enough, by offset."""
        found = []
        for tries in sorted(self._tries.values(), key=lambda tries: tries.offset):
            if tries.count < ATTEMPTS_MOST or not (events := gathered.get(tries.partition)):
                continue
            index = tries.offset - events[0].position.offset
            if 0 <= index < len(events):
                stored = events[index]
                found.append(
                    Poison(projection=tries.projection, stored=stored, error=tries.error, attempts=tries.count)
                )
        return found

    def _in_doubt(self, position: Position) -> bool:
        single = Span(position.partition, position.offset, position.offset + 1)
        return any(single in span for span in self._doubtful)

    # --- the files ------------------------------------------------------------------------------------------------

    def _count(self, projection: str, position: Position, error: str) -> int:
        before = self._tries.pop((projection, position), None)
        count = 1 + (before.count if before is not None else 0)
        self._tries[projection, position] = _Tries(projection, *position, count, error)
        return count

    def _write(self, spans: Sequence[Span]) -> None:
        if not self._durable:
            return
        if not spans and not self._tries:
            self._note.put_down()
            return
        newest = list(self._tries.values())[-NOTED_TRIES:]
        tries = [msgspec.structs.replace(t, error=t.error[:NOTED_ERROR_CHARACTERS]) for t in newest]
        self._note.take(_encode(_Note(NOTE_VERSION, list(spans), tries)))


def _event_of(words: bytes) -> tuple[str, Position] | None:
    if len(words) <= _place.size:
        return None
    version, partition, offset = _place.unpack_from(words)
    if version != NOTE_VERSION or offset < 0:
        return None
    return words[_place.size :].decode("utf-8", "replace"), Position(partition, offset)


def _note_of(words: bytes) -> _Note:
    try:
        note = _decode(words)
        if note.version == NOTE_VERSION:
            return note
        found = f"version {note.version}"
    except msgspec.DecodeError as error:
        found = str(error)
    _log.warning("projector.attempts_unreadable", expected=f"version {NOTE_VERSION}", found=found)
    return _Note(NOTE_VERSION, [], [])
