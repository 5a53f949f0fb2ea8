"""Which phase of an operation an event enters: the one table that components, rollouts and operations share.

Must not know any table of SQL.
"""

from events.model.base import Event
from events.model.component_events import (
    DeployRequested,
    ReleaseCreated,
    RolloutFailed,
    RolloutStarted,
    RolloutSucceeded,
    RolloutSwitched,
    SiblingsRequested,
)
from events.model.component_parts import Phase

_ENTERS: dict[type[Event], Phase] = {
    DeployRequested: Phase.BUILDING,
    ReleaseCreated: Phase.CLAIMING,
    RolloutStarted: Phase.STARTING,
    RolloutSwitched: Phase.SWITCHED,
    RolloutSucceeded: Phase.DONE,
    RolloutFailed: Phase.FAILED,
    SiblingsRequested: Phase.SIBLINGS,
}


def phase_of(event: Event) -> Phase | None:
    """The phase that `event` enters; None when it enters none."""
    return _ENTERS.get(type(event))
