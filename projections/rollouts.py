"""Read model: rollouts, one for each release that was to take the traffic, with phase and outcome.

Must not know instances nor gateways.
"""

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.component_events import (
    ReleaseCreated,
    RolloutFailed,
    RolloutStarted,
    RolloutSucceeded,
    RolloutSwitched,
)
from events.model.operation import OperationStatus
from projections.model import Projection, ident_of, names_of
from projections.phases import phase_of
from projections.rows import Rows
from projections.schema import SqlValue, index, model_table, number, text

ROLLOUTS = model_table(
    "rollouts",
    text("service_id", key=True),
    number("release", key=True),
    text("team"),
    text("app"),
    text("component"),
    text("operation"),
    text("phase"),
    text("status"),
    text("reason"),
    number("deadline_at"),
    number("created_at"),
    number("started_at"),
    number("switched_at"),
    number("ended_at"),
)
index(ROLLOUTS, "team", "created_at")


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One component event that concerns rollouts."""
    service_id, at = ident_of(stored.record.stream), stored.record.at
    changes: dict[str, SqlValue]
    match event:
        case ReleaseCreated():
            rows.new(
                ROLLOUTS,
                stored,
                service_id=service_id,
                release=event.release.number,
                **names_of(rows, service_id),
                operation=event.operation,
                phase="claiming",
                status=OperationStatus.RUNNING.value,
                created_at=at,
            )
            return
        case RolloutStarted():
            number, changes = event.release, {"started_at": at, "deadline_at": event.deadline_at}
        case RolloutSwitched():
            number, changes = event.release, {"switched_at": at}
        case RolloutSucceeded():
            number, changes = event.release, {"status": OperationStatus.SUCCEEDED.value, "ended_at": at}
        case RolloutFailed():
            number = event.release
            changes = {"status": OperationStatus.FAILED.value, "ended_at": at, "reason": event.reason}
        case _:
            return
    phase = phase_of(event)
    rows.change(ROLLOUTS, (service_id, number), stored, phase=phase.value if phase else "", **changes)


PROJECTION = Projection(
    name="rollouts",
    version=1,
    kinds=frozenset({"component"}),
    tables=(ROLLOUTS,),
    fold=fold,
    takes=frozenset({ReleaseCreated, RolloutStarted, RolloutSwitched, RolloutSucceeded, RolloutFailed}),
)
