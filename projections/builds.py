"""Read model: builds, from the request to their one ending. Must not know what became of the artifact."""

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.build import (
    BuildCancelled,
    BuildCancelRequested,
    BuildFailed,
    BuildRequested,
    BuildStarted,
    BuildStatus,
    BuildSucceeded,
    BuildTimedOut,
)
from projections.model import Projection, ident_of, to_json
from projections.rows import Rows
from projections.schema import flag, index, json_text, model_table, number, seconds, text

BUILDS = model_table(
    "builds",
    text("build_id", key=True),
    text("service_id"),
    text("team"),
    text("app"),
    text("component"),
    text("operation"),
    json_text("source", blank="null"),
    number("timeout_seconds"),
    text("status"),
    text("builder"),
    number("attempt"),
    flag("cancel_requested"),
    text("code"),
    text("reason"),
    json_text("lines"),
    json_text("artifact", blank="null"),
    seconds("seconds"),
    flag("cache_hit"),
    text("requested_by"),
    number("requested_at"),
    number("started_at"),
    number("ended_at"),
)
index(BUILDS, "service_id", "requested_at")
index(BUILDS, "team", "requested_at")


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One build event."""
    build_id, at = ident_of(stored.record.stream), stored.record.at
    match event:
        case BuildRequested():
            _requested(rows, stored, event)
        case BuildStarted(builder=builder, attempt=attempt):
            status = BuildStatus.RUNNING.value
            key = (build_id,)
            rows.change(BUILDS, key, stored, status=status, builder=builder, attempt=attempt, started_at=at)
        case BuildCancelRequested():
            rows.change(BUILDS, (build_id,), stored, cancel_requested=True)
        case _:
            rows.change(BUILDS, (build_id,), stored, ended_at=at, **_ending(event))


def _requested(rows: Rows, stored: StoredEvent, event: BuildRequested) -> None:
    rows.new(
        BUILDS,
        stored,
        build_id=event.build_id,
        service_id=event.service_id,
        team=event.team,
        app=event.app,
        component=event.component,
        operation=event.operation,
        source=to_json(event.source),
        timeout_seconds=event.timeout_seconds,
        status=BuildStatus.QUEUED.value,
        requested_by=stored.record.actor,
        requested_at=stored.record.at,
    )


def _ending(event: Event) -> dict[str, str | float | bool]:
    match event:
        case BuildSucceeded():
            return {
                "status": BuildStatus.SUCCEEDED.value,
                "artifact": to_json(event.artifact),
                "seconds": event.seconds,
                "cache_hit": event.cache_hit,
            }
        case BuildFailed(code=code, reason=reason, lines=lines):
            return {"status": BuildStatus.FAILED.value, "code": code, "reason": reason, "lines": to_json(lines)}
        case BuildCancelled(reason=reason):
            return {"status": BuildStatus.CANCELLED.value, "code": "cancelled", "reason": reason}
        case BuildTimedOut(reason=reason, lines=lines):
            status = BuildStatus.TIMED_OUT.value
            return {"status": status, "code": "timed_out", "reason": reason, "lines": to_json(lines)}
    raise TypeError(f"expected a build event, found {type(event).__name__}")


PROJECTION = Projection(name="builds", version=1, kinds=frozenset({"build"}), tables=(BUILDS,), fold=fold)
