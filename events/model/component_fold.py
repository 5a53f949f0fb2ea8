"""The state of a component after each of its events. Pure: no clock, no randomness, no I/O, no environment."""

from collections.abc import Callable
from typing import Any

import msgspec

from events.model.base import Event
from events.model.component_events import (
    CancelRequested,
    ComponentCreated,
    ComponentDestroyed,
    ComponentDestroyRequested,
    ComponentEvent,
    DeployRequested,
    EndpointsChanged,
    EndpointsDrained,
    InstanceExited,
    InstanceReady,
    InstanceStarted,
    InstanceStarting,
    InstanceStopped,
    InstanceStopping,
    InstanceUnready,
    ParentTold,
    ReleaseCreated,
    RolloutFailed,
    RolloutStarted,
    RolloutSucceeded,
    RolloutSwitched,
    RoutesClaimed,
    RoutesFreed,
    RoutingApplied,
    SiblingEnded,
    SiblingsRequested,
    SpecChanged,
    TaskRequested,
)
from events.model.component_parts import (
    SECOND,
    STABLE_SECONDS,
    ComponentState,
    ComponentStatus,
    Instance,
    InstanceKind,
    InstanceStatus,
    Operation,
    ParentReport,
    Phase,
    RouteSpec,
    Slot,
    Task,
    fingerprint,
)
from events.model.operation import (
    OperationCancelled,
    OperationFailed,
    OperationStarted,
    OperationSucceeded,
    OperationTimedOut,
)

_replace = msgspec.structs.replace


def apply(state: ComponentState, event: ComponentEvent, at: int) -> ComponentState:
    """The state after `event`. Every event counts one version, whatever else it changes."""
    handler = _APPLY.get(type(event))
    if handler is None:
        raise TypeError(f"not a component event: {type(event).__name__}")
    return handler(state, event, at)


# Each handler makes the next state in one `_replace` where it can, the version included: this is where a fold's time is
# spent. Nothing is ever changed in place.


def _counted(state: ComponentState) -> ComponentState:
    """The event changes nothing but the count."""
    return _replace(state, version=state.version + 1)


def _on_created(state: ComponentState, event: ComponentCreated, at: int) -> ComponentState:
    return ComponentState(
        service_id=event.service_id,
        team=event.team,
        app=event.app,
        name=event.name,
        process=event.process,
        spec=event.spec,
        status=ComponentStatus.ACTIVE,
        version=state.version + 1,
        releases=state.releases,  # release numbers go on where an earlier life of the name left off
        born_after=max(state.releases, default=0),
        started_instances=state.started_instances,
        claims=state.claims,
        doubtful=state.doubtful,
        applied_version=state.applied_version,
        routing_version=state.routing_version,
    )


def _on_spec_changed(state: ComponentState, event: SpecChanged, at: int) -> ComponentState:
    return _replace(state, version=state.version + 1, spec=event.spec)


def _on_operation_started(state: ComponentState, event: OperationStarted, at: int) -> ComponentState:
    if event.kind == "run":
        return _counted(state)
    operation = Operation(
        id=event.operation, kind=event.kind, phase=Phase.ACCEPTED, started_at=at, deadline_at=event.deadline_at,
        parent=event.parent,
        parent_stream=event.parent_stream,
        by=event.by,
        why=event.why,
    )  # fmt: skip
    return _replace(state, version=state.version + 1, operation=operation)


