"""A component's story told end to end against a world that always does what it is asked, or fails where told to."""

import pytest

from events.model.build import Artifact, Source
from events.model.component_commands import (
    CancelOperation,
    ChangeSpec,
    CreateComponent,
    Deploy,
    DeployArtifact,
    DestroyComponent,
    ReportExited,
    Restart,
    Rollback,
    RunTask,
)
from events.model.component_events import (
    ComponentDestroyRequested,
    EndpointsChanged,
    InstanceExited,
    InstanceStarting,
    InstanceStopping,
    RolloutSucceeded,
    RolloutSwitched,
    RoutingApplied,
)
from events.model.component_parts import ComponentStatus, InstanceKind, InstanceStatus, RouteSpec, Spec
from events.model.component_progress import (
    next_deadline,
)
from events.model.operation import OperationCancelled, OperationFailed, OperationSucceeded, OperationTimedOut
from tests.events.model.component_world import SECOND, SERVICE, World, artifact, created, deployed


def test_a_first_deploy_ends_live_with_one_ready_instance() -> None:
    w = deployed()
    assert w.state.current == 1
    assert w.state.operation is None
    assert [i.status for i in w.state.instances.values()] == [InstanceStatus.READY]
    assert len(w.state.endpoints) == 1
    assert isinstance(w.events[-1], OperationSucceeded)


def test_a_redeploy_stops_the_old_instance_only_after_gateways_applied_and_it_drained() -> None:
    w = deployed()
    old = next(iter(w.state.instances))
    w.next_artifact = artifact("two")
    w.send(Deploy(source=Source(kind="upload", digest="d2")))
    w.run()
    names = [type(e).__name__ for e in w.events]
    switched = names.index("RolloutSwitched", names.index("RolloutSucceeded"))
    after = names[switched:]
    assert after.index("EndpointsChanged") < after.index("RoutingApplied") < after.index("EndpointsDrained")
    assert after.index("EndpointsDrained") < after.index("InstanceStopping") < after.index("RolloutSucceeded")
    stopping = w.of(InstanceStopping)
    assert [e.instance for e in stopping] == [old]  # type: ignore[attr-defined]
    assert w.state.current == 2


def test_old_instances_keep_running_while_a_gateway_does_not_answer_and_the_operation_times_out() -> None:
    w = deployed()
    old = next(iter(w.state.instances))
    w.gateways_answer = False
    w.next_artifact = artifact("two")
    w.send(Deploy(source=Source(kind="upload", digest="d2")))
    w.run()
    assert w.state.instances[old].status is InstanceStatus.READY
    assert next_deadline(w.state, w.now) is not None
    w.now = w.state.operation.deadline_at  # type: ignore[union-attr]
    w.run()
    assert w.of(OperationTimedOut)
    assert w.state.current == 1
    w.gateways_answer = True
    w.run()
    assert list(w.state.instances) == [old]
    assert [e.instance for e in w.state.endpoints if not e.draining] == [old]


@pytest.mark.parametrize(("fate", "code"), [("exit", "crashed"), ("unready", "not_ready")])
def test_a_release_that_does_not_come_up_fails_and_the_old_one_goes_on(fate: str, code: str) -> None:
    w = deployed()
    old = next(iter(w.state.instances))
    w.start = lambda instance: fate
    w.next_artifact = artifact("two")
    w.send(Deploy(source=Source(kind="upload", digest="d2")))
    w.run()
    failed = w.of(OperationFailed)[-1]
    assert (failed.code, failed.still_serving) == (code, 1)  # type: ignore[attr-defined]
    assert failed.lines  # type: ignore[attr-defined]
    assert list(w.state.instances) == [old]
    w.start = lambda instance: "ready"
    w.next_artifact = artifact("three")
    w.send(Deploy(source=Source(kind="upload", digest="d3")))
    w.run()
    assert w.state.current == 3


def test_scaling_keeps_what_runs_and_only_adds_or_removes_the_difference() -> None:
    w = deployed()
    first = next(iter(w.state.instances))
    w.send(ChangeSpec(scale=3))
    w.run()
    assert first in w.state.instances
    assert len(w.state.endpoints) == 3
    w.send(ChangeSpec(scale=1))
    w.run()
    assert list(w.state.instances) == [first]
    assert w.state.current == 3


def test_config_scale_and_routes_come_back_with_a_rollback() -> None:
    w = deployed()
    w.send(ChangeSpec(config_set={"A": "1"}, routes_add=(RouteSpec("a.example.com"),), scale=2))
    w.run()
    assert w.state.claims == (RouteSpec("a.example.com"),)
    w.send(Rollback())
    w.run()
    assert w.state.spec.config == {}
    assert w.state.spec.scale == 1
    assert w.state.claims == ()
    assert w.state.releases[3].rollback_of == 1
    w.send(Rollback(to=2))
    w.run()
    assert w.state.spec.config == {"A": "1"}
    assert w.state.routes == (RouteSpec("shop.localhost"), RouteSpec("a.example.com"))


