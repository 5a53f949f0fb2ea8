"""What a read model is to the projector: a name, a version, the streams it folds, its tables, and the fold itself.

Must not know any particular model, nor how batches come in.
"""

from collections.abc import Callable

import msgspec
from sqlalchemy import Table

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.component_events import ComponentCreated
from projections.rows import Rows
from projections.schema import COMPONENT_NAMES, Row

_json_encoder = msgspec.json.Encoder()

Fold = Callable[[Rows, StoredEvent, Event], None]
"""Changes the model's rows by one event. Deterministic; reads and writes only its own tables and component names."""


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """A read model. A new `version` makes every projector fold it again from the start.

    Every row comes from the events of one stream, and so of one partition: the order between partitions, which differs
    from run to run, can then never show in the rows.
    """

    name: str
    version: int
    kinds: frozenset[str]
    tables: tuple[Table, ...]
    fold: Fold
    takes: frozenset[type[Event]] | None = None
    """Events that can change its rows; None: any of its kinds. `fold` need not be asked about others."""
    asks_for: tuple[Table, ...] = ()
    """Tables of its own whose rows begin with the ident of a stream, and that it asks for on most events: they are
    read for a whole batch at once."""


def learn_names(rows: Rows, event: Event) -> None:
    """Keep what a service_id stands for, before any model meets an event that names only the id."""
    if type(event) is ComponentCreated:
        rows.put(
            COMPONENT_NAMES,
            {"service_id": event.service_id, "team": event.team, "app": event.app, "component": event.name},
        )


def names_of(rows: Rows, service_id: str) -> Row:
    """`team`, `app` and `component` of a service_id; raises LookupError when its creation was never folded."""
    found = rows.get(COMPONENT_NAMES, service_id)
    if found is None:
        raise LookupError(f"expected ComponentCreated before other events of component/{service_id}, found none")
    return {"team": found["team"], "app": found["app"], "component": found["component"]}


def ident_of(stream: str) -> str:
    """The part of a stream's name after its kind."""
    return stream.partition("/")[2]


def to_json(value: object) -> str:
    """`value` as the JSON that a JSON column keeps."""
    return _json_encoder.encode(value).decode()