def _on_operation_ended(
    state: ComponentState,
    event: OperationSucceeded | OperationFailed | OperationCancelled | OperationTimedOut,
    at: int,
) -> ComponentState:
    if event.operation in state.tasks:
        ended_tasks = _without_ended(state, state.tasks[event.operation].instance)
        tasks = {k: v for k, v in state.tasks.items() if k != event.operation}
        return _replace(state, version=state.version + 1, ended_tasks=ended_tasks, tasks=tasks)
    operation = state.operation
    if operation is None:
        return _counted(state)
    reports, doubtful = state.reports, state.doubtful
    if operation.parent_stream:
        succeeded = isinstance(event, OperationSucceeded)
        reason = "" if isinstance(event, OperationSucceeded) else event.reason
        report = ParentReport(stream=operation.parent_stream, succeeded=succeeded, reason=reason)
        reports = {**reports, operation.id: report}
    if operation.release and isinstance(event, OperationCancelled | OperationTimedOut):
        # Its claims may be on their way still.
        wanted = {*state.releases[operation.release].spec.routes} - {*state.claims}
        doubtful = tuple(sorted({*doubtful, *wanted}))
    return _replace(
        state,
        version=state.version + 1,
        operation=None,
        ended_tasks=_without_ended(state, operation.release_step),
        reports=reports,
        doubtful=doubtful,
    )


def _without_ended(state: ComponentState, instance: str) -> dict[str, Instance]:
    """The ended one-offs without one whose result nobody will ask for again: the state stays bounded."""
    if instance not in state.ended_tasks:
        return state.ended_tasks
    return {k: v for k, v in state.ended_tasks.items() if k != instance}


def _on_parent_told(state: ComponentState, event: ParentTold, at: int) -> ComponentState:
    reports = {k: v for k, v in state.reports.items() if k != event.operation}
    return _replace(state, version=state.version + 1, reports=reports)


def _in_operation(state: ComponentState, **changes: Any) -> ComponentState:
    if state.operation is None:
        return _counted(state)
    return _replace(state, version=state.version + 1, operation=_replace(state.operation, **changes))


def _on_deploy_requested(state: ComponentState, event: DeployRequested, at: int) -> ComponentState:
    return _in_operation(state, phase=Phase.BUILDING, build_id=event.build_id, source=event.source)


def _on_release_created(state: ComponentState, event: ReleaseCreated, at: int) -> ComponentState:
    release, operation = event.release, state.operation
    return _replace(
        state,
        version=state.version + 1,
        releases={**state.releases, release.number: release},
        operation=operation and _replace(operation, phase=Phase.CLAIMING, release=release.number),
    )


def _on_routes_claimed(state: ComponentState, event: RoutesClaimed, at: int) -> ComponentState:
    claims, doubtful = {*state.claims, *event.routes}, {*state.doubtful} - {*event.routes}
    return _with_claims(state, claims, doubtful)


def _on_routes_freed(state: ComponentState, event: RoutesFreed, at: int) -> ComponentState:
    claims, doubtful = {*state.claims} - {*event.routes}, {*state.doubtful} - {*event.routes}
    return _with_claims(state, claims, doubtful)


def _with_claims(state: ComponentState, claims: set[RouteSpec], doubtful: set[RouteSpec]) -> ComponentState:
    return _replace(state, version=state.version + 1, claims=tuple(sorted(claims)), doubtful=tuple(sorted(doubtful)))


def _on_rollout_started(state: ComponentState, event: RolloutStarted, at: int) -> ComponentState:
    new = fingerprint(state.releases[event.release])
    live = state.releases.get(state.current)
    operation, slots = state.operation, state.slots
    if slots and (live is None or fingerprint(live) != new):
        # What an earlier, failed rollout of the same content left behind.
        slots = {k: v for k, v in slots.items() if not k.startswith(f"{new}:")}
    return _replace(
        state,
        version=state.version + 1,
        slots=slots,
        operation=operation and _replace(operation, phase=Phase.STARTING, rollout_deadline_at=event.deadline_at),
    )


def _on_instance_starting(state: ComponentState, event: InstanceStarting, at: int) -> ComponentState:
    instance = Instance(
        id=event.instance,
        release=event.release,
        fingerprint=fingerprint(state.releases[event.release]),
        node=event.node,
        slot=event.slot,
        kind=event.kind,
        command=event.command,
        status=InstanceStatus.STARTING,
        starting_at=at,
    )
    operation, tasks = state.operation, state.tasks
    if event.kind is InstanceKind.RELEASE_STEP:
        operation = operation and _replace(operation, release_step=event.instance)
    elif event.kind is InstanceKind.TASK:
        tasks = {**tasks, event.task: _replace(tasks[event.task], instance=event.instance)}
    return _replace(
        state,
        version=state.version + 1,
        instances={**state.instances, event.instance: instance},
        started_instances=state.started_instances + 1,
        operation=operation,
        tasks=tasks,
    )


