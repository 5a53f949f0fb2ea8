"""What a component's cron jobs and tasks are after their events: steps of `component_fold`, on its draft."""

import msgspec

from events.model.base import Event
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
from events.model.component_parts import ComponentDraft, Task
from events.model.cron import Cron, CronRun
from events.model.drafts import Step
from events.model.operation import ENDINGS, OperationCancelled, OperationFailed, OperationSucceeded, OperationTimedOut

_replace = msgspec.structs.replace


def _on_set(draft: ComponentDraft, event: CronSet, at: int) -> None:
    known = draft.crons.get(event.job.name)
    draft.crons[event.job.name] = _replace(known or Cron(job=event.job), job=event.job, next_at=event.next_at)


def _on_removed(draft: ComponentDraft, event: CronRemoved, at: int) -> None:
    draft.crons.pop(event.name, None)


def _on_suspended(draft: ComponentDraft, event: CronSuspended, at: int) -> None:
    draft.crons[event.name] = _replace(draft.crons[event.name], suspended=True, next_at=0)


def _on_resumed(draft: ComponentDraft, event: CronResumed, at: int) -> None:
    draft.crons[event.name] = _replace(draft.crons[event.name], suspended=False, next_at=event.next_at)


def _on_ticked(draft: ComponentDraft, event: CronTicked, at: int) -> None:
    _passed(draft, event.name, event.tick, event.next_at)


def _on_skipped(draft: ComponentDraft, event: CronSkipped, at: int) -> None:
    cron = _passed(draft, event.name, event.tick, event.next_at)
    draft.crons[event.name] = _replace(cron, skipped=cron.skipped + 1)


def _on_missed(draft: ComponentDraft, event: CronMissed, at: int) -> None:
    cron = _passed(draft, event.name, event.last, event.next_at)
    draft.crons[event.name] = _replace(cron, missed=cron.missed + event.count)


def _passed(draft: ComponentDraft, name: str, tick: int, next_at: int) -> Cron:
    cron = _replace(draft.crons[name], last_tick=tick, next_at=next_at)
    draft.crons[name] = cron
    draft.ticked_until = max(draft.ticked_until, tick)
    return cron


def _on_task_requested(draft: ComponentDraft, event: TaskRequested, at: int) -> None:
    draft.tasks[event.operation] = Task(
        command=event.command,
        cron=event.cron,
        tick=event.tick,
        start_by=event.start_by,
        end_by=event.end_by,
        began_at=at,
    )


def keep_run(
    draft: ComponentDraft,
    task: Task,
    event: OperationSucceeded | OperationFailed | OperationCancelled | OperationTimedOut,
    at: int,
) -> None:
    """A run is over: its job remembers it, and forgets the oldest beyond its limit."""
    cron = draft.crons.get(task.cron)
    if cron is None:
        return
    run = CronRun(
        operation=event.operation,
        outcome=ENDINGS[type(event)].value,
        tick=task.tick,
        began_at=task.began_at,
        ended_at=at,
        reason="" if isinstance(event, OperationSucceeded) else event.reason[:200],
    )
    draft.crons[task.cron] = _replace(cron, runs=(*cron.runs, run)[-cron.job.history :])


CRON_STEPS: dict[type[Event], Step] = {
    CronSet: _on_set,
    CronRemoved: _on_removed,
    CronSuspended: _on_suspended,
    CronResumed: _on_resumed,
    CronTicked: _on_ticked,
    CronSkipped: _on_skipped,
    CronMissed: _on_missed,
    TaskRequested: _on_task_requested,
}
