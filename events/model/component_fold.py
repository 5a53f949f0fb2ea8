"""The state of a component after each of its events. Pure: no clock, no randomness, no I/O, no environment.

What an event means is said once, as a step that changes a draft of the state: `apply` takes one step on a draft of its
own, a fold of many events takes them all on the same one (docs/decisions/0019).
"""

from dataclasses import make_dataclass
from operator import attrgetter
from typing import cast

import msgspec

from events.model.component_cron_fold import CRON_STEPS, keep_run
from events.model.component_events import (
    AbandonedBuildTold,
    BuildAbandoned,
    CancelRequested,
    ComponentCreated,
    ComponentDestroyed,
    ComponentDestroyRequested,
    ComponentEvent,
    DeployBuildBegun,
    DeployRequested,
    EndpointsChanged,
    EndpointsDrained,
    ParentTold,
    PlacementSet,
    ReleaseCreated,
    ReleasesPruned,
    RetentionSet,
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
)
from events.model.component_instance_fold import INSTANCE_STEPS
from events.model.component_parts import (
    ComponentDraft,
    ComponentState,
    ComponentStatus,
    Operation,
    ParentReport,
    Phase,
    fingerprint,
)
from events.model.drafts import Drafting, Steps
from events.model.operation import (
    TASK_KINDS,
    OperationCancelled,
    OperationFailed,
    OperationStarted,
    OperationSucceeded,
    OperationTimedOut,
)

_replace = msgspec.structs.replace
_astuple = msgspec.structs.astuple

_Slots = make_dataclass("_Slots", ComponentDraft.__struct_fields__, eq=False, slots=True)
"""What a `ComponentDraft` is in a fold of many events: each sets a field or more, and CPython sets a plain slot in a
fifth of the time that a struct's takes."""
_fields = attrgetter(*ComponentDraft.__struct_fields__)

# Asking an enum's class for a member takes CPython 3.11 0.1 us, as long as replacing a field.
_ACCEPTED, _BUILDING, _CLAIMING, _STARTING = Phase.ACCEPTED, Phase.BUILDING, Phase.CLAIMING, Phase.STARTING
_SWITCHED, _SIBLINGS, _DONE, _FAILED = Phase.SWITCHED, Phase.SIBLINGS, Phase.DONE, Phase.FAILED


def apply(state: ComponentState, event: ComponentEvent, at: int) -> ComponentState:
    """The state after `event`. Every event counts one version, whatever else it changes."""
    step = DRAFTING.steps[type(event)]
    draft = _own(ComponentDraft(*_astuple(state)))
    draft.version += 1
    step(draft, event, at)
    return ComponentState(*_astuple(draft))


def _thaw(state: ComponentState) -> ComponentDraft:
    return _own(cast("ComponentDraft", _Slots(*_astuple(state))))


def _own(draft: ComponentDraft) -> ComponentDraft:
    """Each of its mappings must be its own: steps write into them."""
    draft.releases = draft.releases.copy()
    draft.tasks = draft.tasks.copy()
    draft.ended_tasks = draft.ended_tasks.copy()
    draft.instances = draft.instances.copy()
    draft.slots = draft.slots.copy()
    draft.reports = draft.reports.copy()
    draft.crons = draft.crons.copy()
    return draft


def _freeze(draft: ComponentDraft) -> ComponentState:
    """The draft's mappings are the state's from here on."""
    return ComponentState(*_fields(draft))


# The version is counted before a step is taken. A step changes the draft and its mappings, never what they hold: an
# instance or an operation is a value, which the state that the draft was made of has as well. What can fail comes
# before the first change, so that a draft is never left half changed.


_OUTLIVES = {
    "version", "releases", "last_release", "started_instances", "claims", "doubtful", "applied_version",
    "routing_version", "abandoned", "ticked_until",
}  # fmt: skip
"""What a later component of the same name goes on with: its releases are numbered from where the earlier one's end."""


def _on_created(draft: ComponentDraft, event: ComponentCreated, at: int) -> None:
    if draft.version > 1:
        blank = ComponentDraft()
        for field in blank.__struct_fields__:
            if field not in _OUTLIVES:
                setattr(draft, field, getattr(blank, field))
    draft.status = ComponentStatus.ACTIVE
    draft.service_id = event.service_id
    draft.team = event.team
    draft.app = event.app
    draft.name = event.name
    draft.process = event.process
    draft.spec = event.spec
    draft.born_after = draft.last_release


