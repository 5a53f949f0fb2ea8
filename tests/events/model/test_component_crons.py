"""A component's cron jobs in virtual time: every policy, late and missed ticks, suspending, and what is refused."""

from datetime import datetime
from zoneinfo import ZoneInfo

from events.model.component_commands import (
    CancelOperation,
    DestroyComponent,
    RemoveCron,
    ReportExited,
    ResumeCron,
    RunCron,
    RunTask,
    SetCron,
    SuspendCron,
)
from events.model.component_events import (
    ComponentDestroyed,
    CronMissed,
    CronSet,
    CronSkipped,
    CronTicked,
    InstanceStarting,
    InstanceStopping,
    TaskRequested,
)
from events.model.component_parts import MAX_TASKS, InstanceKind, InstanceStatus
from events.model.component_progress import effects, next_deadline
from events.model.cron import MAX_CRONS, Cron, CronJob, CronPolicy
from events.model.operation import OperationCancelled, OperationStarted, OperationTimedOut
from tests.events.model.component_world import SERVICE, World, created, deployed

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("UTC")).timestamp()) * SECOND


def world(policy: CronPolicy = CronPolicy.FORBID, schedule: str = "0 * * * *", **fields: object) -> World:
    """A deployed component at noon with a job, by default one of every hour."""
    w = deployed()
    w.now = at("2026-05-01T12:00")
    job = CronJob(name="tidy", schedule=schedule, command="tidy up", policy=policy, **fields)  # type: ignore[arg-type]
    assert w.send(SetCron(job=job)).startswith("c")
    return w


def wake(w: World, now: int) -> None:
    """Time has come to `now`, as when the owner's timer goes off."""
    w.now = now
    w.settle()


def running(w: World) -> list[str]:
    return [i.id for i in w.state.instances.values() if i.kind is InstanceKind.TASK]


def end(w: World, instance: str, code: int = 0) -> None:
    w.send(ReportExited(instance=instance, exit_code=code))


def tidy(w: World) -> Cron:
    return w.state.crons["tidy"]


def ticked(w: World) -> list[int]:
    return [e.tick for e in w.of(CronTicked) if isinstance(e, CronTicked)]


def test_a_job_knows_its_first_tick_and_the_owner_wakes_for_it() -> None:
    w = world()
    assert tidy(w).next_at == at("2026-05-01T13:00")
    assert next_deadline(w.state, w.now) == at("2026-05-01T13:00")
    wake(w, at("2026-05-01T12:59"))
    assert not w.of(CronTicked)


def test_a_tick_runs_once_and_its_operation_is_named_after_it() -> None:
    w = world()
    wake(w, at("2026-05-01T13:00"))
    wake(w, at("2026-05-01T13:00") + SECOND)
    assert ticked(w) == [at("2026-05-01T13:00")]
    [run] = w.state.tasks
    assert run == f"cron-{SERVICE}-tidy-20260501T130000Z"
    [instance] = running(w)
    assert w.state.instances[instance].command == "tidy up"
    end(w, instance)
    assert [(r.operation, r.outcome, r.tick) for r in tidy(w).runs] == [(run, "succeeded", at("2026-05-01T13:00"))]
    assert tidy(w).next_at == at("2026-05-01T14:00")


def test_the_tick_its_operation_and_its_task_are_one_decision() -> None:
    w = world()
    before = len(w.events)
    wake(w, at("2026-05-01T13:00"))
    assert [type(e) for e in w.events[before : before + 3]] == [CronTicked, OperationStarted, TaskRequested]


def test_a_failed_run_is_remembered_with_its_reason() -> None:
    w = world()
    wake(w, at("2026-05-01T13:00"))
    end(w, running(w)[0], code=3)
    assert [(r.outcome, r.reason) for r in tidy(w).runs] == [("failed", "exit code 3")]


def test_runs_beyond_the_limit_are_forgotten_oldest_first() -> None:
    w = world(history=2)
    for hour in range(13, 18):
        wake(w, at(f"2026-05-01T{hour}:00"))
        end(w, running(w)[0])
    assert [r.tick for r in tidy(w).runs] == [at("2026-05-01T16:00"), at("2026-05-01T17:00")]


def test_forbid_skips_a_tick_while_a_run_goes_on_and_says_so() -> None:
    w = world(CronPolicy.FORBID)
    wake(w, at("2026-05-01T13:00"))
    wake(w, at("2026-05-01T14:00"))
    assert len(running(w)) == 1
    [skipped] = w.of(CronSkipped)
    assert isinstance(skipped, CronSkipped)
    assert skipped.tick == at("2026-05-01T14:00") and "130000Z" in skipped.reason
    assert tidy(w).skipped == 1
    end(w, running(w)[0])
    wake(w, at("2026-05-01T15:00"))
    assert ticked(w) == [at("2026-05-01T13:00"), at("2026-05-01T15:00")]