def test_a_route_that_somebody_else_holds_fails_the_change_and_nothing_moves() -> None:
    w = deployed()
    w.refuse_claims = "a.example.com/ is taken by another application"
    w.send(ChangeSpec(routes_add=(RouteSpec("a.example.com"),)))
    w.run()
    assert w.of(OperationFailed)[-1].code == "conflict"  # type: ignore[attr-defined]
    assert w.state.spec.routes == ()
    assert w.state.current == 1


def test_crashes_restart_three_times_at_once_then_after_one_second_doubling_to_five_minutes() -> None:
    w = deployed()
    waits = []
    for _ in range(14):
        instance = next(iter(w.state.instances))
        w.send(ReportExited(instance=instance, exit_code=1, reason="exit code 1", lines=("boom",)))
        exited = w.of(InstanceExited)[-1]
        waits.append((exited.restart_at - w.now) // SECOND if exited.restart_at > w.now else 0)  # type: ignore[attr-defined]
        w.now = max(w.now, exited.restart_at)  # type: ignore[attr-defined]
        w.run()
    assert [round(x + 0.5) for x in waits[:3]] == [0, 0, 0]
    rounded = [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert all(abs(wait - want) <= 1 for wait, want in zip(waits, rounded, strict=True)), waits


def test_a_second_deploy_while_one_runs_is_a_conflict_and_changes_nothing() -> None:
    w = created(start=lambda instance: "nothing")
    w.send(Deploy(source=Source(kind="upload", digest="d1")))
    events = len(w.events)
    assert w.send(Deploy(source=Source(kind="upload", digest="d2"))) == "conflict"
    assert len(w.events) == events


def test_cancelling_before_the_switch_stops_the_new_instances() -> None:
    w = created(start=lambda instance: "nothing")
    operation = w.send(Deploy(source=Source(kind="upload", digest="d1")))
    w.send(CancelOperation(operation=operation), reason="wrong branch")
    w.run()
    assert w.of(OperationCancelled)[-1].reason == "wrong branch"  # type: ignore[attr-defined]
    assert w.state.instances == {}


def test_a_release_step_runs_once_before_the_switch_and_its_failure_fails_the_deploy() -> None:
    w = created()
    w.next_artifact = Artifact(digest="x", size_bytes=1, processes={"web": "w"}, release_command="migrate")
    w.send(Deploy(source=Source(kind="upload", digest="d1")))
    w.run()
    steps = [e for e in w.events if getattr(e, "kind", "") == InstanceKind.RELEASE_STEP]
    assert len(steps) == 1
    assert w.state.current == 1
    assert w.state.ended_tasks == {}


@pytest.mark.parametrize("told", [True, False])
def test_an_artifact_that_was_built_elsewhere_has_its_release_step_run_where_that_is_said(told: bool) -> None:
    w = created()
    artifact = Artifact(digest="x", size_bytes=1, processes={"web": "w"}, release_command="migrate")
    w.send(DeployArtifact(artifact=artifact, release_step=told))
    w.run()
    assert [e.kind for e in w.of(InstanceStarting)].count(InstanceKind.RELEASE_STEP) == told  # type: ignore[attr-defined]
    assert w.state.current == 1


def _stuck_in_its_release_step(**settings: str) -> tuple[World, str]:
    w = created()
    w.next_artifact = Artifact(
        digest="x", size_bytes=1, processes={"web": "w"}, release_command="migrate", settings=settings
    )
    w.send(Deploy(source=Source(kind="upload", digest="d1")))
    w.settle()
    (step,) = w.state.instances.values()
    assert step.kind is InstanceKind.RELEASE_STEP
    return w, step.id


@pytest.mark.parametrize(("settings", "seconds"), [({}, 600), ({"release_timeout_seconds": "7200"}, 7200)])
def test_a_release_step_that_takes_too_long_is_stopped_and_fails_the_deploy(
    settings: dict[str, str], seconds: int
) -> None:
    w, step = _stuck_in_its_release_step(**settings)
    deadline = w.state.instances[step].starting_at + seconds * SECOND
    assert next_deadline(w.state, w.now) == deadline
    w.now = deadline - 2000
    w.settle()
    assert step in w.state.instances and w.state.operation is not None, (
        "it has its time, though the operation's is over"
    )
    w.now = deadline
    w.settle()

    (failed,) = w.of(OperationFailed)
    assert isinstance(failed, OperationFailed) and failed.code == "release_step_timed_out"
    assert failed.reason == f"the release step `migrate` did not end within {seconds} s"
    names = [type(e).__name__ for e in w.events]
    assert names.index("OperationFailed") < names.index("InstanceStopping") < names.index("InstanceStopped")
    assert w.state.instances == {} and w.state.current == 0


def test_what_a_release_step_needs_is_not_taken_from_the_rollout_after_it() -> None:
    w, step = _stuck_in_its_release_step(release_timeout_seconds="7200")
    w.now += 7000 * SECOND
    w.send(ReportExited(instance=step, exit_code=0))
    w.run()
    assert w.state.current == 1 and not w.of(OperationTimedOut) and not w.of(OperationFailed)
    assert not hasattr(w.state.spec, "release_timeout_seconds")


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("0", 1), ("999999", 86400), ("9" * 9, 600), ("soon", 600), ("", 600)]
)
def test_an_artifact_says_how_long_its_release_step_may_take(text: str, seconds: int) -> None:
    settings = {"release_timeout_seconds": text, "probe_path": "/up"}
    made = Artifact(digest="x", size_bytes=1, processes={}, settings=settings)
    assert made.release_seconds() == seconds and made.of_component() == {"probe_path": "/up"}