def _on_spec_changed(draft: ComponentDraft, event: SpecChanged, at: int) -> None:
    draft.spec = event.spec


def _on_placement_set(draft: ComponentDraft, event: PlacementSet, at: int) -> None:
    draft.placement = event.placement


def _on_operation_started(draft: ComponentDraft, event: OperationStarted, at: int) -> None:
    if event.kind in TASK_KINDS:
        return
    draft.operation = Operation(
        id=event.operation, kind=event.kind, phase=_ACCEPTED, started_at=at, deadline_at=event.deadline_at,
        parent=event.parent,
        parent_stream=event.parent_stream,
        by=event.by,
        why=event.why,
        has_release_step=event.release_step,
    )  # fmt: skip


_CUT_SHORT = (OperationCancelled, OperationTimedOut)


def _on_operation_ended(
    draft: ComponentDraft,
    event: OperationSucceeded | OperationFailed | OperationCancelled | OperationTimedOut,
    at: int,
) -> None:
    task = draft.tasks.pop(event.operation, None)
    if task is not None:
        draft.ended_tasks.pop(task.instance, None)
        keep_run(draft, task, event, at)
        return
    operation = draft.operation
    if operation is None:
        return
    if operation.release and type(event) in _CUT_SHORT:
        # Its claims may be on their way still.
        wanted = {*draft.releases[operation.release].spec.routes} - {*draft.claims}
        draft.doubtful = tuple(sorted({*draft.doubtful, *wanted}))
    if operation.parent_stream:
        succeeded = isinstance(event, OperationSucceeded)
        reason = "" if isinstance(event, OperationSucceeded) else event.reason
        draft.reports[operation.id] = ParentReport(stream=operation.parent_stream, succeeded=succeeded, reason=reason)
    draft.operation = None
    # An ended one-off whose result nobody will ask for again: the state stays bounded.
    draft.ended_tasks.pop(operation.release_step, None)


def _on_parent_told(draft: ComponentDraft, event: ParentTold, at: int) -> None:
    draft.reports.pop(event.operation, None)


def _on_deploy_requested(draft: ComponentDraft, event: DeployRequested, at: int) -> None:
    if draft.operation is not None:
        draft.operation = _replace(draft.operation, phase=_BUILDING, build_id=event.build_id, source=event.source)


def _on_build_begun(draft: ComponentDraft, event: DeployBuildBegun, at: int) -> None:
    draft.operation = draft.operation and _replace(draft.operation, build_begun=True)


def _on_build_abandoned(draft: ComponentDraft, event: BuildAbandoned, at: int) -> None:
    draft.abandoned = (*draft.abandoned, event.build_id)


def _on_abandoned_told(draft: ComponentDraft, event: AbandonedBuildTold, at: int) -> None:
    draft.abandoned = tuple(build for build in draft.abandoned if build != event.build_id)


def _on_release_created(draft: ComponentDraft, event: ReleaseCreated, at: int) -> None:
    release = event.release
    draft.releases[release.number] = release
    if release.number > draft.last_release:
        draft.last_release = release.number
    if draft.operation is not None:
        draft.operation = _replace(draft.operation, phase=_CLAIMING, release=release.number)


def _on_retention_set(draft: ComponentDraft, event: RetentionSet, at: int) -> None:
    draft.releases_kept = event.keep


def _on_releases_pruned(draft: ComponentDraft, event: ReleasesPruned, at: int) -> None:
    gone = {*event.releases}
    for number in gone:
        draft.releases.pop(number, None)
    draft.succeeded = tuple(number for number in draft.succeeded if number not in gone)


def _on_routes_claimed(draft: ComponentDraft, event: RoutesClaimed, at: int) -> None:
    draft.claims = tuple(sorted({*draft.claims, *event.routes}))
    draft.doubtful = tuple(sorted({*draft.doubtful} - {*event.routes}))


def _on_routes_freed(draft: ComponentDraft, event: RoutesFreed, at: int) -> None:
    draft.claims = tuple(sorted({*draft.claims} - {*event.routes}))
    draft.doubtful = tuple(sorted({*draft.doubtful} - {*event.routes}))


