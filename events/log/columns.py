"""The body of a batch of format 2: events as columns, what a fold needs apart from the rest of the envelope.

Knows the fields of an event and which of them usually repeat; nothing of headers' checksums or of where bytes are kept.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, TypeVar

import msgspec

from events.log.records import EventRecord

Index = Annotated[int, msgspec.Meta(ge=0)]


class FactColumns(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One entry per event, in log order. A pair is a dictionary: its values, and per event the index of its value."""

    streams: list[Index]
    """Index of the stream in the header's list."""
    versions: list[int]
    types: tuple[list[str], list[Index]]
    schema_versions: tuple[list[int], list[int]]
    times: list[int]
    """Microseconds after the header's `t_min`."""
    bodies: list[msgspec.Raw]


class _TypeColumn(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The beginning of `FactColumns`: nothing but the names of the types is made."""

    streams: msgspec.Raw
    versions: msgspec.Raw
    types: tuple[list[str], msgspec.Raw]


class EnvelopeColumns(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What no fold looks at. A mapping holds only the events (by index) whose value is not the usual one."""

    event_ids: dict[int, str]
    """Usual: `stream@version`."""
    command_ids: dict[int, str]
    """Usual: the id of the command whose span in the header holds the event."""
    causation_ids: dict[int, str]
    """Usual: the event's command id."""
    correlation_ids: tuple[list[str], list[int]]
    actors: tuple[list[str], list[int]]
    reasons: tuple[list[str], list[int]]
    traceparents: tuple[list[str], list[int]]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a batch that a fold needs, as columns of equal length. Event i has the offset `base + i`.

    Streams and types are dictionaries: their names, and per event the index of its name. `after`: microseconds after
    `t_min`. `bodies` are undecoded.
    """

    base: int
    t_min: int
    stream_names: Sequence[str]
    stream_of: Sequence[int]
    versions: Sequence[int]
    type_names: Sequence[str]
    type_of: Sequence[int]
    schema_versions: Sequence[int]
    after: Sequence[int]
    bodies: Sequence[msgspec.Raw]

    def __len__(self) -> int:
        return len(self.bodies)

    @property
    def streams(self) -> list[str]:
        """Per event."""
        return [self.stream_names[index] for index in self.stream_of]

    @property
    def types(self) -> list[str]:
        """Per event."""
        return [self.type_names[index] for index in self.type_of]

    @property
    def times(self) -> list[int]:
        """Per event, microseconds UTC."""
        return [self.t_min + after for after in self.after]

    def between(self, first: int, end: int) -> "Facts":
        """Those from index `first` on and before `end`."""
        return msgspec.structs.replace(
            self,
            base=self.base + first,
            **{name: getattr(self, name)[first:end] for name in _PER_EVENT},
        )


_PER_EVENT = ("stream_of", "versions", "type_of", "schema_versions", "after", "bodies")

T = TypeVar("T", str, int)

_encoder = msgspec.msgpack.Encoder()
_facts_decoder = msgspec.msgpack.Decoder(FactColumns)
_type_decoder = msgspec.msgpack.Decoder(_TypeColumn)
_envelope_decoder = msgspec.msgpack.Decoder(EnvelopeColumns)


class Columns(NamedTuple):
    """The fields of `EventRecord`, in its order, each of all events."""

    streams: Sequence[str]
    versions: Sequence[int]
    types: Sequence[str]
    schema_versions: Sequence[int]
    event_ids: Sequence[str]
    times: Sequence[int]
    command_ids: Sequence[str]
    correlation_ids: Sequence[str]
    causation_ids: Sequence[str]
    actors: Sequence[str]
    reasons: Sequence[str]
    traceparents: Sequence[str]
    bodies: Sequence[msgspec.Raw]


def transpose(events: Sequence[EventRecord]) -> Columns:
    """Events, at least one, as columns."""
    return Columns(*zip(*map(msgspec.structs.astuple, events), strict=True))


def encode_columns(
    columns: Columns, *, streams: Mapping[str, int], commands: Sequence[str], t_min: int
) -> tuple[bytes, bytes]:
    """The two sections. `streams` gives each stream's index in the header; `commands` each event's command in it."""
    facts = FactColumns(
        streams=list(map(streams.__getitem__, columns.streams)),
        versions=list(columns.versions),
        types=_dictionary(columns.types),
        schema_versions=_dictionary(columns.schema_versions),
        times=[at - t_min for at in columns.times],
        bodies=list(columns.bodies),
    )
    usual_ids = [f"{stream}@{version}" for stream, version in zip(columns.streams, columns.versions, strict=True)]
    envelope = EnvelopeColumns(
        event_ids=_unusual(columns.event_ids, usual_ids),
        command_ids=_unusual(columns.command_ids, commands),
        causation_ids=_unusual(columns.causation_ids, columns.command_ids),
        correlation_ids=_dictionary(columns.correlation_ids),
        actors=_dictionary(columns.actors),
        reasons=_dictionary(columns.reasons),
        traceparents=_dictionary(columns.traceparents),
    )
    return _encoder.encode(facts), _encoder.encode(envelope)


def decode_facts_section(section: bytes, *, base: int, count: int, streams: Sequence[str], t_min: int) -> Facts:
    """Read the first section. Raises msgspec.MsgspecError, IndexError or ValueError if it does not hold `count`."""
    columns = _facts_decoder.decode(section)
    type_names, type_of = columns.types
    facts = Facts(
        base=base,
        t_min=t_min,
        stream_names=streams,
        stream_of=columns.streams,
        versions=columns.versions,
        type_names=type_names,
        type_of=type_of or _implied(type_names, count),
        schema_versions=_expand(columns.schema_versions, count),
        after=columns.times,
        bodies=columns.bodies,
    )
    lengths = {len(getattr(facts, name)) for name in _PER_EVENT}
    if lengths != {count}:
        raise ValueError(f"its header counts {count} records, its columns hold {sorted(lengths)}")
    # An index beyond its names would be found only in the middle of a fold.
    if max({*facts.stream_of}) >= len(streams) or max({*facts.type_of}) >= len(type_names):
        raise ValueError("an index points beyond its names")
    return facts


def type_names(section: bytes) -> list[str]:
    """The types in the first section, each once. Raises msgspec.MsgspecError if it is none."""
    return _type_decoder.decode(section).types[0]


def facts_of(records: Sequence[EventRecord], *, base: int) -> Facts:
    """The facts of whole records, which begin at offset `base`."""
    streams = {name: index for index, name in enumerate(dict.fromkeys(record.stream for record in records))}
    types = {name: index for index, name in enumerate(dict.fromkeys(record.type for record in records))}
    return Facts(
        base=base,
        t_min=0,
        stream_names=list(streams),
        stream_of=[streams[record.stream] for record in records],
        versions=[record.version for record in records],
        type_names=list(types),
        type_of=[types[record.type] for record in records],
        schema_versions=[record.schema_version for record in records],
        after=[record.at for record in records],
        bodies=[record.body for record in records],
    )


def join_envelopes(facts: Facts, section: bytes, commands: Sequence[str]) -> list[EventRecord]:
    """Whole records: the facts, and the second section beside them. Raises as `decode_facts_section` does."""
    count = len(facts)
    columns = _envelope_decoder.decode(section)
    command_ids = _replaced(commands, columns.command_ids)
    streams = facts.streams
    event_ids = [f"{stream}@{version}" for stream, version in zip(streams, facts.versions, strict=True)]
    rows = zip(
        streams,
        facts.versions,
        facts.types,
        facts.schema_versions,
        _replaced(event_ids, columns.event_ids),
        facts.times,
        command_ids,
        _expand(columns.correlation_ids, count),
        _replaced(command_ids, columns.causation_ids),
        _expand(columns.actors, count),
        _expand(columns.reasons, count),
        _expand(columns.traceparents, count),
        facts.bodies,
        strict=True,
    )
    return [EventRecord(*row) for row in rows]


def _dictionary(column: Sequence[T]) -> tuple[list[T], list[int]]:
    """The distinct values and their indexes. Without indexes: one value for all, or each event its own."""
    table: dict[T, int] = dict.fromkeys(column, 0)
    if len(table) in (1, len(column)):
        return list(table), []
    for index, value in enumerate(table):
        table[value] = index
    return list(table), list(map(table.__getitem__, column))


def _implied(values: Sequence[str], count: int) -> Sequence[int]:
    """The indexes that `_dictionary` left out: one value for all, or each event its own."""
    return [0] * count if len(values) == 1 else range(len(values))


def _expand(column: tuple[list[T], list[int]], count: int) -> list[T]:
    values, indexes = column
    if indexes:
        return list(map(values.__getitem__, indexes))
    return values * count if len(values) == 1 else values


def _unusual(column: Sequence[str], usual: Sequence[str]) -> dict[int, str]:
    if list(column) == list(usual):
        return {}
    return {
        index: value for index, (value, expected) in enumerate(zip(column, usual, strict=True)) if value != expected
    }


def _replaced(usual: Sequence[str], unusual: Mapping[int, str]) -> Sequence[str]:
    if not unusual:
        return usual
    values = list(usual)
    for index, value in unusual.items():
        values[index] = value
    return values
