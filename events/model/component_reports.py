"""What a component makes of what the platform observed: builds, claims, instances, gateways, siblings.

Each report may come late or twice; one that tells nothing new comes to nothing. Pure, like `component`.
"""

from collections.abc import Callable
from typing import Any, cast

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal
from events.model.build import Artifact
from events.model.component_commands import (
    FinishDeployBuild,
    ReportAbandonedTold,
    ReportApplied,
    ReportBuildBegun,
    ReportClaims,
    ReportDeregistered,
    ReportDrained,
    ReportExited,
    ReportFreed,
    ReportParentTold,
    ReportReady,
    ReportSibling,
    ReportStarted,
    ReportUnready,
)
from events.model.component_events import (
    AbandonedBuildTold,
    ComponentDestroyed,
    DeployBuildBegun,
    EndpointsDrained,
    InstanceExited,
    InstanceReady,
    InstanceStarted,
    InstanceStopped,
    InstanceUnready,
    ParentTold,
    ReleaseCreated,
    RolloutFailed,
    RoutesClaimed,
    RoutesFreed,
    RoutingApplied,
    SiblingEnded,
)
from events.model.component_parts import (
    ALIVE,
    BACKOFF_FREE_RESTARTS,
    SECOND,
    STABLE_SECONDS,
    ComponentState,
    ComponentStatus,
    InstanceKind,
    InstanceStatus,
    Phase,
    Release,
    Slot,
    Spec,
    backoff_seconds,
)
from events.model.operation import (
    OperationCancelled,
    OperationFailed,
    OperationSucceeded,
    OperationTimedOut,
)


def new_release(
    state: ComponentState, operation: str, artifact: Artifact, spec: Spec, meta: Meta, rollback_of: int = 0
) -> ReleaseCreated:
    number = state.last_release + 1
    begun = state.operation  # a deploy's release is made by whoever asked for it, not by the builder that reports
    release = Release(
        number=number,
        operation=operation,
        artifact=artifact,
        spec=spec,
        command=artifact.processes.get(state.process, ""),
        rollback_of=rollback_of,
        created_at=meta.at,
        created_by=begun.by if begun else meta.actor,
        reason=begun.why if begun else meta.reason,
    )
    return ReleaseCreated(operation=operation, release=release)


def _report_build_begun(state: ComponentState, command: ReportBuildBegun, meta: Meta) -> Decision:
    operation = state.operation
    if operation is None or operation.build_id != command.build_id or operation.build_begun:
        return []
    return [DeployBuildBegun(operation=operation.id)] if operation.phase is Phase.BUILDING else []


def _report_abandoned_told(state: ComponentState, command: ReportAbandonedTold, meta: Meta) -> Decision:
    return [AbandonedBuildTold(build_id=command.build_id)] if command.build_id in state.abandoned else []


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
    spec = state.spec.with_settings(command.artifact.of_component())
    if isinstance(spec, Refusal):
        reason = f"rayfold.toml: {spec.message}"
        return [OperationFailed(operation=operation.id, code="invalid", reason=reason, still_serving=serving)]
    return [new_release(state, operation.id, command.artifact, spec, meta)]


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
    freed = tuple(r for r in command.routes if r in state.claims or r in state.doubtful)
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
    if state.status is not ComponentStatus.DESTROYING:
        return []
    told = [OperationSucceeded(operation=state.operation.id, detail="destroyed")] if state.operation else []
    return [ComponentDestroyed(), *told]


def _report_parent_told(state: ComponentState, command: ReportParentTold, meta: Meta) -> Decision:
    return [ParentTold(operation=command.operation)] if command.operation in state.reports else []


_Decider = Callable[[ComponentState, Any, Meta], Decision]


REPORTED = cast(
    "dict[type[Command], _Decider]",
    {
        ReportBuildBegun: _report_build_begun,
        ReportAbandonedTold: _report_abandoned_told,
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
