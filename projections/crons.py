"""Read model: a component's cron jobs, and the runs that each remembers.

Must not compute a tick: the events say when the next one is.
"""

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.component_events import (
    ComponentDestroyed,
    CronMissed,
    CronRemoved,
    CronResumed,
    CronSet,
    CronSkipped,
    CronSuspended,
    CronTicked,
    TaskRequested,
)
from events.model.operation import ENDINGS, OperationStatus, OperationSucceeded
from projections.model import Projection, ident_of, names_of
from projections.rows import Rows
from projections.schema import Row, SqlValue, flag, index, model_table, number, text

CRONS = model_table(
    "crons",
    text("service_id", key=True),
    text("name", key=True),
    text("team"),
    text("app"),
    text("component"),
    text("schedule"),
    text("zone"),
    text("command"),
    text("policy"),
    number("late_seconds"),
    number("run_seconds"),
    number("history"),
    flag("suspended"),
    number("next_at"),
    number("last_tick"),
    number("missed"),
    number("skipped"),
    text("last_skip"),
    number("created_at"),
)
index(CRONS, "team", "app", "component", "name")

CRON_RUNS = model_table(
    "cron_runs",
    text("service_id", key=True),
    text("operation", key=True),
    text("cron"),
    text("team"),
    text("app"),
    text("component"),
    number("tick"),
    text("status"),
    text("reason"),
    number("began_at"),
    number("ended_at"),
)
index(CRON_RUNS, "service_id", "cron", "began_at")
index(CRON_RUNS, "team", "app", "component", "began_at")


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One event of a component that concerns its jobs."""
    service_id = ident_of(stored.record.stream)
    if type(event) in ENDINGS:  # by far the most: not after a walk through the others
        _ended(rows, stored, service_id, event)
        return
    match event:
        case CronSet():
            _set(rows, stored, service_id, event)
        case CronRemoved(name=name):
            _forget(rows, service_id, name)
        case CronSuspended(name=name):
            rows.change(CRONS, (service_id, name), stored, suspended=True, next_at=0)
        case CronResumed(name=name, next_at=next_at):
            rows.change(CRONS, (service_id, name), stored, suspended=False, next_at=next_at)
        case CronTicked(name=name, tick=tick, next_at=next_at):
            rows.change(CRONS, (service_id, name), stored, last_tick=tick, next_at=next_at)
        case CronSkipped():
            _count(rows, stored, service_id, event.name, "skipped", 1, last_tick=event.tick, next_at=event.next_at,
                   last_skip=event.reason)  # fmt: skip
        case CronMissed():
            _count(rows, stored, service_id, event.name, "missed", event.count, last_tick=event.last,
                   next_at=event.next_at)  # fmt: skip
        case TaskRequested() if event.cron:
            _began(rows, stored, service_id, event)
        case ComponentDestroyed():
            for row in rows.select(CRONS, service_id=service_id):
                _forget(rows, service_id, str(row["name"]))


def _set(rows: Rows, stored: StoredEvent, service_id: str, event: CronSet) -> None:
    job = event.job
    asked: Row = {
        "schedule": job.schedule,
        "zone": job.zone,
        "command": job.command,
        "policy": job.policy.value,
        "late_seconds": job.late_seconds,
        "run_seconds": job.run_seconds,
        "history": job.history,
        "next_at": event.next_at,
    }
    if rows.change(CRONS, (service_id, job.name), stored, **asked) is None:
        at = stored.record.at
        names = names_of(rows, service_id)
        rows.new(CRONS, stored, service_id=service_id, name=job.name, **names, **asked, created_at=at)


def _forget(rows: Rows, service_id: str, name: str) -> None:
    for run in rows.select(CRON_RUNS, service_id=service_id, cron=name):
        rows.delete(CRON_RUNS, service_id, run["operation"])
    rows.delete(CRONS, service_id, name)


def _count(
    rows: Rows, stored: StoredEvent, service_id: str, name: str, column: str, count: int, **values: SqlValue
) -> None:
    row = rows.get(CRONS, service_id, name)
    if row is not None:
        rows.change(CRONS, (service_id, name), stored, **{column: int(row[column]) + count}, **values)


def _began(rows: Rows, stored: StoredEvent, service_id: str, event: TaskRequested) -> None:
    rows.new(
        CRON_RUNS,
        stored,
        service_id=service_id,
        operation=event.operation,
        cron=event.cron,
        **names_of(rows, service_id),
        tick=event.tick,
        status=OperationStatus.RUNNING.value,
        began_at=stored.record.at,
    )


def _ended(rows: Rows, stored: StoredEvent, service_id: str, event: Event) -> None:
    operation = str(getattr(event, "operation", ""))
    run = rows.get(CRON_RUNS, service_id, operation)
    if run is None:
        return
    reason = "" if isinstance(event, OperationSucceeded) else str(getattr(event, "reason", ""))[:200]
    ended = {"status": ENDINGS[type(event)].value, "reason": reason, "ended_at": stored.record.at}
    job = rows.get(CRONS, service_id, str(run["cron"]))
    if job is None:  # removed while it ran: nobody asks for it under that name any more
        rows.delete(CRON_RUNS, service_id, operation)
        return
    rows.change(CRON_RUNS, (service_id, operation), stored, **ended)
    over = [r for r in rows.select(CRON_RUNS, service_id=service_id, cron=run["cron"]) if r["ended_at"]]
    over.sort(key=lambda r: (int(r["ended_at"]), int(r["version"])))
    for old in over[: -int(job["history"])]:
        rows.delete(CRON_RUNS, service_id, old["operation"])


PROJECTION = Projection(
    name="crons",
    version=1,
    kinds=frozenset({"component"}),
    tables=(CRONS, CRON_RUNS),
    fold=fold,
    takes=frozenset(
        {
            CronSet,
            CronRemoved,
            CronSuspended,
            CronResumed,
            CronTicked,
            CronSkipped,
            CronMissed,
            TaskRequested,
            ComponentDestroyed,
            *ENDINGS,
        }
    ),
    asks_for=(CRON_RUNS,),
)
