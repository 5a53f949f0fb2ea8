"""Component: one running thing of an app: its configuration, releases, rollout and instances, told as events.

Whoever reads this file knows what may happen to a component and in which states; what follows by itself is in
`component_progress`, the words for its parts in `component_parts`. Pure: no clock, no randomness, no I/O.
"""

from collections.abc import Callable
from typing import Any, cast

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, host_problem, name_problem
from events.model.build import Artifact, Source
from events.model.component_parts import (
    ALIVE,
    BACKOFF_FREE_RESTARTS,
    MAX_SCALE,
    ComponentState,
    ComponentStatus,
    Endpoint,
    Instance,
    InstanceKind,
    InstanceStatus,
    Operation,
    ParentReport,
    Phase,
    Release,
    RouteSpec,
    Sibling,
    Slot,
    Spec,
    Task,
    backoff_seconds,
    config_problem,
    fingerprint,
)
from events.model.operation import (
    OperationCancelled,
    OperationFailed,
    OperationStarted,
    OperationSucceeded,
    OperationTimedOut,
)
from events.model.route import path_problem

SECOND = 1_000_000  # microseconds
STABLE_SECONDS = 60  # an instance that was ready this long starts its crash count anew
OPERATION_SECONDS = 300  # beyond build and start time-outs: what an operation may take before it ends as timed out

_replace = msgspec.structs.replace


# --- events -----------------------------------------------------------------------------------------------------------


class ComponentCreated(Event, frozen=True):
    service_id: str
    team: str
    app: str
    name: str
    process: str
    spec: Spec


class SpecChanged(Event, frozen=True):
    """The configuration changed while nothing was released yet; from then on it changes by releases only."""

    spec: Spec


class DeployRequested(Event, frozen=True):
    operation: str
    build_id: str
    source: Source


class ReleaseCreated(Event, frozen=True):
    """The whole desired state of the component, immutable. `rollback_of`: the release whose content it repeats."""

    operation: str
    release: Release


class RoutesClaimed(Event, frozen=True):
    routes: tuple[RouteSpec, ...]


class RoutesFreed(Event, frozen=True):
    routes: tuple[RouteSpec, ...]


class RolloutStarted(Event, frozen=True):
    operation: str
    release: int
    deadline_at: int


class InstanceStarting(Event, frozen=True):
    """The intent to start an instance, durable before any process exists."""

    instance: str
    release: int
    node: str
    slot: int
    kind: InstanceKind = InstanceKind.SERVICE
    command: str = ""
    task: str = ""


class InstanceStarted(Event, frozen=True):
    instance: str
    host: str
    port: int
    pid: int


class InstanceReady(Event, frozen=True):
    instance: str


class InstanceUnready(Event, frozen=True):
    instance: str
    reason: str
    lines: tuple[str, ...] = ()


class InstanceExited(Event, frozen=True):
    """It ended without having been asked to. `crashed` is false only for a task. `restart_at`: when its slot is
    filled again (microseconds UTC); `exit_code` is -1 where it is not known."""

    instance: str
    exit_code: int
    signal: int = 0
    reason: str = ""
    lines: tuple[str, ...] = ()
    crashed: bool = True
    restart_at: int = 0


class InstanceStopping(Event, frozen=True):
    """The intent to stop an instance; only after it serves no more."""

    instance: str
    reason: str


class InstanceStopped(Event, frozen=True):
    instance: str
    exit_code: int = 0
    signal: int = 0


class EndpointsChanged(Event, frozen=True):
    """Everything a gateway must know of this component. `available`: some endpoint may take requests."""

    release: int
    routes: tuple[RouteSpec, ...]
    endpoints: tuple[Endpoint, ...]


class RoutingApplied(Event, frozen=True):
    """Every live gateway has applied the log up to `offset` of this partition, the last EndpointsChanged included."""

    version: int
    gateways: tuple[str, ...]


class EndpointsDrained(Event, frozen=True):
    """These draining instances have no request left. `timed_out`: they had, but the time was up."""

    instances: tuple[str, ...]
    timed_out: bool = False


class SiblingsRequested(Event, frozen=True):
    """The other process types of the artifact: each becomes, or updates, a component of its own."""

    siblings: tuple[Sibling, ...]


class SiblingEnded(Event, frozen=True):
    process: str
    succeeded: bool
    reason: str = ""


class CancelRequested(Event, frozen=True):
    operation: str
    reason: str


class RolloutSwitched(Event, frozen=True):
    """Every new instance is ready: from here on the new release takes the traffic."""

    operation: str
    release: int


