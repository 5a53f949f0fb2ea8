"""Which event set a field, and which one is behind each difference between two states. Pure.

Must not know any aggregate: a field is a path into a state, as `diff` shows it.
"""

from collections.abc import Mapping, Sequence

import msgspec

from events.log.records import StoredEvent
from events.model.registry import initial_state
from events.replay.diffing import MISSING, Change, Missing, Path, Plain, join_path, lookup, split_path, to_plain
from events.replay.fields import resolve_field
from events.replay.history import states_of
from events.replay.steps import steps


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One event that set a field, and its `origin`: where its operation began, which says who asked and why (the event
    itself where it has none). A side that was not there is None and named in `added` or `removed`."""

    event: StoredEvent
    origin: StoredEvent
    before: Plain
    after: Plain
    added: bool = False
    removed: bool = False


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """The story of a field: who set it, oldest first. `field` is the full path; `value` what it is now (None and
    `present` false: nothing is there)."""

    stream: str
    field: str
    value: Plain
    present: bool
    settings: Sequence[Setting]


class AttributedChange(msgspec.Struct, frozen=True, kw_only=True):
    """A difference, the last event that set this place (None only if none of the events given did), and its origin, as
    in `Setting`."""

    change: Change
    event: StoredEvent | None
    origin: StoredEvent | None


def why(stream: str, events: Sequence[StoredEvent], field: str) -> Why:
    """Every event that set `field`, a dotted path or the beginning of one (`config`, `config.KEY`, `scale`).

    Raises NoSuchField, naming the nearest, for what no state of this kind can have.
    """
    path = resolve_field(stream, field)
    settings: list[Setting] = []
    begun = _beginnings(events)
    value: object = lookup(initial_state(stream), path)
    if events:
        for step in steps(stream, events):
            before, value = value, lookup(step.after, path)
            if before is not value and before != value:
                settings.append(_setting(step.event, begun, before, value))
    return Why(
        stream=stream,
        field=join_path(path),
        value=_shown(value),
        present=value is not MISSING,
        settings=settings,
    )


def _beginnings(events: Sequence[StoredEvent]) -> dict[str, StoredEvent]:
    return {s.record.correlation_id: s for s in reversed(events) if s.record.type == "OperationStarted"}


def _setting(event: StoredEvent, begun: Mapping[str, StoredEvent], before: object, after: object) -> Setting:
    return Setting(
        event=event,
        origin=begun.get(event.record.correlation_id, event),
        before=_shown(before),
        after=_shown(after),
        added=before is MISSING,
        removed=after is MISSING,
    )


def _shown(value: object) -> Plain:
    return None if isinstance(value, Missing) else to_plain(value)


def attribute(
    stream: str, events: Sequence[StoredEvent], changes: Sequence[Change], *, before: int, after: int
) -> list[AttributedChange]:
    """For each of `changes` between versions `before` and `after`: the last event between them that set that place.

    `events` is the whole history. Where `before` lies after `after`, the events between them are meant all the same.
    """
    low, high = sorted((before, after))
    states = states_of(stream, events[:high])
    left = {change.path: split_path(change.path) for change in changes}
    found: dict[str, StoredEvent] = {}
    for version in range(high, low, -1):
        for name in [n for n, path in left.items() if _differ(states[version - 1], states[version], path)]:
            found[name] = events[version - 1]
            del left[name]
        if not left:
            break
    begun = _beginnings(events)
    attributed: list[AttributedChange] = []
    for change in changes:
        event = found.get(change.path)
        origin = None if event is None else begun.get(event.record.correlation_id, event)
        attributed.append(AttributedChange(change=change, event=event, origin=origin))
    return attributed


def _differ(before: object, after: object, path: Path) -> bool:
    was, now = lookup(before, path), lookup(after, path)
    return was is not now and was != now
