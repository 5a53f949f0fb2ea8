"""Says in an application's own log what the platform did with it: `platform` lines beside the application's.

A line is a courtesy: it may be missing after a crash, and nothing depends on it. The events are the truth.
"""

from collections.abc import Callable, Sequence
from typing import Any

from events.log.records import EventRecord
from events.model import component_events
from events.model.base import Event
from events.model.component_parts import InstanceKind
from events.model.cron import tick_text
from events.model.operation import (
    OperationCancelled,
    OperationFailed,
    OperationStarted,
    OperationSucceeded,
    OperationTimedOut,
)
from events.model.registry import decode_event

Emit = Callable[[str, str], None]
"""Takes a service id and a line of text."""

_TOLD: dict[type[Event], Callable[[Any], str]] = {
    OperationStarted: lambda e: f"{e.kind} {e.detail}".strip() + f" has begun (operation {e.operation})",
    OperationFailed: lambda e: f"operation {e.operation} failed: {e.reason}",
    OperationCancelled: lambda e: f"operation {e.operation} was cancelled: {e.reason}",
    OperationTimedOut: lambda e: f"operation {e.operation} timed out: {e.reason}",
    component_events.ReleaseCreated: lambda e: (
        f"release v{e.release.number} created by {e.release.created_by}"
        + (f", content of v{e.release.rollback_of}" if e.release.rollback_of else "")
    ),
    component_events.ReleasesPruned: lambda e: f"releases {_numbers(e.releases)} are pruned: no rollback to them",
    component_events.RolloutSucceeded: lambda e: f"release v{e.release} is live",
    component_events.RolloutFailed: lambda e: f"rollout of v{e.release} failed: {e.reason}",
    component_events.InstanceStarting: lambda e: f"{_place(e)} of v{e.release} starts on {e.node}",
    component_events.InstanceReady: lambda e: f"instance {e.instance} is ready",
    component_events.InstanceUnready: lambda e: f"instance {e.instance} is not ready: {e.reason}",
    component_events.InstanceExited: lambda e: (
        f"instance {e.instance} " + (f"crashed: {e.reason}" if e.crashed else f"ended: {e.reason}")
    ),
    component_events.CronSkipped: lambda e: f"cron job {e.name} does not run for {tick_text(e.tick)}: {e.reason}",
    component_events.CronMissed: lambda e: (
        f"cron job {e.name} missed {'at least ' if e.more else ''}{e.count} of its times, "
        f"from {tick_text(e.first)} to {tick_text(e.last)}"
    ),
    component_events.InstanceStopping: lambda e: f"instance {e.instance} stops: {e.reason}",
}
TOLD_TYPES = frozenset(cls.__name__ for cls in _TOLD)


def narrate(records: Sequence[EventRecord], emit: Emit) -> None:
    """Emit a line for each event of a component that its owner would want to read of.

    `records` are one append. An operation that begins and succeeds in it is over before a line could be read, and
    changes nothing that runs.
    """
    over = {record.correlation_id for record in records if record.type == OperationSucceeded.__name__}
    for record in records:
        if record.type == OperationStarted.__name__ and record.correlation_id in over:
            continue
        kind, _, service_id = record.stream.partition("/")
        if kind == "component" and record.type in TOLD_TYPES:
            event = decode_event(record)
            emit(service_id, _TOLD[type(event)](event))


def _numbers(releases: Sequence[int]) -> str:
    shown = ", ".join(f"v{number}" for number in releases[:10])
    return shown + (f" and {len(releases) - 10} more" if len(releases) > 10 else "")


def _place(event: "component_events.InstanceStarting") -> str:
    if event.kind is InstanceKind.SERVICE:
        return f"instance {event.instance} (slot {event.slot})"
    return f"{event.kind.value.replace('_', ' ')} `{event.command}`"