class RolloutSucceeded(Event, frozen=True):
    operation: str
    release: int


class RolloutFailed(Event, frozen=True):
    operation: str
    release: int
    reason: str


class ParentTold(Event, frozen=True):
    """The stream that waited for `operation` knows how it ended."""

    operation: str


class TaskRequested(Event, frozen=True):
    operation: str
    command: str


class ComponentDestroyRequested(Event, frozen=True):
    operation: str


class ComponentDestroyed(Event, frozen=True):
    pass


ComponentEvent = (
    ComponentCreated
    | SpecChanged
    | DeployRequested
    | ReleaseCreated
    | RoutesClaimed
    | RoutesFreed
    | RolloutStarted
    | InstanceStarting
    | InstanceStarted
    | InstanceReady
    | InstanceUnready
    | InstanceExited
    | InstanceStopping
    | InstanceStopped
    | EndpointsChanged
    | RoutingApplied
    | EndpointsDrained
    | SiblingsRequested
    | SiblingEnded
    | CancelRequested
    | RolloutSwitched
    | RolloutSucceeded
    | RolloutFailed
    | ParentTold
    | TaskRequested
    | ComponentDestroyRequested
    | ComponentDestroyed
    | OperationStarted
    | OperationSucceeded
    | OperationFailed
    | OperationCancelled
    | OperationTimedOut
)


# --- commands: what users ask -----------------------------------------------------------------------------------------


class CreateComponent(Command, frozen=True):
    service_id: str
    team: str
    app: str
    name: str
    process: str
    spec: Spec


class Deploy(Command, frozen=True):
    source: Source


class DeployArtifact(Command, frozen=True):
    """Release an artifact that another component's deploy has built (one build, several process types)."""

    artifact: Artifact
    parent: str
    parent_stream: str


class ChangeSpec(Command, frozen=True):
    """Set what is given, leave the rest. `config_unset` wins over `config_set`."""

    config_set: dict[str, str] = {}
    config_unset: tuple[str, ...] = ()
    scale: int | None = None
    stopped: bool | None = None
    routes_add: tuple[RouteSpec, ...] = ()
    routes_remove: tuple[RouteSpec, ...] = ()
    settings: dict[str, str] = {}


class Restart(Command, frozen=True):
    pass


class Rollback(Command, frozen=True):
    """Back to release `to`, or to the one before the current when 0."""

    to: int = 0


class RunTask(Command, frozen=True):
    command: str


class CancelOperation(Command, frozen=True):
    operation: str


class DestroyComponent(Command, frozen=True):
    pass


# --- commands: what the platform observed ----------------------------------------------------------------------------


class FinishDeployBuild(Command, frozen=True):
    build_id: str
    artifact: Artifact | None = None
    status: str = ""
    code: str = ""
    reason: str = ""
    lines: tuple[str, ...] = ()


class ReportClaims(Command, frozen=True):
    """`refused` names the first route that somebody else holds, with the reason."""

    routes: tuple[RouteSpec, ...]
    refused: str = ""


class ReportFreed(Command, frozen=True):
    routes: tuple[RouteSpec, ...]


class ReportStarted(Command, frozen=True):
    instance: str
    host: str
    port: int
    pid: int


class ReportReady(Command, frozen=True):
    """`host`, `port` and `pid` as in ReportStarted, which may still be on its way."""

    instance: str
    host: str = ""
    port: int = 0
    pid: int = 0


class ReportUnready(Command, frozen=True):
    instance: str
    reason: str
    lines: tuple[str, ...] = ()


class ReportExited(Command, frozen=True):
    """`exit_code` -1: not known."""

    instance: str
    exit_code: int
    signal: int = 0
    reason: str = ""
    lines: tuple[str, ...] = ()


class ReportApplied(Command, frozen=True):
    version: int
    gateways: tuple[str, ...]


class ReportDrained(Command, frozen=True):
    instances: tuple[str, ...]
    timed_out: bool = False


class ReportParentTold(Command, frozen=True):
    operation: str


class ReportDeregistered(Command, frozen=True):
    """The app no longer lists the component."""


class ReportSibling(Command, frozen=True):
    process: str
    succeeded: bool
    reason: str = ""


ComponentCommand = (
    CreateComponent
    | Deploy
    | DeployArtifact
    | ChangeSpec
    | Restart
    | Rollback
    | RunTask
    | CancelOperation
    | DestroyComponent
    | FinishDeployBuild
    | ReportClaims
    | ReportFreed
    | ReportStarted
    | ReportReady
    | ReportUnready
    | ReportExited
    | ReportApplied
    | ReportDrained
    | ReportSibling
    | ReportDeregistered
    | ReportParentTold
)