def _change_instance(state: ComponentState, instance: str, **changes: Any) -> ComponentState:
    known = state.instances.get(instance)
    if known is None:
        return _counted(state)
    instances = {**state.instances, instance: _replace(known, **changes)}
    return _replace(state, version=state.version + 1, instances=instances)


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
        return _counted(state)
    instances = {k: v for k, v in state.instances.items() if k != event.instance}
    if instance.kind is not InstanceKind.SERVICE:
        ended = _replace(
            instance, status=InstanceStatus.EXITED, exit_code=event.exit_code, reason=event.reason, lines=event.lines
        )
        ended_tasks = {**state.ended_tasks, instance.id: ended}
        return _replace(state, version=state.version + 1, instances=instances, ended_tasks=ended_tasks)
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
    return _replace(state, version=state.version + 1, instances=instances, slots={**state.slots, key: slot})


def _on_instance_stopping(state: ComponentState, event: InstanceStopping, at: int) -> ComponentState:
    return _change_instance(state, event.instance, status=InstanceStatus.STOPPING, reason=event.reason)


def _on_instance_stopped(state: ComponentState, event: InstanceStopped, at: int) -> ComponentState:
    instances = {k: v for k, v in state.instances.items() if k != event.instance}
    return _replace(state, version=state.version + 1, instances=instances)


def _on_endpoints_changed(state: ComponentState, event: EndpointsChanged, at: int) -> ComponentState:
    version, drained = state.version + 1, state.drained
    if drained:
        listed = {endpoint.instance for endpoint in event.endpoints}
        drained = tuple(instance for instance in drained if instance in listed)
    return _replace(
        state, version=version, endpoints=event.endpoints, routes=event.routes, routing_version=version, drained=drained
    )


def _on_routing_applied(state: ComponentState, event: RoutingApplied, at: int) -> ComponentState:
    return _replace(state, version=state.version + 1, applied_version=max(state.applied_version, event.version))


def _on_endpoints_drained(state: ComponentState, event: EndpointsDrained, at: int) -> ComponentState:
    drained = tuple(sorted({*state.drained, *event.instances}))
    return _replace(state, version=state.version + 1, drained=drained)


def _on_siblings_requested(state: ComponentState, event: SiblingsRequested, at: int) -> ComponentState:
    return _in_operation(state, phase=Phase.SIBLINGS, siblings=event.siblings)


def _on_sibling_ended(state: ComponentState, event: SiblingEnded, at: int) -> ComponentState:
    if state.operation is None:
        return _counted(state)
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
    release, operation = state.releases[event.release], state.operation
    kept = f"{fingerprint(release)}:"
    return _replace(
        state,
        version=state.version + 1,
        current=event.release,
        spec=release.spec,
        slots={k: v for k, v in state.slots.items() if k.startswith(kept)},
        succeeded=(*state.succeeded, event.release),
        operation=operation and _replace(operation, phase=Phase.DONE),
    )


def _on_rollout_failed(state: ComponentState, event: RolloutFailed, at: int) -> ComponentState:
    return _in_operation(state, phase=Phase.FAILED)


def _on_task_requested(state: ComponentState, event: TaskRequested, at: int) -> ComponentState:
    tasks = {**state.tasks, event.operation: Task(command=event.command)}
    return _replace(state, version=state.version + 1, tasks=tasks)


def _on_destroy_requested(state: ComponentState, event: ComponentDestroyRequested, at: int) -> ComponentState:
    return _replace(state, version=state.version + 1, status=ComponentStatus.DESTROYING)


def _on_destroyed(state: ComponentState, event: ComponentDestroyed, at: int) -> ComponentState:
    destroyed = ComponentStatus.DESTROYED
    return _replace(state, version=state.version + 1, status=destroyed, current=0, slots={}, ended_tasks={})


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