def test_allow_runs_them_beside_each_other_up_to_what_a_component_may_have() -> None:
    w = world(CronPolicy.ALLOW)
    for hour in range(MAX_TASKS + 2):
        wake(w, at("2026-05-01T13:00") + hour * HOUR)
    # A run may take a day, and ends as timed out after that and its hour of grace.
    assert len(running(w)) == 25
    assert len(w.of(OperationTimedOut)) == len(ticked(w)) - 25


def test_a_component_full_of_tasks_skips() -> None:
    w = world(CronPolicy.ALLOW, schedule="* * * * *")
    for minute in range(1, MAX_TASKS + 3):
        wake(w, at("2026-05-01T12:00") + minute * MINUTE)
    assert len(running(w)) == MAX_TASKS
    assert tidy(w).skipped == 2
    assert w.send(RunTask(command="one more")) == "conflict"
    assert w.send(RunCron(name="tidy")) == "conflict"


def test_replace_stops_the_run_before_and_starts_only_when_it_is_gone() -> None:
    w = world(CronPolicy.REPLACE)
    wake(w, at("2026-05-01T13:00"))
    [first] = running(w)
    before = len(w.events)
    wake(w, at("2026-05-01T14:00"))
    [second] = running(w)
    assert second != first
    told = [e for e in w.events[before:] if isinstance(e, OperationCancelled | CronTicked | InstanceStarting)]
    assert [type(e) for e in told] == [OperationCancelled, CronTicked, InstanceStarting]
    assert tidy(w).runs[0].outcome == "cancelled"


def test_replace_waits_for_the_one_before_as_long_as_that_takes_to_stop() -> None:
    w = world(CronPolicy.REPLACE)
    wake(w, at("2026-05-01T13:00"))
    [first] = running(w)
    w.outcome = lambda effect: None  # type: ignore[method-assign, assignment]  # nothing stops for now
    wake(w, at("2026-05-01T14:00"))
    assert running(w) == [first] and w.state.instances[first].status is InstanceStatus.STOPPING
    assert [t.instance for t in w.state.tasks.values()] == [""], "the new run waits"
    del w.outcome  # type: ignore[method-assign]
    w.settle()
    assert running(w) and first not in running(w)


def test_a_late_tick_is_run_while_it_is_in_time() -> None:
    w = world(late_seconds=600)
    wake(w, at("2026-05-01T13:09"))
    assert ticked(w) == [at("2026-05-01T13:00")]
    assert not w.of(CronMissed)


def test_a_tick_that_is_too_late_is_missed_and_said() -> None:
    w = world(late_seconds=600)
    wake(w, at("2026-05-01T13:11"))
    assert not ticked(w)
    [missed] = w.of(CronMissed)
    assert missed == CronMissed(
        name="tidy", first=at("2026-05-01T13:00"), last=at("2026-05-01T13:00"), count=1, next_at=at("2026-05-01T14:00")
    )
    assert tidy(w).missed == 1


def test_after_an_outage_the_missed_are_one_event_and_the_newest_runs() -> None:
    w = world(schedule="*/10 * * * *", late_seconds=300)
    wake(w, at("2026-05-01T18:02"))
    [missed] = w.of(CronMissed)
    assert isinstance(missed, CronMissed)
    assert (missed.first, missed.last, missed.count) == (at("2026-05-01T12:10"), at("2026-05-01T17:50"), 35)
    assert ticked(w) == [at("2026-05-01T18:00")], "no burst"
    assert tidy(w).next_at == at("2026-05-01T18:10")


def test_a_tick_of_the_gap_at_night_comes_once_and_so_does_one_of_the_hour_that_comes_twice() -> None:
    for night, tick in (("2026-03-29", "2026-03-29T01:00"), ("2026-10-25", "2026-10-25T00:30")):
        w = deployed()
        w.now = at(f"{night}T00:00")
        w.send(SetCron(job=CronJob(name="tidy", schedule="30 2 * * *", command="tidy up", zone="Europe/Berlin")))
        for minute in range(0, 180, 5):
            wake(w, at(f"{night}T00:00") + minute * MINUTE)
        assert ticked(w) == [at(tick)]


def test_suspended_it_has_no_ticks_and_misses_none() -> None:
    w = world()
    w.send(SuspendCron(name="tidy"))
    assert next_deadline(w.state, w.now) is None
    wake(w, at("2026-05-01T15:30"))
    w.send(SetCron(job=CronJob(name="tidy", schedule="*/15 * * * *", command="tidy up")))
    assert tidy(w).suspended and not tidy(w).next_at, "another schedule does not resume it"
    w.send(ResumeCron(name="tidy"))
    assert tidy(w).next_at == at("2026-05-01T15:45")
    assert not w.of(CronMissed) and not w.of(CronTicked)


def test_run_now_runs_beside_the_schedule_also_while_suspended() -> None:
    w = world()
    w.send(SuspendCron(name="tidy"))
    operation = w.send(RunCron(name="tidy"))
    assert [*w.state.tasks] == [operation]
    end(w, running(w)[0])
    assert [(r.operation, r.tick) for r in tidy(w).runs] == [(operation, 0)]