# --- apply ------------------------------------------------------------------------------------------------------------


def apply(state: ComponentState, event: ComponentEvent, at: int) -> ComponentState:
    """The state after `event`. Every event counts one version."""
    state = _replace(state, version=state.version + 1)
    handler = _APPLY.get(type(event))
    if handler is None:
        raise TypeError(f"not a component event: {type(event).__name__}")
    return handler(state, event, at)


def _on_created(state: ComponentState, event: ComponentCreated, at: int) -> ComponentState:
    return _replace(
        ComponentState(
            service_id=event.service_id,
            team=event.team,
            app=event.app,
            name=event.name,
            process=event.process,
            spec=event.spec,
        ),
        status=ComponentStatus.ACTIVE,
        version=state.version,
        releases=state.releases,  # release numbers go on where an earlier life of the name left off
        born_after=max(state.releases, default=0),
        started_instances=state.started_instances,
        claims=state.claims,
        applied_version=state.applied_version,
        routing_version=state.routing_version,
    )


def _on_spec_changed(state: ComponentState, event: SpecChanged, at: int) -> ComponentState:
    return _replace(state, spec=event.spec)


def _on_operation_started(state: ComponentState, event: OperationStarted, at: int) -> ComponentState:
    if event.kind == "run":
        return state
    operation = Operation(
        id=event.operation, kind=event.kind, phase=Phase.ACCEPTED, started_at=at, deadline_at=event.deadline_at,
        parent=event.parent,
        parent_stream=event.parent_stream,
    )  # fmt: skip
    return _replace(state, operation=operation)


def _on_operation_ended(
    state: ComponentState,
    event: OperationSucceeded | OperationFailed | OperationCancelled | OperationTimedOut,
    at: int,
) -> ComponentState:
    if event.operation in state.tasks:
        return _replace(state, tasks={k: v for k, v in state.tasks.items() if k != event.operation})
    operation = state.operation
    if operation is not None and operation.parent_stream:
        succeeded = isinstance(event, OperationSucceeded)
        reason = "" if isinstance(event, OperationSucceeded) else event.reason
        report = ParentReport(stream=operation.parent_stream, succeeded=succeeded, reason=reason)
        state = _replace(state, reports={**state.reports, operation.id: report})
    return _replace(state, operation=None)


def _on_parent_told(state: ComponentState, event: ParentTold, at: int) -> ComponentState:
    return _replace(state, reports={k: v for k, v in state.reports.items() if k != event.operation})


def _in_operation(state: ComponentState, **changes: Any) -> ComponentState:
    if state.operation is None:
        return state
    return _replace(state, operation=_replace(state.operation, **changes))


def _on_deploy_requested(state: ComponentState, event: DeployRequested, at: int) -> ComponentState:
    return _in_operation(state, phase=Phase.BUILDING, build_id=event.build_id, source=event.source)


def _on_release_created(state: ComponentState, event: ReleaseCreated, at: int) -> ComponentState:
    release = event.release
    state = _replace(state, releases={**state.releases, release.number: release})
    return _in_operation(state, phase=Phase.CLAIMING, release=release.number)


def _on_routes_claimed(state: ComponentState, event: RoutesClaimed, at: int) -> ComponentState:
    return _replace(state, claims=tuple(sorted({*state.claims, *event.routes})))


def _on_routes_freed(state: ComponentState, event: RoutesFreed, at: int) -> ComponentState:
    return _replace(state, claims=tuple(sorted({*state.claims} - {*event.routes})))


def _on_rollout_started(state: ComponentState, event: RolloutStarted, at: int) -> ComponentState:
    new = fingerprint(state.releases[event.release])
    live = state.releases.get(state.current)
    if live is None or fingerprint(live) != new:  # what an earlier, failed rollout of the same content left behind
        state = _replace(state, slots={k: v for k, v in state.slots.items() if not k.startswith(f"{new}:")})
    return _in_operation(state, phase=Phase.STARTING, rollout_deadline_at=event.deadline_at)


