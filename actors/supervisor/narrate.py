"""Says in an application's own log what the platform did with it: `platform` lines beside the application's.

What belongs to an operation is said in a log of the operation's own too, which ends with it. A line is a courtesy: it
may be missing after a crash, and nothing depends on it. The events are the truth.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from actors.logs.line import operation_stream
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
"""Takes a stream of lines and a line of text."""

End = Callable[[str, str], None]
"""Takes a finite stream of lines and how it ended."""

_MOST_OPERATIONS = 10_000
"""Under way at once; what is said of an older one is in its component's log only."""

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
_OUTCOMES = {
    OperationSucceeded.__name__: "succeeded",
    OperationFailed.__name__: "failed",
    OperationCancelled.__name__: "cancelled",
    OperationTimedOut.__name__: "timed_out",
}


class Narrator:
    """Called with each append of any stream. It knows what is under way since it began, or as it is told."""

    def __init__(self, emit: Emit, end: End) -> None:
        self._emit = emit
        self._end = end
        self._under_way: OrderedDict[str, str] = OrderedDict()

    def __call__(self, records: Sequence[EventRecord], running: str = "") -> None:
        """Emit a line for each event of a component that its owner would want to read of.

        `running`: the operation that was under way in this stream. An operation that begins and succeeds in one append
        is over before a line could be read, and changes nothing that runs.
        """
        kind, _, service_id = records[0].stream.partition("/")
        if kind != "component":
            return
        over = {record.correlation_id for record in records if record.type == OperationSucceeded.__name__}
        if running:
            self._begin(running, service_id)
        for record in records:
            if record.type == OperationStarted.__name__:
                if record.correlation_id in over:
                    continue
                self._begin(record.correlation_id, service_id)
            lines = self._under_way.get(record.correlation_id, "")
            if record.type in TOLD_TYPES:
                event = decode_event(record)
                text = _TOLD[type(event)](event)
                for stream in (service_id, lines) if lines else (service_id,):
                    self._emit(stream, text)
            if lines and record.type in _OUTCOMES:
                if record.type == OperationSucceeded.__name__:
                    self._emit(lines, f"operation {record.correlation_id} succeeded")
                self._end(lines, _OUTCOMES[record.type])
                del self._under_way[record.correlation_id]

    def _begin(self, operation: str, service_id: str) -> None:
        self._under_way[operation] = operation_stream(service_id, operation)
        self._under_way.move_to_end(operation)
        if len(self._under_way) > _MOST_OPERATIONS:
            self._under_way.popitem(last=False)


def _numbers(releases: Sequence[int]) -> str:
    shown = ", ".join(f"v{number}" for number in releases[:10])
    return shown + (f" and {len(releases) - 10} more" if len(releases) > 10 else "")


def _place(event: "component_events.InstanceStarting") -> str:
    if event.kind is InstanceKind.SERVICE:
        return f"instance {event.instance} (slot {event.slot})"
    return f"{event.kind.value.replace('_', ' ')} `{event.command}`"
