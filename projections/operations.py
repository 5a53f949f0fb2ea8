"""Read model: operations, from their start to their one ending, with each phase and its time.

Must not know what an operation does. An operation is known by its id and the stream it works on, because its id is
the caller's idempotency key, which two callers may both have chosen.
"""

import msgspec

from events.log.records import StoredEvent
from events.model.app import AppDestroyRequested
from events.model.base import Event
from events.model.component_events import (
    CancelRequested,
    DeployRequested,
    InstanceStarting,
    ReleaseCreated,
    SiblingEnded,
    SiblingsRequested,
)
from events.model.component_parts import InstanceKind, Sibling
from events.model.operation import (
    ENDINGS,
    TASK_KINDS,
    OperationFailed,
    OperationStarted,
    OperationStatus,
    OperationSucceeded,
    OperationTimedOut,
)
from events.model.registry import AGGREGATES
from projections.model import Projection, ident_of, names_of, to_json
from projections.phases import phase_of
from projections.rows import Rows
from projections.schema import Row, SqlValue, index, json_text, model_table, number, text

OPERATIONS = model_table(
    "operations",
    text("id", key=True),
    text("on_stream", key=True),
    text("kind"),
    text("detail"),
    text("status"),
    text("phase"),
    json_text("steps"),
    text("code"),
    text("reason"),
    json_text("lines"),
    number("still_serving"),
    text("result"),
    text("parent"),
    json_text("siblings"),
    text("team"),
    text("app"),
    text("component"),
    text("service_id"),
    text("build_id"),
    text("instance"),
    number("release"),
    number("rollback_of"),
    text("cancel_reason"),
    text("actor"),
    text("message"),
    number("started_at"),
    number("deadline_at"),
    number("ended_at"),
)
index(OPERATIONS, "team", "started_at")
index(OPERATIONS, "service_id", "started_at")
index(OPERATIONS, "team", "parent")
index(OPERATIONS, "on_stream", "status")


_OF_SIBLINGS = (SiblingsRequested, SiblingEnded)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """An operation entered `phase` at `at` (microseconds UTC)."""

    phase: str
    at: int


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One event of a component or an app that concerns an operation."""
    if type(event) is OperationStarted:
        _started(rows, stored, event)
        return
    row = _row_of(rows, stored.record.stream, event)
    if row is None:
        return
    changes = _changes(row, event)
    phase = phase_of(event)
    if phase is not None:
        changes |= {"phase": phase.value, "steps": _with_step(row, phase.value, stored.record.at)}
    if type(event) in ENDINGS:
        changes |= {"status": ENDINGS[type(event)].value, "ended_at": stored.record.at}
    rows.change(OPERATIONS, (row["id"], stored.record.stream), stored, **changes)


def _row_of(rows: Rows, stream: str, event: Event) -> Row | None:
    """The operation that `event` belongs to, by the id it names or, where it names none, the one under way."""
    if type(event) in _OF_SIBLINGS:
        running = rows.select(OPERATIONS, on_stream=stream, status=OperationStatus.RUNNING.value)
        return next((row for row in running if row["kind"] not in TASK_KINDS), None)
    if isinstance(event, InstanceStarting):
        operation = event.task if event.kind is InstanceKind.TASK else ""
    else:
        operation = str(getattr(event, "operation", ""))
    return rows.get(OPERATIONS, operation, stream) if operation else None


def _started(rows: Rows, stored: StoredEvent, event: OperationStarted) -> None:
    record = stored.record
    rows.new(
        OPERATIONS,
        stored,
        id=event.operation,
        on_stream=record.stream,
        kind=event.kind,
        detail=event.detail,
        status=OperationStatus.RUNNING.value,
        phase="accepted",
        steps=to_json([Step(phase="accepted", at=record.at)]),
        parent=event.parent,
        **_whose(rows, record.stream),
        actor=record.actor,
        message=record.reason,
        started_at=record.at,
        deadline_at=event.deadline_at,
    )


def _whose(rows: Rows, stream: str) -> Row:
    ident = ident_of(stream)
    if stream.startswith("app/"):
        team, _, app = ident.partition(".")
        return {"team": team, "app": app}
    return {"service_id": ident, **names_of(rows, ident)}


def _changes(row: Row, event: Event) -> dict[str, SqlValue]:
    match event:
        case OperationSucceeded(detail=detail):
            return {"result": detail}
        case DeployRequested(build_id=build_id):
            return {"build_id": build_id}
        case ReleaseCreated(release=release):
            return {"release": release.number, "rollback_of": release.rollback_of}
        case InstanceStarting(instance=instance):
            return {"instance": instance}
        case SiblingsRequested(siblings=siblings):
            return {"siblings": to_json(siblings)}
        case SiblingEnded():
            return {"siblings": _told(row, event)}
        case CancelRequested(reason=reason):
            return {"cancel_reason": reason}
        case AppDestroyRequested():
            return {"phase": "destroying"}
        case OperationFailed(code=code, reason=reason, lines=lines, still_serving=still):
            return {"code": code, "reason": reason, "lines": to_json(lines), "still_serving": still}
        case OperationTimedOut(reason=reason, still_serving=still):
            return {"code": "timed_out", "reason": reason, "still_serving": still}
        case _ if type(event) in ENDINGS:
            return {"code": "cancelled", "reason": str(getattr(event, "reason", ""))}
    return {}


def _told(row: Row, event: SiblingEnded) -> str:
    siblings = msgspec.json.decode(str(row["siblings"]), type=tuple[Sibling, ...])
    ended = {"ended": True, "succeeded": event.succeeded, "reason": event.reason}
    return to_json([msgspec.structs.replace(s, **ended) if s.process == event.process else s for s in siblings])


def _with_step(row: Row, phase: str, at: int) -> str:
    steps = msgspec.json.decode(str(row["steps"]), type=list[Step])
    return to_json([*steps, Step(phase=phase, at=at)])


_KINDS = frozenset({"component", "app"})

PROJECTION = Projection(
    name="operations",
    version=1,
    kinds=_KINDS,
    tables=(OPERATIONS,),
    fold=fold,
    takes=frozenset(
        event
        for kind in _KINDS
        for event in AGGREGATES[kind].events
        if "operation" in event.__struct_fields__ or event in (InstanceStarting, *_OF_SIBLINGS)
    ),
)
