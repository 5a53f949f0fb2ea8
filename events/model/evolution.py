"""How an event of an earlier schema version becomes one of the present: by the steps that stand in its own class.

An event whose stored shape changes raises its `schema_version` and keeps, for each version it ever had, a static method
`upcast_N(fields) -> fields` that turns version N into N + 1. Pure; knows no event in particular.
"""

from collections.abc import Callable, Iterable, Mapping

from events.model.base import Event

Fields = dict[str, object]
"""A stored body: field names and plain values, those left out that had their default then."""

Upcaster = Callable[[Fields], Fields]

_STEP = "upcast_"


class UnknownEventError(Exception):
    """The log holds an event this version does not know: it was written by a newer one."""


class EvolutionError(Exception):
    """An event class and its upcasters do not fit together: a mistake in the code, told when it is imported."""


def collect_upcasters(events: Iterable[type[Event]]) -> dict[tuple[str, int], Upcaster]:
    """(type, from version) → the step to the next version.

    Raises EvolutionError unless each class has exactly the steps 1 … schema_version - 1.
    """
    found: dict[tuple[str, int], Upcaster] = {}
    for event in events:
        steps = {name: getattr(event, name) for name in vars(event) if name.startswith(_STEP)}
        wanted = [f"{_STEP}{version}" for version in range(1, event.schema_version)]
        if sorted(steps) != sorted(wanted):
            raise EvolutionError(
                f"{event.__name__} has schema version {event.schema_version}: expected the static methods "
                f"{', '.join(wanted) or 'none'}, found {', '.join(sorted(steps)) or 'none'}; see docs/events.md"
            )
        found |= {(event.__name__, int(name.removeprefix(_STEP))): step for name, step in steps.items()}
    return found


def upcast(
    event_type: str, fields: Fields, *, found: int, current: int, steps: Mapping[tuple[str, int], Upcaster]
) -> Fields:
    """`fields` of schema version `found` as they would be stored in version `current`. Raises UnknownEventError."""
    if not 1 <= found <= current:
        raise UnknownEventError(
            f"expected {event_type} in a schema version from 1 to {current}, found version {found}: it was written by "
            "a newer rayfold; upgrade this one"
        )
    for version in range(found, current):
        fields = steps[event_type, version](fields)
    return fields