def test_run_now_keeps_to_the_policy() -> None:
    w = world(CronPolicy.FORBID)
    w.send(RunCron(name="tidy"))
    assert w.send(RunCron(name="tidy")) == "conflict"
    wake(w, at("2026-05-01T13:00"))
    assert w.of(CronSkipped), "a run by hand counts"
    r = world(CronPolicy.REPLACE)
    first = r.send(RunCron(name="tidy"))
    second = r.send(RunCron(name="tidy"))
    assert [*r.state.tasks] == [second] and len(running(r)) == 1
    assert [e.operation for e in r.of(OperationCancelled) if isinstance(e, OperationCancelled)] == [first]


def test_a_run_can_be_cancelled_and_forbid_waits_until_it_is_gone() -> None:
    w = world(CronPolicy.FORBID)
    wake(w, at("2026-05-01T13:00"))
    [operation] = w.state.tasks
    w.outcome = lambda effect: None  # type: ignore[method-assign, assignment]
    w.send(CancelOperation(operation=operation))
    assert w.of(InstanceStopping)
    wake(w, at("2026-05-01T14:00"))
    [skipped] = w.of(CronSkipped)
    assert isinstance(skipped, CronSkipped) and "is being stopped" in skipped.reason


def test_a_run_that_takes_too_long_is_stopped() -> None:
    w = world(run_seconds=60, late_seconds=60)
    wake(w, at("2026-05-01T13:00"))
    wake(w, at("2026-05-01T13:02"))
    assert not running(w)
    assert tidy(w).runs[0].outcome == "timed_out"


def test_a_run_that_found_no_node_in_time_ends_and_never_starts() -> None:
    w = world(late_seconds=60)
    nodes, w.nodes = w.nodes, []
    wake(w, at("2026-05-01T13:00"))
    deadline = next_deadline(w.state, w.now)
    assert deadline == at("2026-05-01T13:01")
    wake(w, deadline)
    w.nodes = nodes
    wake(w, deadline + SECOND)
    assert not running(w) and tidy(w).runs[0].outcome == "timed_out"


def test_a_tick_never_comes_again_whatever_the_next_owners_clock_says() -> None:
    w = world()
    wake(w, at("2026-05-01T13:00"))
    end(w, running(w)[0])
    w.now = at("2026-05-01T12:55")
    w.send(RemoveCron(name="tidy"))
    w.send(SetCron(job=CronJob(name="tidy", schedule="0 * * * *", command="tidy up")))
    assert tidy(w).next_at == at("2026-05-01T14:00")


def test_what_is_removed_has_no_more_ticks_and_its_run_goes_on() -> None:
    w = world()
    wake(w, at("2026-05-01T13:00"))
    w.send(RemoveCron(name="tidy"))
    assert len(running(w)) == 1
    wake(w, at("2026-05-01T14:00"))
    assert ticked(w) == [at("2026-05-01T13:00")]
    end(w, running(w)[0])
    assert not w.state.tasks and not w.state.crons


def test_with_the_component_its_jobs_are_gone() -> None:
    w = world()
    wake(w, at("2026-05-01T13:00"))
    w.send(DestroyComponent())
    wake(w, at("2026-05-01T14:00"))
    assert w.of(ComponentDestroyed)
    assert not w.state.crons and not w.state.tasks and next_deadline(w.state, w.now) is None and not effects(w.state)


def test_what_is_refused() -> None:
    nightly = CronJob(name="nightly", schedule="@daily", command="true")
    assert created().send(SetCron(job=nightly)) == "conflict", "nothing is released"
    w = deployed()
    assert w.send(SetCron(job=CronJob(name="nightly", schedule="never", command="true"))) == "invalid"
    for command in (RemoveCron(name="x"), SuspendCron(name="x"), ResumeCron(name="x"), RunCron(name="x")):
        assert w.send(command) == "not_found"
    for number in range(MAX_CRONS):
        w.send(SetCron(job=CronJob(name=f"job{number}", schedule="@daily", command="true")))
    assert w.send(SetCron(job=nightly)) == "conflict"


def test_what_is_so_already_makes_no_event() -> None:
    w = world()
    job = tidy(w).job
    w.send(SetCron(job=job))
    w.send(ResumeCron(name="tidy"))
    w.send(SuspendCron(name="tidy"))
    w.send(SuspendCron(name="tidy"))
    assert len(w.of(CronSet)) == 1
    assert [type(e).__name__ for e in w.events if type(e).__name__ in ("CronResumed", "CronSuspended")] == [
        "CronSuspended"
    ]


def test_every_job_at_midnight_comes_to_rest_in_one_go() -> None:
    w = deployed()
    w.now = at("2026-05-01T12:00")
    for number in range(MAX_CRONS):
        w.send(SetCron(job=CronJob(name=f"job{number}", schedule="@daily", command="true")))
    wake(w, at("2026-05-02T00:00"))
    assert len(running(w)) == MAX_CRONS