def _on_instance_starting(state: ComponentState, event: InstanceStarting, at: int) -> ComponentState:
    release = state.releases[event.release]
    instance = Instance(
        id=event.instance,
        release=event.release,
        fingerprint=fingerprint(release),
        node=event.node,
        slot=event.slot,
        kind=event.kind,
        command=event.command,
        status=InstanceStatus.STARTING,
        starting_at=at,
    )
    state = _replace(
        state,
        instances={**state.instances, event.instance: instance},
        started_instances=state.started_instances + 1,
    )
    if event.kind is InstanceKind.RELEASE_STEP:
        return _in_operation(state, release_step=event.instance)
    if event.kind is InstanceKind.TASK:
        task = _replace(state.tasks[event.task], instance=event.instance)
        return _replace(state, tasks={**state.tasks, event.task: task})
    return state


def _change_instance(state: ComponentState, instance: str, **changes: Any) -> ComponentState:
    known = state.instances.get(instance)
    if known is None:
        return state
    return _replace(state, instances={**state.instances, instance: _replace(known, **changes)})


def _on_instance_started(state: ComponentState, event: InstanceStarted, at: int) -> ComponentState:
    return _change_instance(
        state, event.instance, status=InstanceStatus.STARTED, host=event.host, port=event.port, pid=event.pid
    )


def _on_instance_ready(state: ComponentState, event: InstanceReady, at: int) -> ComponentState:
    return _change_instance(state, event.instance, status=InstanceStatus.READY, ready_at=at)


def _on_instance_unready(state: ComponentState, event: InstanceUnready, at: int) -> ComponentState:
    return _change_instance(
        state, event.instance, status=InstanceStatus.UNREADY, reason=event.reason, lines=event.lines
    )


def _on_instance_exited(state: ComponentState, event: InstanceExited, at: int) -> ComponentState:
    instance = state.instances.get(event.instance)
    if instance is None:
        return state
    instances = {k: v for k, v in state.instances.items() if k != event.instance}
    state = _replace(state, instances=instances)
    if instance.kind is not InstanceKind.SERVICE:
        ended = _replace(
            instance, status=InstanceStatus.EXITED, exit_code=event.exit_code, reason=event.reason, lines=event.lines
        )
        return _replace(state, ended_tasks={**state.ended_tasks, instance.id: ended})
    key = f"{instance.fingerprint}:{instance.slot}"
    slot = state.slots.get(key, Slot())
    stable = instance.ready_at > 0 and at - instance.ready_at >= STABLE_SECONDS * SECOND
    slot = Slot(
        failures=1 if stable else slot.failures + 1,
        restart_at=event.restart_at,
        exit_code=event.exit_code,
        reason=event.reason,
        lines=event.lines,
        was_ready=instance.ready_at > 0,
    )
    return _replace(state, slots={**state.slots, key: slot})


def _on_instance_stopping(state: ComponentState, event: InstanceStopping, at: int) -> ComponentState:
    return _change_instance(state, event.instance, status=InstanceStatus.STOPPING, reason=event.reason)


def _on_instance_stopped(state: ComponentState, event: InstanceStopped, at: int) -> ComponentState:
    return _replace(state, instances={k: v for k, v in state.instances.items() if k != event.instance})


def _on_endpoints_changed(state: ComponentState, event: EndpointsChanged, at: int) -> ComponentState:
    drained = tuple(i for i in state.drained if any(e.instance == i for e in event.endpoints))
    return _replace(
        state, endpoints=event.endpoints, routes=event.routes, routing_version=state.version, drained=drained
    )


def _on_routing_applied(state: ComponentState, event: RoutingApplied, at: int) -> ComponentState:
    return _replace(state, applied_version=max(state.applied_version, event.version))


def _on_endpoints_drained(state: ComponentState, event: EndpointsDrained, at: int) -> ComponentState:
    return _replace(state, drained=tuple(sorted({*state.drained, *event.instances})))


def _on_siblings_requested(state: ComponentState, event: SiblingsRequested, at: int) -> ComponentState:
    return _in_operation(state, phase=Phase.SIBLINGS, siblings=event.siblings)


def _on_sibling_ended(state: ComponentState, event: SiblingEnded, at: int) -> ComponentState:
    if state.operation is None:
        return state
    siblings = tuple(
        _replace(s, ended=True, succeeded=event.succeeded, reason=event.reason) if s.process == event.process else s
        for s in state.operation.siblings
    )
    return _in_operation(state, siblings=siblings)


def _on_cancel_requested(state: ComponentState, event: CancelRequested, at: int) -> ComponentState:
    return _in_operation(state, cancel_reason=event.reason or "cancelled by user")


def _on_rollout_switched(state: ComponentState, event: RolloutSwitched, at: int) -> ComponentState:
    return _in_operation(state, phase=Phase.SWITCHED)


