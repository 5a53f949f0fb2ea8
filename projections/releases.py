"""Read model: releases, each the whole desired state of a component, and what became of it.

Must not know how a rollout proceeds, only how it ended.
"""

from enum import StrEnum

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.component_events import (
    ComponentDestroyed,
    ReleaseCreated,
    ReleasesPruned,
    RolloutFailed,
    RolloutSucceeded,
)
from projections.model import Projection, ident_of, names_of, to_json
from projections.rows import Rows
from projections.schema import SqlValue, index, json_text, model_table, number, text

RELEASES = model_table(
    "releases",
    text("service_id", key=True),
    number("number", key=True),
    text("team"),
    text("app"),
    text("component"),
    text("operation"),
    text("status"),
    text("digest"),
    text("commit_id"),
    text("detected"),
    text("language"),
    text("command"),
    number("rollback_of"),
    text("created_by"),
    text("reason"),
    number("created_at"),
    number("ended_at"),
    text("failure"),
    json_text("release", blank="null"),
)
index(RELEASES, "service_id", "status")


class ReleaseStatus(StrEnum):
    """created → current → succeeded (it served once; another took over), or created → failed; both can end as pruned:
    what it would run is gone."""

    CREATED = "created"
    CURRENT = "current"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PRUNED = "pruned"


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One component event that concerns releases."""
    service_id, at = ident_of(stored.record.stream), stored.record.at
    match event:
        case ReleaseCreated():
            _created(rows, stored, event)
        case RolloutSucceeded(release=number):
            _retire(rows, stored, service_id)
            changes: dict[str, SqlValue] = {"status": ReleaseStatus.CURRENT.value, "ended_at": at}
            rows.change(RELEASES, (service_id, number), stored, **changes)
        case RolloutFailed(release=number, reason=reason):
            row = rows.get(RELEASES, service_id, number)
            if row is not None and row["status"] == ReleaseStatus.CREATED:
                changes = {"status": ReleaseStatus.FAILED.value, "ended_at": at, "failure": reason}
                rows.change(RELEASES, (service_id, number), stored, **changes)
        case ReleasesPruned(releases=numbers):
            for number in numbers:
                rows.change(RELEASES, (service_id, number), stored, status=ReleaseStatus.PRUNED.value)
        case ComponentDestroyed():
            _retire(rows, stored, service_id)


def _created(rows: Rows, stored: StoredEvent, event: ReleaseCreated) -> None:
    service_id, release = ident_of(stored.record.stream), event.release
    rows.new(
        RELEASES,
        stored,
        service_id=service_id,
        number=release.number,
        **names_of(rows, service_id),
        operation=event.operation,
        status=ReleaseStatus.CREATED.value,
        digest=release.artifact.digest,
        commit_id=release.artifact.commit,
        detected=release.artifact.detected,
        language=release.artifact.language,
        command=release.command,
        rollback_of=release.rollback_of,
        created_by=release.created_by,
        reason=release.reason,
        created_at=release.created_at,
        release=to_json(release),
    )


def _retire(rows: Rows, stored: StoredEvent, service_id: str) -> None:
    for row in rows.select(RELEASES, service_id=service_id, status=ReleaseStatus.CURRENT.value):
        rows.change(RELEASES, (service_id, row["number"]), stored, status=ReleaseStatus.SUCCEEDED.value)


PROJECTION = Projection(
    name="releases",
    version=1,
    kinds=frozenset({"component"}),
    tables=(RELEASES,),
    fold=fold,
    takes=frozenset({ReleaseCreated, RolloutSucceeded, RolloutFailed, ReleasesPruned, ComponentDestroyed}),
)
