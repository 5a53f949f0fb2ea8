"""A history taken step by step: each event with the state before and after it, and what it changed.

Pure, over the aggregates' own `apply`; must not know how a step is shown, nor where the events came from.
"""

from collections.abc import Iterator, Sequence

import msgspec

from events.log.records import StoredEvent
from events.model.registry import apply_record, initial_state
from events.replay.diffing import Change, diff, lookup
from events.replay.errors import NoSuchMoment
from events.replay.fields import resolve_field


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `before` and `after` are the states around it, which share what it did not change."""

    event: StoredEvent
    before: msgspec.Struct
    after: msgspec.Struct

    def changes(self) -> list[Change]:
        """What the event changed, by path."""
        return diff(self.before, self.after)

    def touches(self, field: str) -> bool:
        """Whether the value at `field`, named as `why` takes it, is another one after the event. Raises NoSuchField."""
        path = resolve_field(self.event.record.stream, field)
        return lookup(self.before, path) != lookup(self.after, path)


def steps(stream: str, events: Sequence[StoredEvent], *, first: int = 1, last: int | None = None) -> Iterator[Step]:
    """The events from version `first` to `last` (both inclusive; to the end by default), each with its states.

    `events` is the whole history: what lies before `first` is folded and not handed out. Raises NoSuchMoment for
    bounds that the stream does not have.
    """
    end = len(events) if last is None else last
    if not 1 <= first <= end <= len(events):
        raise NoSuchMoment(
            f"expected versions from 1 to {len(events)} of {stream}, first before last; found {first} to {end}"
        )
    return _steps(stream, events, first, end)


def _steps(stream: str, events: Sequence[StoredEvent], first: int, last: int) -> Iterator[Step]:
    state = initial_state(stream)
    for number, stored in enumerate(events[:last], 1):
        before, state = state, apply_record(state, stored.record)
        if number >= first:
            yield Step(event=stored, before=before, after=state)