def _on_rollout_succeeded(state: ComponentState, event: RolloutSucceeded, at: int) -> ComponentState:
    spec = state.releases[event.release].spec
    fp = fingerprint(state.releases[event.release])
    slots = {k: v for k, v in state.slots.items() if k.startswith(f"{fp}:")}
    succeeded = (*state.succeeded, event.release)
    state = _replace(state, current=event.release, spec=spec, slots=slots, succeeded=succeeded)
    return _in_operation(state, phase=Phase.DONE)


def _on_rollout_failed(state: ComponentState, event: RolloutFailed, at: int) -> ComponentState:
    return _in_operation(state, phase=Phase.FAILED)


def _on_task_requested(state: ComponentState, event: TaskRequested, at: int) -> ComponentState:
    return _replace(state, tasks={**state.tasks, event.operation: Task(command=event.command)})


def _on_destroy_requested(state: ComponentState, event: ComponentDestroyRequested, at: int) -> ComponentState:
    return _replace(state, status=ComponentStatus.DESTROYING)


def _on_destroyed(state: ComponentState, event: ComponentDestroyed, at: int) -> ComponentState:
    return _replace(state, status=ComponentStatus.DESTROYED, current=0, slots={}, ended_tasks={})


_Handler = Callable[[ComponentState, Any, int], ComponentState]
_APPLY: dict[type[Event], _Handler] = {
    ComponentCreated: _on_created,
    SpecChanged: _on_spec_changed,
    DeployRequested: _on_deploy_requested,
    ReleaseCreated: _on_release_created,
    RoutesClaimed: _on_routes_claimed,
    RoutesFreed: _on_routes_freed,
    RolloutStarted: _on_rollout_started,
    InstanceStarting: _on_instance_starting,
    InstanceStarted: _on_instance_started,
    InstanceReady: _on_instance_ready,
    InstanceUnready: _on_instance_unready,
    InstanceExited: _on_instance_exited,
    InstanceStopping: _on_instance_stopping,
    InstanceStopped: _on_instance_stopped,
    EndpointsChanged: _on_endpoints_changed,
    RoutingApplied: _on_routing_applied,
    EndpointsDrained: _on_endpoints_drained,
    SiblingsRequested: _on_siblings_requested,
    SiblingEnded: _on_sibling_ended,
    CancelRequested: _on_cancel_requested,
    RolloutSwitched: _on_rollout_switched,
    RolloutSucceeded: _on_rollout_succeeded,
    RolloutFailed: _on_rollout_failed,
    ParentTold: _on_parent_told,
    TaskRequested: _on_task_requested,
    ComponentDestroyRequested: _on_destroy_requested,
    ComponentDestroyed: _on_destroyed,
    OperationStarted: _on_operation_started,
    OperationSucceeded: _on_operation_ended,
    OperationFailed: _on_operation_ended,
    OperationCancelled: _on_operation_ended,
    OperationTimedOut: _on_operation_ended,
}


# --- decide -----------------------------------------------------------------------------------------------------------


def decide(state: ComponentState, command: ComponentCommand, meta: Meta) -> Decision:
    """What `command` comes to in `state`: the events to append, nothing, or a refusal."""
    if isinstance(command, CreateComponent):
        return _create(state, command)
    observed = _OBSERVED.get(type(command))
    if observed is not None:
        return observed(state, command, meta)
    if state.status is not ComponentStatus.ACTIVE:
        return Refusal(code="not_found", message="no such component", hint="rayfold components")
    if isinstance(command, CancelOperation):
        return _cancel(state, command, meta)
    if isinstance(command, RunTask):
        return _run_task(state, command, meta)
    if state.operation is not None:
        busy = state.operation
        return Refusal(
            code="conflict",
            message=f"component {state.name} is busy with operation {busy.id} ({busy.kind}, {busy.phase})",
            hint=f"wait for it (rayfold operations {busy.id}) or cancel it (rayfold operations {busy.id} --cancel)",
        )
    handler = _ASKED.get(type(command))
    if handler is None:
        raise TypeError(f"not a component command: {type(command).__name__}")
    return handler(state, command, meta)


def _create(state: ComponentState, command: CreateComponent) -> Decision:
    if state.status is ComponentStatus.ACTIVE:
        return []
    if state.status is ComponentStatus.DESTROYING:
        return Refusal(
            code="conflict", message=f"component {state.name} is being destroyed", hint="wait until it ended"
        )
    problem = name_problem("a component name", command.name)
    return problem or [ComponentCreated(**msgspec.structs.asdict(command))]


