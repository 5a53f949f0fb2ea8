"""Our streams as aggregates of the `eventsourcing` library, as its users write them with msgspec: events of types of
their own, and a mapper.

What an event does to its aggregate is our own step, so that only the library's machinery differs. Imported only where
the library is installed.
"""

from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from eventsourcing.application import Application
from eventsourcing.persistence import Mapper, StoredEvent
from eventsourcing.utils import get_topic

from events.log.records import EventRecord
from events.model.base import Event
from events.model.drafts import one_after_another
from events.model.registry import AGGREGATES, EVENT_TYPES, decode_event, kind_of

_encoder = msgspec.msgpack.Encoder()
_event_decoders = {name: msgspec.msgpack.Decoder(tuple[int, cls]) for name, cls in EVENT_TYPES.items()}  # type: ignore[valid-type]
_state_decoders = {kind: msgspec.msgpack.Decoder(aggregate.state) for kind, aggregate in AGGREGATES.items()}
_drafting = {kind: each.drafting or one_after_another(each.apply) for kind, each in AGGREGATES.items()}


class Stream:
    """An aggregate that changes in place, as those of the library do."""

    def __init__(self, ident: UUID, kind: str, state: msgspec.Struct, version: int = 0) -> None:
        self.id = ident
        self.kind = kind
        self.draft: Any = _drafting[kind].thaw(state)
        self.draft.version = version

    @property
    def version(self) -> int:
        """How many events it has."""
        return int(self.draft.version)


class Happened(msgspec.Struct, frozen=True, gc=False):
    """A domain event. `kind`: of the aggregate."""

    originator_id: UUID
    originator_version: int
    kind: str
    at: int
    what: Event

    def mutate(self, stream: Stream | None) -> Stream:
        """The library calls it with the aggregate so far. It checks what the library's own events check."""
        stream = stream or Stream(self.originator_id, self.kind, AGGREGATES[self.kind].state())
        if self.originator_id != stream.id or self.originator_version != stream.version + 1:
            raise ValueError(f"expected version {stream.version + 1} of {stream.id}, found {self.originator_version}")
        stream.draft.version = self.originator_version
        _drafting[self.kind].steps[type(self.what)](stream.draft, self.what, self.at)
        return stream


class Snapshot(msgspec.Struct, frozen=True):
    """What the library keeps of an aggregate when it is asked for a snapshot."""

    originator_id: UUID
    originator_version: int
    kind: str
    state: msgspec.Struct

    @classmethod
    def take(cls, stream: Stream) -> "Snapshot":
        """The library calls it."""
        return cls(stream.id, stream.version, stream.kind, frozen(stream))

    def mutate(self, stream: None) -> Stream:
        """The library calls it before the events that follow."""
        return Stream(self.originator_id, self.kind, self.state, self.originator_version)


class MsgspecMapper(Mapper[UUID]):  # type: ignore[misc]
    """Events and snapshots as MessagePack of their own types. A topic is `kind:type`, of a snapshot `kind:`."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """See the library."""
        if isinstance(domain_event, Snapshot):
            name, state = "", _encoder.encode(domain_event.state)
        else:
            name, state = type(domain_event.what).__name__, _encoder.encode((domain_event.at, domain_event.what))
        topic = f"{domain_event.kind}:{name}"
        return StoredEvent(domain_event.originator_id, domain_event.originator_version, topic, state)

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        """See the library."""
        ident, version = stored_event.originator_id, stored_event.originator_version
        kind, _, name = stored_event.topic.partition(":")
        if not name:
            return Snapshot(ident, version, kind, _state_decoders[kind].decode(stored_event.state))
        at, what = _event_decoders[name].decode(stored_event.state)
        return Happened(ident, version, kind, at, what)


class Streams(Application[UUID]):  # type: ignore[misc]
    """Its repository is what is measured."""

    snapshot_class = Snapshot
    env = {"MAPPER_TOPIC": get_topic(MsgspecMapper)}


def frozen(stream: Stream) -> msgspec.Struct:
    """The state of an aggregate that takes no more events."""
    state: msgspec.Struct = _drafting[stream.kind].freeze(stream.draft)
    return state


def happened(record: EventRecord) -> Happened:
    """Our record as the library's event; it names aggregates by UUID."""
    kind = kind_of(record.stream)
    return Happened(uuid5(NAMESPACE_URL, record.stream), record.version, kind, record.at, decode_event(record))
