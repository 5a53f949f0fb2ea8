"""Read model: instances, those that run and the last that ended, with why and their last words.

Must not know how an instance is run.
"""

from enum import StrEnum

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.component_events import (
    EndpointsChanged,
    InstanceExited,
    InstanceReady,
    InstanceStarted,
    InstanceStarting,
    InstanceStopped,
    InstanceStopping,
    InstanceUnready,
)
from projections.model import Projection, ident_of, names_of, to_json
from projections.rows import Rows
from projections.schema import SqlValue, flag, index, json_text, model_table, number, text

KEPT_ENDED = 50
"""Ended instances kept for each component: enough for a crash loop's story, bounded for ever."""

INSTANCES = model_table(
    "instances",
    text("id", key=True),
    text("service_id"),
    number("ordinal"),
    text("team"),
    text("app"),
    text("component"),
    number("slot"),
    text("kind"),
    text("node"),
    number("release"),
    text("command"),
    text("task"),
    text("status"),
    flag("alive"),
    flag("draining"),
    text("host"),
    number("port"),
    number("pid"),
    number("exit_code"),
    number("signal"),
    text("reason"),
    json_text("lines"),
    number("restart_at"),
    number("starting_at"),
    number("started_at"),
    number("ready_at"),
    number("ended_at"),
)
index(INSTANCES, "service_id", "alive", "ordinal")
index(INSTANCES, "node", "alive")
index(INSTANCES, "team", "starting_at")


class ShownStatus(StrEnum):
    """starting → started → ready ⇄ unready → stopping → stopped; or → crashed; a task or release step: → exited."""

    STARTING = "starting"
    STARTED = "started"
    READY = "ready"
    UNREADY = "unready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CRASHED = "crashed"
    EXITED = "exited"


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One component event that concerns instances."""
    at = stored.record.at
    changes: dict[str, SqlValue]
    match event:
        case InstanceStarting():
            _starting(rows, stored, event)
            return
        case EndpointsChanged(endpoints=endpoints):
            for endpoint in endpoints:
                row = rows.get(INSTANCES, endpoint.instance)
                if row is not None and row["draining"] != endpoint.draining:
                    rows.change(INSTANCES, (endpoint.instance,), stored, draining=endpoint.draining)
            return
        case InstanceStarted(host=host, port=port, pid=pid):
            changes = {"status": ShownStatus.STARTED.value, "host": host, "port": port, "pid": pid, "started_at": at}
        case InstanceReady():
            changes = {"status": ShownStatus.READY.value, "ready_at": at, "reason": "", "lines": "[]"}
        case InstanceUnready(reason=reason, lines=lines):
            changes = {"status": ShownStatus.UNREADY.value, "reason": reason, "lines": to_json(lines)}
        case InstanceStopping(reason=reason):
            changes = {"status": ShownStatus.STOPPING.value, "reason": reason}
        case InstanceStopped(exit_code=code, signal=signal):
            changes = {"status": ShownStatus.STOPPED.value, "exit_code": code, "signal": signal}
        case InstanceExited():
            changes = _exited(event)
        case _:
            return
    ended = isinstance(event, InstanceStopped | InstanceExited)
    if ended:
        changes |= {"alive": False, "draining": False, "ended_at": at}
    rows.change(INSTANCES, (event.instance,), stored, **changes)
    if ended:
        _prune(rows, ident_of(stored.record.stream), event.instance)


def _starting(rows: Rows, stored: StoredEvent, event: InstanceStarting) -> None:
    service_id = ident_of(stored.record.stream)
    rows.new(
        INSTANCES,
        stored,
        id=event.instance,
        service_id=service_id,
        ordinal=_ordinal(event.instance),
        **names_of(rows, service_id),
        slot=event.slot,
        kind=event.kind.value,
        node=event.node,
        release=event.release,
        command=event.command,
        task=event.task,
        status=ShownStatus.STARTING.value,
        alive=True,
        starting_at=stored.record.at,
    )


def _exited(event: InstanceExited) -> dict[str, SqlValue]:
    return {
        "status": ShownStatus.CRASHED.value if event.crashed else ShownStatus.EXITED.value,
        "exit_code": event.exit_code,
        "signal": event.signal,
        "reason": event.reason,
        "lines": to_json(event.lines),
        "restart_at": event.restart_at,
    }


def _ordinal(instance: str) -> int:
    """The count at the end of an instance's id; 0 where the id was not made by the platform."""
    tail = instance.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else 0


def _prune(rows: Rows, service_id: str, ended: str) -> None:
    if _ordinal(ended) <= KEPT_ENDED:
        return  # no more than that many can have ended: spares the query in the usual case
    gone = rows.select(INSTANCES, service_id=service_id, alive=False)
    gone.sort(key=lambda row: (row["ended_at"], row["ordinal"]))
    for row in gone[:-KEPT_ENDED]:
        rows.delete(INSTANCES, row["id"])


PROJECTION = Projection(
    name="instances",
    version=1,
    kinds=frozenset({"component"}),
    tables=(INSTANCES,),
    fold=fold,
    takes=frozenset(
        {
            InstanceStarting,
            EndpointsChanged,
            InstanceStarted,
            InstanceReady,
            InstanceUnready,
            InstanceStopping,
            InstanceStopped,
            InstanceExited,
        }
    ),
)