def _begin(meta: Meta, kind: str, detail: str, seconds: int = OPERATION_SECONDS) -> OperationStarted:
    deadline = meta.at + seconds * SECOND
    return OperationStarted(operation=meta.command_id, kind=kind, detail=detail, deadline_at=deadline)


def _deploy(state: ComponentState, command: Deploy, meta: Meta) -> Decision:
    what = command.source.url or command.source.digest[:12]
    build_id = f"{state.service_id}-{meta.command_id}"
    seconds = state.spec.build_timeout_seconds * 3 + state.spec.start_timeout_seconds + OPERATION_SECONDS
    return [
        _begin(meta, "deploy", what, seconds),
        DeployRequested(operation=meta.command_id, build_id=build_id, source=command.source),
    ]


def _release(
    state: ComponentState, operation: str, artifact: Artifact, spec: Spec, meta: Meta, rollback_of: int = 0
) -> ReleaseCreated:
    number = max(state.releases, default=0) + 1
    release = Release(
        number=number,
        operation=operation,
        artifact=artifact,
        spec=spec,
        command=artifact.processes.get(state.process, ""),
        rollback_of=rollback_of,
        created_at=meta.at,
        created_by=meta.actor,
        reason=meta.reason,
    )
    return ReleaseCreated(operation=operation, release=release)


def _deploy_artifact(state: ComponentState, command: DeployArtifact, meta: Meta) -> Decision:
    seconds = state.spec.start_timeout_seconds + OPERATION_SECONDS
    started = _begin(meta, "deploy", command.artifact.digest[:12], seconds)
    return [
        _replace(started, parent=command.parent, parent_stream=command.parent_stream),
        _release(state, meta.command_id, command.artifact, state.spec, meta),
    ]


def _change_spec(state: ComponentState, command: ChangeSpec, meta: Meta) -> Decision:
    changed = _changed_spec(state.spec, command)
    if isinstance(changed, Refusal):
        return changed
    if changed == state.spec:
        return []
    kind, detail = _kind_of_change(command)
    live = state.releases.get(state.current)
    if live is None:
        started = _begin(meta, kind, detail)
        done = OperationSucceeded(operation=meta.command_id, detail="takes effect with the first deploy")
        return [started, SpecChanged(spec=changed), done]
    seconds = state.spec.start_timeout_seconds + OPERATION_SECONDS
    return [
        _begin(meta, kind, detail, seconds),
        _release(state, meta.command_id, live.artifact, changed, meta),
    ]


def _changed_spec(spec: Spec, command: ChangeSpec) -> Spec | Refusal:
    for key, value in command.config_set.items():
        if problem := config_problem(key, value):
            return problem
    config = {k: v for k, v in {**spec.config, **command.config_set}.items() if k not in command.config_unset}
    scale = spec.scale if command.scale is None else command.scale
    if not 0 <= scale <= MAX_SCALE:
        return Refusal(code="invalid", message=f"expected a scale from 0 to {MAX_SCALE}, found {scale}")
    for route in command.routes_add:
        if problem := host_problem(route.host) or path_problem(route.path):
            return problem
    unknown = sorted({*command.routes_remove} - {*spec.routes})
    if unknown:
        return Refusal(code="not_found", message=f"no route {unknown[0].host}{unknown[0].path} on this component")
    routes = tuple(sorted(({*spec.routes} | {*command.routes_add}) - {*command.routes_remove}))
    stopped = spec.stopped if command.stopped is None else command.stopped
    changed = _replace(spec, config=config, scale=scale, routes=routes, stopped=stopped)
    return changed.with_settings(command.settings)


def _kind_of_change(command: ChangeSpec) -> tuple[str, str]:
    if command.scale is not None:
        return "scale", f"to {command.scale}"
    if command.stopped is not None:
        return ("stop", "") if command.stopped else ("start", "")
    if command.routes_add or command.routes_remove:
        names = [f"+{r.host}{r.path}" for r in command.routes_add]
        return "routes", " ".join(names + [f"-{r.host}{r.path}" for r in command.routes_remove])
    if command.settings:
        return "settings", " ".join(sorted(command.settings))
    keys = [*sorted(command.config_set), *(f"-{k}" for k in sorted(command.config_unset))]
    return "config", " ".join(keys)


def _restart(state: ComponentState, command: Restart, meta: Meta) -> Decision:
    live = state.releases.get(state.current)
    if live is None:
        return Refusal(code="conflict", message="nothing is released yet", hint="rayfold deploy")
    seconds = state.spec.start_timeout_seconds + OPERATION_SECONDS
    spec = _replace(state.spec, restart_nonce=meta.command_id)
    return [
        _begin(meta, "restart", f"v{live.number}", seconds),
        _release(state, meta.command_id, live.artifact, spec, meta),
    ]


