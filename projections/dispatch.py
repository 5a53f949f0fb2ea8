"""Which read models an event is for: a table by the kind of its stream and its type, made as events come by.

Must not know what any model makes of an event.
"""

from collections.abc import Iterable

from events.log.records import EventRecord
from events.model.component_events import ComponentCreated
from events.model.registry import EVENT_TYPES
from projections.model import Projection


class Dispatch:
    """Over a fixed set of read models."""

    def __init__(self, projections: Iterable[Projection]) -> None:
        self.projections = {p.name: p for p in projections}
        self._by_kind: dict[str, tuple[Projection, ...]] = {}
        self._by_type: dict[tuple[str, str, int], tuple[Projection, ...]] = {}

    def of_kind(self, kind: str) -> tuple[Projection, ...]:
        """The models that fold streams of this kind."""
        if kind not in self._by_kind:
            self._by_kind[kind] = tuple(p for p in self.projections.values() if kind in p.kinds)
        return self._by_kind[kind]

    def of(self, kind: str, record: EventRecord) -> tuple[Projection, ...]:
        """Those of `of_kind` that take such an event; all of them where nobody here knows its type or version."""
        key = (kind, record.type, record.schema_version)
        if key not in self._by_type:
            self._by_type[key] = tuple(p for p in self.of_kind(kind) if _takes(p, record))
        return self._by_type[key]


def _takes(projection: Projection, record: EventRecord) -> bool:
    cls = EVENT_TYPES.get(record.type)
    if cls is None or record.schema_version > cls.schema_version or cls is ComponentCreated:
        # Unknown: it may be for any of them, and is set aside. A creation: every model learns the names from it.
        return True
    return projection.takes is None or cls in projection.takes
