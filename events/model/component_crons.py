"""What may be asked of a component's cron jobs, and what follows from them when their time comes.

A tick is decided once, by the owner, as a function of the state: its event, the operation that runs the job and the
task of that operation are one append, so that it is neither lost nor had twice, whoever dies when. Pure.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from events.model.base import Command, Decision, Event, Meta, Refusal
from events.model.component_commands import RemoveCron, ResumeCron, RunCron, SetCron, SuspendCron
from events.model.component_events import (
    CronMissed,
    CronRemoved,
    CronResumed,
    CronSet,
    CronSkipped,
    CronSuspended,
    CronTicked,
    TaskRequested,
)
from events.model.component_parts import MAX_TASKS, SECOND, ComponentState, ComponentStatus
from events.model.cron import MAX_CRONS, Cron, CronPolicy, due_ticks, job_problem, next_tick, tick_text
from events.model.operation import CRON_RUN, OperationCancelled, OperationStarted, OperationTimedOut
from events.model.placement import Room

NOTHING_RELEASED = Refusal(
    code="conflict", message="nothing is released yet, so there is nothing to run in", hint="rayfold deploy"
)
TOO_MANY_TASKS = Refusal(
    code="conflict",
    message=f"{MAX_TASKS} commands of this component run or wait already",
    hint="wait until one has ended, or cancel one: rayfold operations ID --cancel",
)


# --- what is asked ----------------------------------------------------------------------------------------------------


def _set(state: ComponentState, command: SetCron, meta: Meta) -> Decision:
    job = command.job
    if state.current == 0:
        return NOTHING_RELEASED
    if problem := job_problem(job):
        return problem
    known = state.crons.get(job.name)
    if known is None and len(state.crons) >= MAX_CRONS:
        message = f"expected at most {MAX_CRONS} jobs, found {len(state.crons)} already"
        return Refusal(code="conflict", message=message, hint="rayfold cron remove NAME")
    if known is not None and known.job == job:
        return []
    return [CronSet(job=job, next_at=0 if known and known.suspended else _first_tick(state, Cron(job=job), meta.at))]


def _first_tick(state: ComponentState, cron: Cron, at: int) -> int:
    # Never a tick that was there before, whatever the clocks of two owners say: its operation would be the same one.
    return next_tick(cron.job, max(at, state.ticked_until))


def _unknown(name: str) -> Refusal:
    return Refusal(code="not_found", message=f"no cron job {name[:60]!r} on this component", hint="rayfold cron list")


def _remove(state: ComponentState, command: RemoveCron, meta: Meta) -> Decision:
    return [CronRemoved(name=command.name)] if command.name in state.crons else _unknown(command.name)


def _suspend(state: ComponentState, command: SuspendCron, meta: Meta) -> Decision:
    cron = state.crons.get(command.name)
    if cron is None:
        return _unknown(command.name)
    return [] if cron.suspended else [CronSuspended(name=command.name)]


def _resume(state: ComponentState, command: ResumeCron, meta: Meta) -> Decision:
    cron = state.crons.get(command.name)
    if cron is None:
        return _unknown(command.name)
    if not cron.suspended:
        return []
    return [CronResumed(name=command.name, next_at=_first_tick(state, cron, meta.at))]


def _run_now(state: ComponentState, command: RunCron, meta: Meta) -> Decision:
    cron = state.crons.get(command.name)
    if cron is None:
        return _unknown(command.name)
    if cron.job.policy is CronPolicy.FORBID and (busy := _not_over(state, command.name)):
        hint = "wait for it, cancel it, or allow runs beside each other (--policy allow)"
        return Refusal(code="conflict", message=f"a run of {command.name} is not over: {busy}", hint=hint)
    if len(state.tasks) >= MAX_TASKS:
        return TOO_MANY_TASKS
    why = f"{meta.actor} asked for a run now"
    replaced = _replaced(state, cron, why) if cron.job.policy is CronPolicy.REPLACE else []
    run = _run(cron, meta.command_id, 0, meta.at, by=meta.actor, why=meta.reason)
    return [*run, *replaced]  # its own first: the operation that the answer is about names the events of one append


# --- what follows -----------------------------------------------------------------------------------------------------


def tick_crons(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """What becomes of the first job whose time has come; one at a time, for each run is an operation of its own."""
    if state.status is not ComponentStatus.ACTIVE:
        return []
    for cron in state.crons.values():
        if 0 < cron.next_at <= now:
            return _tick(state, cron, now)
    return []


def _tick(state: ComponentState, cron: Cron, now: int) -> list[Event]:
    job = cron.job
    due = due_ticks(job, cron.next_at, now)
    next_at = next_tick(job, max(now, due.last))
    late = now - due.last > job.late_seconds * SECOND
    if late or due.count > 1:
        # Said once and not caught up on: a burst of runs helps nobody. The newest may still be in time.
        last, count = (due.last, due.count) if late else (due.before_last, due.count - 1)
        return [
            CronMissed(name=job.name, first=due.first, last=last, count=count, more=due.more,
                       next_at=next_at if late else due.last)
        ]  # fmt: skip
    if job.policy is CronPolicy.FORBID and (busy := _not_over(state, job.name)):
        reason = f"the run before is not over: {busy}"
        return [CronSkipped(name=job.name, tick=due.last, reason=reason, next_at=next_at)]
    if job.policy is CronPolicy.REPLACE:
        replaced = _replaced(state, cron, f"the run of {tick_text(due.last)} takes its place")
        if replaced:
            return replaced[:1]  # the tick stays due, and comes next
    if len(state.tasks) >= MAX_TASKS:
        return [CronSkipped(name=job.name, tick=due.last, reason=TOO_MANY_TASKS.message, next_at=next_at)]
    operation = f"cron-{state.service_id}-{job.name}-{tick_text(due.last)}"
    ticked = CronTicked(name=job.name, tick=due.last, operation=operation, next_at=next_at)
    why = f"its time has come: {tick_text(due.last)}"
    return [ticked, *_run(cron, operation, due.last, now, by="platform", why=why)]


def _run(cron: Cron, operation: str, tick: int, at: int, *, by: str, why: str) -> list[Event]:
    job = cron.job
    start_by = (tick or at) + job.late_seconds * SECOND
    end_by = at + (job.late_seconds + job.run_seconds) * SECOND
    detail = f"{job.name}: {job.command}"[:200]
    return [
        OperationStarted(operation=operation, kind=CRON_RUN, detail=detail, deadline_at=end_by, by=by, why=why),
        TaskRequested(
            operation=operation, command=job.command, cron=job.name, tick=tick, start_by=start_by, end_by=end_by
        ),
    ]


def _replaced(state: ComponentState, cron: Cron, reason: str) -> list[Event]:
    return [
        OperationCancelled(operation=operation, reason=reason)
        for operation, task in state.tasks.items()
        if task.cron == cron.job.name
    ]


def _not_over(state: ComponentState, name: str) -> str:
    """A run of the job that is not over, or what of it still runs; empty when there is none."""
    for operation, task in state.tasks.items():
        if task.cron == name:
            return f"operation {operation}"
    return next((f"instance {i.id} is being stopped" for i in state.instances.values() if i.cron == name), "")


def must_wait(state: ComponentState, operation: str) -> bool:
    """Whether a task may not start yet: runs of its job must not overlap, and one that was cancelled still runs."""
    task = state.tasks[operation]
    cron = state.crons.get(task.cron)
    if cron is None or cron.job.policy is CronPolicy.ALLOW:
        return False
    return any(i.cron == task.cron for i in state.instances.values())


def late_tasks(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """The end of a task that could not be started in time, or runs for too long; its instance is stopped for it."""
    for operation, task in state.tasks.items():
        if not task.instance and 0 < task.start_by <= now:
            reason = "it could not be started in time: no node had room for it"
            return [OperationTimedOut(operation=operation, reason=reason)]
        if 0 < task.end_by <= now:
            return [OperationTimedOut(operation=operation, reason="it ran longer than it may")]
    return []


def cron_deadlines(state: ComponentState) -> list[int]:
    """When something may follow from the jobs and tasks although nothing happens (microseconds UTC)."""
    times = [cron.next_at for cron in state.crons.values()]
    for task in state.tasks.values():
        times += [task.end_by] if task.instance else [task.start_by, task.end_by]
    return times


ASKED_OF_CRONS = cast(
    "dict[type[Command], Callable[[ComponentState, Any, Meta], Decision]]",
    {SetCron: _set, RemoveCron: _remove, SuspendCron: _suspend, ResumeCron: _resume, RunCron: _run_now},
)
