"""One of our streams as an aggregate of the `eventsourcing` library. Imported only where that library is installed."""

import base64
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Transcoding

from events.log.records import EventRecord
from events.model.registry import AGGREGATES, apply_record, initial_state

_record_decoder = msgspec.msgpack.Decoder(EventRecord)


class Stream(Aggregate):  # type: ignore[misc]
    """Its events are our records as they are encoded; its state is what our `apply` makes of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = initial_state(name)

    @staticmethod
    def create_id(name: str) -> UUID:
        """The library names aggregates by UUID."""
        return uuid5(NAMESPACE_URL, name)

    @event("Happened")  # type: ignore[untyped-decorator]
    def happen(self, record: str) -> None:
        """`record`: base64, for the library's events are JSON."""
        self.state = apply_record(self.state, _record_decoder.decode(base64.b64decode(record)))


def packed(record: EventRecord) -> str:
    """What `happen` takes."""
    return base64.b64encode(msgspec.msgpack.encode(record)).decode()


def application(env: dict[str, str]) -> Any:
    """An application that can keep snapshots of our states."""

    class _Application(Application):  # type: ignore[misc]
        def register_transcodings(self, transcoder: Any) -> None:
            super().register_transcodings(transcoder)
            for aggregate in AGGREGATES.values():
                transcoder.register(_state_transcoding(aggregate.kind, aggregate.state)())

    return _Application(env=env)


def _state_transcoding(kind: str, state: type[msgspec.Struct]) -> Any:
    decoder = msgspec.msgpack.Decoder(state)

    class _State(Transcoding):  # type: ignore[misc]
        type, name = state, f"{kind}-state"

        def encode(self, obj: msgspec.Struct) -> str:
            return base64.b64encode(msgspec.msgpack.encode(obj)).decode()

        def decode(self, data: str) -> msgspec.Struct:
            return decoder.decode(base64.b64decode(data))

    return _State
