"""How a fold of many events goes on in one place instead of making a state for each: by steps on a draft of the state.

What a step means is the aggregate's; who folds, and that only a frozen state is ever shown, is `folding`'s.
"""

from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any

import msgspec

from events.model.base import Event

Step = Callable[[Any, Any, int], None]
"""Changes a draft to what it is after an event at a time (microseconds UTC)."""


class Drafting(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of stream is folded in place. A draft has a `version`, which its folder counts before each step.

    `thaw`: a draft of a state, which stays as it is. `freeze`: the state of a draft that is never changed again.
    `steps`: the step of each event; that of an event of another kind raises TypeError.
    """

    thaw: Callable[[Any], Any]
    freeze: Callable[[Any], Any]
    steps: Mapping[type[Event], Step]


class Steps(dict[type[Event], Step]):
    """The steps of the kind of stream that is named."""

    def __init__(self, kind: str, steps: Mapping[type[Event], Step]) -> None:
        super().__init__(steps)
        self._kind = kind

    def __missing__(self, event: type[Event]) -> Step:
        return self._refuse

    def _refuse(self, draft: Any, event: Event, at: int) -> None:
        raise TypeError(f"not an event of a {self._kind}: {type(event).__name__}")


@cache
def one_after_another(apply: Callable[[Any, Any, int], Any]) -> Drafting:
    """For an aggregate that has `apply` and nothing faster: its draft holds the newest state."""

    def step(held: _Held, event: Event, at: int) -> None:
        held.state = apply(held.state, event, at)

    return Drafting(thaw=_Held, freeze=attrgetter("state"), steps=_EveryEvent(step))


class _Held:
    __slots__ = ("state", "version")

    def __init__(self, state: Any) -> None:
        self.state = state
        self.version = 0


class _EveryEvent(dict[type[Event], Step]):
    """The same step for whatever comes: the aggregate's `apply` knows its events."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step

    def __missing__(self, event: type[Event]) -> Step:
        return self._step