def _on_rollout_started(draft: ComponentDraft, event: RolloutStarted, at: int) -> None:
    if draft.slots:
        new, live = fingerprint(draft.releases[event.release]), draft.releases.get(draft.current)
        if live is None or fingerprint(live) != new:
            # What an earlier, failed rollout of the same content left behind.
            draft.slots = {k: v for k, v in draft.slots.items() if not k.startswith(f"{new}:")}
    if draft.operation is not None:
        draft.operation = _replace(draft.operation, phase=_STARTING, rollout_deadline_at=event.deadline_at)


def _on_endpoints_changed(draft: ComponentDraft, event: EndpointsChanged, at: int) -> None:
    draft.endpoints, draft.routes, draft.routing_version = event.endpoints, event.routes, draft.version
    if draft.drained:
        listed = {endpoint.instance for endpoint in event.endpoints}
        draft.drained = tuple([instance for instance in draft.drained if instance in listed])


def _on_routing_applied(draft: ComponentDraft, event: RoutingApplied, at: int) -> None:
    if event.version > draft.applied_version:
        draft.applied_version = event.version


def _on_endpoints_drained(draft: ComponentDraft, event: EndpointsDrained, at: int) -> None:
    draft.drained = tuple(sorted({*draft.drained, *event.instances}))


def _on_siblings_requested(draft: ComponentDraft, event: SiblingsRequested, at: int) -> None:
    if draft.operation is not None:
        draft.operation = _replace(draft.operation, phase=_SIBLINGS, siblings=event.siblings)


def _on_sibling_ended(draft: ComponentDraft, event: SiblingEnded, at: int) -> None:
    if draft.operation is None:
        return
    siblings = tuple(
        _replace(s, ended=True, succeeded=event.succeeded, reason=event.reason) if s.process == event.process else s
        for s in draft.operation.siblings
    )
    draft.operation = _replace(draft.operation, siblings=siblings)


def _on_cancel_requested(draft: ComponentDraft, event: CancelRequested, at: int) -> None:
    reason = event.reason or "cancelled by user"
    draft.operation = draft.operation and _replace(draft.operation, cancel_reason=reason)


def _on_rollout_switched(draft: ComponentDraft, event: RolloutSwitched, at: int) -> None:
    draft.operation = draft.operation and _replace(draft.operation, phase=_SWITCHED)


def _on_rollout_succeeded(draft: ComponentDraft, event: RolloutSucceeded, at: int) -> None:
    release = draft.releases[event.release]
    draft.current = event.release
    draft.spec = release.spec
    draft.succeeded = (*draft.succeeded, event.release)
    if draft.slots:
        kept = f"{fingerprint(release)}:"
        draft.slots = {k: v for k, v in draft.slots.items() if k.startswith(kept)}
    draft.operation = draft.operation and _replace(draft.operation, phase=_DONE)


def _on_rollout_failed(draft: ComponentDraft, event: RolloutFailed, at: int) -> None:
    draft.operation = draft.operation and _replace(draft.operation, phase=_FAILED)


def _on_destroy_requested(draft: ComponentDraft, event: ComponentDestroyRequested, at: int) -> None:
    draft.status = ComponentStatus.DESTROYING


def _on_destroyed(draft: ComponentDraft, event: ComponentDestroyed, at: int) -> None:
    draft.status = ComponentStatus.DESTROYED
    draft.current = 0
    draft.slots = {}
    draft.ended_tasks = {}
    draft.crons = {}


DRAFTING = Drafting(
    thaw=_thaw,
    freeze=_freeze,
    steps=Steps(
        "component",
        {
            ComponentCreated: _on_created,
            SpecChanged: _on_spec_changed,
            PlacementSet: _on_placement_set,
            DeployRequested: _on_deploy_requested,
            DeployBuildBegun: _on_build_begun,
            BuildAbandoned: _on_build_abandoned,
            AbandonedBuildTold: _on_abandoned_told,
            ReleaseCreated: _on_release_created,
            RetentionSet: _on_retention_set,
            ReleasesPruned: _on_releases_pruned,
            RoutesClaimed: _on_routes_claimed,
            RoutesFreed: _on_routes_freed,
            RolloutStarted: _on_rollout_started,
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
            ComponentDestroyRequested: _on_destroy_requested,
            ComponentDestroyed: _on_destroyed,
            OperationStarted: _on_operation_started,
            OperationSucceeded: _on_operation_ended,
            OperationFailed: _on_operation_ended,
            OperationCancelled: _on_operation_ended,
            OperationTimedOut: _on_operation_ended,
            **INSTANCE_STEPS,
            **CRON_STEPS,
        },
    ),
)