def _rollback(state: ComponentState, command: Rollback, meta: Meta) -> Decision:
    born_here = [n for n in state.releases if n > state.born_after]
    to = command.to or state.previous_release()
    if to == 0:
        return Refusal(code="conflict", message="there is no earlier release to go back to", hint="rayfold releases")
    if to not in born_here:
        return Refusal(code="not_found", message=f"no release v{to}", hint="rayfold releases")
    if to == state.current:
        return Refusal(code="conflict", message=f"v{to} is the current release already", hint="rayfold releases")
    target = state.releases[to]
    seconds = state.spec.start_timeout_seconds + OPERATION_SECONDS
    return [
        _begin(meta, "rollback", f"to v{to}", seconds),
        _release(state, meta.command_id, target.artifact, target.spec, meta, rollback_of=to),
    ]


def _run_task(state: ComponentState, command: RunTask, meta: Meta) -> Decision:
    if state.current == 0:
        return Refusal(code="conflict", message="nothing is released yet, so there is nothing to run in",
                       hint="rayfold deploy")  # fmt: skip
    if not command.command.strip() or len(command.command) > 8192 or "\0" in command.command:
        return Refusal(code="invalid", message="expected a command of 1 to 8192 characters without NUL")
    return [
        _begin(meta, "run", command.command[:200], 24 * 3600),
        TaskRequested(operation=meta.command_id, command=command.command),
    ]


def _cancel(state: ComponentState, command: CancelOperation, meta: Meta) -> Decision:
    operation = state.operation
    if operation is None or operation.id != command.operation:
        return Refusal(code="conflict", message=f"operation {command.operation[:60]} is not running here",
                       hint="rayfold operations")  # fmt: skip
    if operation.phase in (Phase.SWITCHED, Phase.SIBLINGS, Phase.DONE) or operation.kind == "destroy":
        return Refusal(code="conflict", message="too late to cancel: the new release takes the traffic already",
                       hint="rayfold rollback")  # fmt: skip
    if operation.cancel_reason:
        return []
    return [CancelRequested(operation=operation.id, reason=meta.reason or "cancelled by user")]


def _destroy(state: ComponentState, command: DestroyComponent, meta: Meta) -> Decision:
    return [_begin(meta, "destroy", state.name), ComponentDestroyRequested(operation=meta.command_id)]


def _finish_build(state: ComponentState, command: FinishDeployBuild, meta: Meta) -> Decision:
    operation = state.operation
    if operation is None or operation.build_id != command.build_id or operation.phase is not Phase.BUILDING:
        return []
    serving = state.current
    if command.status == "cancelled":
        return [OperationCancelled(operation=operation.id, reason=command.reason)]
    if command.status == "timed_out":
        return [OperationTimedOut(operation=operation.id, reason=command.reason, still_serving=serving)]
    if command.artifact is None:
        return [OperationFailed(operation=operation.id, code=command.code or "build_failed", reason=command.reason,
                                lines=command.lines, still_serving=serving)]  # fmt: skip
    if state.process not in command.artifact.processes:
        known = ", ".join(sorted(command.artifact.processes)) or "none"
        reason = f"expected a process type {state.process!r} in the Procfile, found: {known}"
        return [OperationFailed(operation=operation.id, code="no_process", reason=reason, still_serving=serving)]
    spec = state.spec.with_settings(command.artifact.settings)
    if isinstance(spec, Refusal):
        reason = f"rayfold.toml: {spec.message}"
        return [OperationFailed(operation=operation.id, code="invalid", reason=reason, still_serving=serving)]
    return [_release(state, operation.id, command.artifact, spec, meta)]


def _report_claims(state: ComponentState, command: ReportClaims, meta: Meta) -> Decision:
    events: list[Event] = []
    if new := tuple(r for r in command.routes if r not in state.claims):
        events.append(RoutesClaimed(routes=new))
    operation = state.operation
    if command.refused and operation is not None and operation.phase is Phase.CLAIMING:
        events += [
            RolloutFailed(operation=operation.id, release=operation.release, reason=command.refused),
            OperationFailed(operation=operation.id, code="conflict", reason=command.refused,
                            still_serving=state.current),
        ]  # fmt: skip
    return events


def _report_freed(state: ComponentState, command: ReportFreed, meta: Meta) -> Decision:
    freed = tuple(r for r in command.routes if r in state.claims)
    return [RoutesFreed(routes=freed)] if freed else []