def test_other_process_types_are_asked_for_after_the_first_is_live() -> None:
    w = created()
    w.next_artifact = artifact("x", web="w", worker="k")
    w.send(Deploy(source=Source(kind="upload", digest="d1")))
    w.run()
    assert w.state.current == 1
    names = [type(e).__name__ for e in w.events]
    assert names.index("RolloutSucceeded") < names.index("SiblingsRequested") < names.index("SiblingEnded")
    assert names[-1] == "OperationSucceeded"


def test_restart_replaces_every_instance_and_keeps_the_release_content() -> None:
    w = deployed()
    old = next(iter(w.state.instances))
    w.send(Restart())
    w.run()
    assert old not in w.state.instances
    assert w.state.releases[2].artifact == w.state.releases[1].artifact


def test_a_hundred_instances_are_asked_for_and_stopped_at_once() -> None:
    w = deployed()
    before = len(w.events)
    w.send(ChangeSpec(scale=100))
    starting = [i for i, e in enumerate(w.events[before:]) if type(e).__name__ == "InstanceStarting"]
    assert len(starting) == 99
    assert starting[-1] - starting[0] == 98
    w.run()
    assert len(w.state.endpoints) == 100
    w.send(ChangeSpec(scale=1))
    w.run()
    assert len(w.state.instances) == 1


def test_stop_then_start() -> None:
    w = deployed()
    w.send(ChangeSpec(stopped=True))
    w.run()
    assert w.state.instances == {}
    assert w.state.routes == (RouteSpec("shop.localhost"),)
    w.send(ChangeSpec(stopped=False))
    w.run()
    assert len(w.state.endpoints) == 1


def test_destroy_drains_stops_frees_and_the_name_can_be_used_again() -> None:
    w = deployed()
    w.send(ChangeSpec(routes_add=(RouteSpec("a.example.com"),)))
    w.run()
    w.send(DestroyComponent())
    w.run()
    assert w.state.status is ComponentStatus.DESTROYED
    assert (w.state.instances, w.state.endpoints, w.state.claims) == ({}, (), ())
    spec = Spec(http=True, auto_host="shop.localhost")
    w.send(CreateComponent(service_id=SERVICE, team="default", app="shop", name="web", process="web", spec=spec))
    w.send(Deploy(source=Source(kind="upload", digest="d9")))
    w.run()
    assert w.state.current == 3
    assert w.send(Rollback(to=1)) == "not_found"


def test_a_destruction_that_takes_too_long_ends_its_operation_and_goes_on_by_itself() -> None:
    w = deployed()
    w.gateways_answer = False
    w.send(DestroyComponent())
    w.run()
    w.now = w.state.operation.deadline_at  # type: ignore[union-attr]
    w.run()
    assert isinstance(w.events[-1], OperationTimedOut)
    assert w.state.status is ComponentStatus.DESTROYING
    w.gateways_answer = True
    w.run()
    assert w.state.status is ComponentStatus.DESTROYED
    assert not w.of(OperationSucceeded)[-1:] or w.of(OperationSucceeded)[-1].detail != "destroyed"  # type: ignore[attr-defined]


def test_every_switch_is_followed_by_the_endpoints_it_means() -> None:
    w = deployed()
    kinds = [type(e) for e in w.events]
    assert kinds.index(RolloutSwitched) < len(kinds) - 1 - kinds[::-1].index(EndpointsChanged)
    assert kinds.index(RoutingApplied) < kinds.index(RolloutSucceeded)


def test_a_deploys_release_names_who_asked_and_why_although_a_builder_reported() -> None:
    w = created()
    w.send(Deploy(source=Source(kind="upload", digest="d1")), reason="first try")
    w.run()
    release = w.state.releases[1]
    assert (release.created_by, release.reason) == ("tester", "first try")


def test_destroying_ends_a_running_task_and_asking_twice_changes_nothing() -> None:
    w = deployed()
    w.send(RunTask(command="sleep 1000"))
    w.settle()
    w.send(DestroyComponent())
    events = len(w.of(ComponentDestroyRequested))
    w.send(DestroyComponent())
    w.run()
    assert len(w.of(ComponentDestroyRequested)) == events
    assert w.of(OperationCancelled)
    assert w.state.status is ComponentStatus.DESTROYED
