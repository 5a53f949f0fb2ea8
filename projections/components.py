"""Read model: components as they are wanted and as they are routed, with the operation under way.

Must not know releases, instances and operations in full: those are read models of their own.
"""

import msgspec

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.component_events import (
    CancelRequested,
    ComponentCreated,
    ComponentDestroyed,
    ComponentDestroyRequested,
    DeployRequested,
    EndpointsChanged,
    ReleaseCreated,
    RolloutSucceeded,
    RoutingApplied,
    SpecChanged,
)
from events.model.component_parts import ComponentStatus, Spec
from events.model.operation import ENDINGS, TASK_KINDS, OperationStarted
from projections.model import Projection, ident_of, to_json
from projections.phases import phase_of
from projections.rows import Rows
from projections.schema import Row, SqlValue, flag, index, json_text, model_table, number, text

COMPONENTS = model_table(
    "components",
    text("service_id", key=True),
    text("team"),
    text("app"),
    text("name"),
    text("process"),
    text("status"),
    json_text("spec", blank="{}"),
    number("scale"),
    flag("stopped"),
    flag("http"),
    json_text("hosts"),
    number("current"),
    number("born_after"),
    number("last_release"),
    json_text("incoming_spec", blank="null"),
    text("operation"),
    text("operation_kind"),
    text("operation_phase"),
    text("build_id"),
    text("cancel_reason"),
    number("routing_release"),
    json_text("endpoints"),
    number("routing_version"),
    number("applied_version"),
    number("created_at"),
    text("created_by"),
)
index(COMPONENTS, "team", "app", "name")

_NO_OPERATION: dict[str, SqlValue] = {
    "operation": "",
    "operation_kind": "",
    "operation_phase": "",
    "build_id": "",
    "cancel_reason": "",
    "incoming_spec": "null",
}


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One component event. Every one of them moves the row's version, which If-Match compares."""
    service_id = ident_of(stored.record.stream)
    row = rows.get(COMPONENTS, service_id)
    if type(event) is ComponentCreated:
        _created(rows, stored, event, row)
    elif row is not None:
        rows.change(COMPONENTS, (service_id,), stored, **_changes(row, stored, event))


def _created(rows: Rows, stored: StoredEvent, event: ComponentCreated, earlier: Row | None) -> None:
    # Release numbers go on where an earlier life of the name left off; that life's releases are not this one's.
    last = earlier["last_release"] if earlier else 0
    rows.new(
        COMPONENTS,
        stored,
        service_id=event.service_id,
        team=event.team,
        app=event.app,
        name=event.name,
        process=event.process,
        status=ComponentStatus.ACTIVE.value,
        born_after=last,
        last_release=last,
        routing_version=earlier["routing_version"] if earlier else 0,
        applied_version=earlier["applied_version"] if earlier else 0,
        created_at=stored.record.at,
        created_by=stored.record.actor,
        **_spec_columns(event.spec),
    )


def _spec_columns(spec: Spec) -> dict[str, SqlValue]:
    return {
        "spec": to_json(spec),
        "scale": spec.scale,
        "stopped": spec.stopped,
        "http": spec.http,
        "hosts": to_json([f"{r.host}{r.path if r.path != '/' else ''}" for r in spec.all_routes()]),
    }


def _changes(row: Row, stored: StoredEvent, event: Event) -> dict[str, SqlValue]:
    if type(event) in ENDINGS:
        return _NO_OPERATION if getattr(event, "operation", "") == row["operation"] else {}
    changes: dict[str, SqlValue] = {}
    if (phase := phase_of(event)) and getattr(event, "operation", row["operation"]) == row["operation"]:
        changes["operation_phase"] = phase.value
    match event:
        case SpecChanged(spec=spec):
            changes |= _spec_columns(spec)
        case OperationStarted() if event.kind not in TASK_KINDS:  # a task runs beside whatever else goes on
            changes |= _NO_OPERATION | {
                "operation": event.operation,
                "operation_kind": event.kind,
                "operation_phase": "accepted",
            }
        case DeployRequested(build_id=build_id):
            changes["build_id"] = build_id
        case CancelRequested(reason=reason):
            changes["cancel_reason"] = reason or "cancelled by user"
        case ReleaseCreated(release=release):
            changes |= {"last_release": release.number, "incoming_spec": to_json(release.spec)}
        case RolloutSucceeded(release=number):
            changes |= {"current": number, **_spec_columns(_incoming(row))}
        case EndpointsChanged():
            changes["endpoints"] = to_json(event.endpoints)
            changes |= {"routing_release": event.release, "routing_version": stored.record.version}
        case RoutingApplied(version=version):
            changes["applied_version"] = max(int(row["applied_version"]), version)
        case ComponentDestroyRequested():
            changes["status"] = ComponentStatus.DESTROYING.value
        case ComponentDestroyed():
            changes |= {"status": ComponentStatus.DESTROYED.value, "current": 0}
    return changes


def _incoming(row: Row) -> Spec:
    spec = msgspec.json.decode(str(row["incoming_spec"]), type=Spec | None)
    if spec is None:
        raise LookupError("expected ReleaseCreated before RolloutSucceeded in one operation, found none")
    return spec


PROJECTION = Projection(
    name="components",
    version=1,
    kinds=frozenset({"component"}),
    tables=(COMPONENTS,),
    fold=fold,
    asks_for=(COMPONENTS,),
)