def _report_started(state: ComponentState, command: ReportStarted, meta: Meta) -> Decision:
    instance = state.instances.get(command.instance)
    if instance is None or instance.status is not InstanceStatus.STARTING:
        return []
    return [InstanceStarted(**msgspec.structs.asdict(command))]


def _report_ready(state: ComponentState, command: ReportReady, meta: Meta) -> Decision:
    instance = state.instances.get(command.instance)
    if instance is None:
        return []
    ready = InstanceReady(instance=command.instance)
    if instance.status is InstanceStatus.STARTING:
        return [InstanceStarted(**msgspec.structs.asdict(command)), ready]
    return [ready] if instance.status in (InstanceStatus.STARTED, InstanceStatus.UNREADY) else []


def _report_unready(state: ComponentState, command: ReportUnready, meta: Meta) -> Decision:
    instance = state.instances.get(command.instance)
    if instance is None or instance.status in (InstanceStatus.UNREADY, InstanceStatus.STOPPING):
        return []
    return [InstanceUnready(instance=command.instance, reason=command.reason, lines=command.lines)]


def _report_exited(state: ComponentState, command: ReportExited, meta: Meta) -> Decision:
    instance = state.instances.get(command.instance)
    if instance is None or instance.status not in ALIVE:
        return []
    if instance.status is InstanceStatus.STOPPING:
        return [InstanceStopped(instance=instance.id, exit_code=command.exit_code, signal=command.signal)]
    crashed = instance.kind is InstanceKind.SERVICE
    slot = state.slots.get(f"{instance.fingerprint}:{instance.slot}", Slot())
    stable = instance.ready_at > 0 and meta.at - instance.ready_at >= STABLE_SECONDS * SECOND
    failures = 1 if stable else slot.failures + 1
    wait = backoff_seconds(failures - BACKOFF_FREE_RESTARTS)
    return [
        InstanceExited(
            instance=instance.id,
            exit_code=command.exit_code,
            signal=command.signal,
            reason=command.reason,
            lines=command.lines,
            crashed=crashed,
            restart_at=meta.at + int(wait * SECOND) if crashed else 0,
        )
    ]


def _report_applied(state: ComponentState, command: ReportApplied, meta: Meta) -> Decision:
    if command.version <= state.applied_version:
        return []
    return [RoutingApplied(version=command.version, gateways=command.gateways)]


def _report_drained(state: ComponentState, command: ReportDrained, meta: Meta) -> Decision:
    draining = {e.instance for e in state.endpoints if e.draining}
    new = tuple(i for i in command.instances if i in draining and i not in state.drained)
    return [EndpointsDrained(instances=new, timed_out=command.timed_out)] if new else []


def _report_sibling(state: ComponentState, command: ReportSibling, meta: Meta) -> Decision:
    operation = state.operation
    if operation is None or operation.phase is not Phase.SIBLINGS:
        return []
    if not any(s.process == command.process and not s.ended for s in operation.siblings):
        return []
    return [SiblingEnded(process=command.process, succeeded=command.succeeded, reason=command.reason)]


def _report_deregistered(state: ComponentState, command: ReportDeregistered, meta: Meta) -> Decision:
    if state.status is not ComponentStatus.DESTROYING or state.operation is None:
        return []
    return [ComponentDestroyed(), OperationSucceeded(operation=state.operation.id, detail="destroyed")]


def _report_parent_told(state: ComponentState, command: ReportParentTold, meta: Meta) -> Decision:
    return [ParentTold(operation=command.operation)] if command.operation in state.reports else []


_Decider = Callable[[ComponentState, Any, Meta], Decision]
_ASKED = cast(
    "dict[type[Command], _Decider]",
    {
        Deploy: _deploy,
        DeployArtifact: _deploy_artifact,
        ChangeSpec: _change_spec,
        Restart: _restart,
        Rollback: _rollback,
        DestroyComponent: _destroy,
    },
)
_OBSERVED = cast(
    "dict[type[Command], _Decider]",
    {
        FinishDeployBuild: _finish_build,
        ReportClaims: _report_claims,
        ReportFreed: _report_freed,
        ReportStarted: _report_started,
        ReportReady: _report_ready,
        ReportUnready: _report_unready,
        ReportExited: _report_exited,
        ReportApplied: _report_applied,
        ReportDrained: _report_drained,
        ReportSibling: _report_sibling,
        ReportDeregistered: _report_deregistered,
        ReportParentTold: _report_parent_told,
    },
)
