"""What follows by itself from a component's state: the next events of a rollout, and the effects the world owes it.

`progress` is level-triggered: it looks at the state alone, so that after any crash the next owner goes on exactly where
the last one stopped. `effects` names each effect by its intent; both are pure and know nothing of who carries them out.
"""

from collections.abc import Sequence

import msgspec

from events.model.base import Event
from events.model.component_crons import cron_deadlines, late_tasks, tick_crons
from events.model.component_events import (
    BuildAbandoned,
    RolloutFailed,
    RolloutStarted,
    RolloutSucceeded,
    RolloutSwitched,
    SiblingsRequested,
)
from events.model.component_instances import (
    fill_slots,
    start_one_off,
    start_tasks,
    stop_unwanted,
    sync_endpoints,
    unseen,
)
from events.model.component_parts import (
    ComponentState,
    ComponentStatus,
    InstanceKind,
    InstanceStatus,
    Operation,
    Phase,
    Release,
    RouteSpec,
    Sibling,
)
from events.model.component_retention import keep_within_bounds
from events.model.component_wanted import UP, services, slots_of, wanted
from events.model.operation import OperationCancelled, OperationFailed, OperationSucceeded, OperationTimedOut
from events.model.placement import Room
from events.model.route import ClaimRoute

SECOND = 1_000_000
ROLLOUT_MARGIN_SECONDS = 30  # the node's agent reports a start time-out itself; this is for when it cannot


class Effect(msgspec.Struct, frozen=True, order=True):
    """Something owed to the world. `kind` and `key` name it: the same pair is the same effect, done once at a time.

    kinds: start, stop (key: instance); await-build, cancel-build (build id); claim, free (routes, sorted);
    wait-applied (routing version); wait-drained (instances); sibling (process); tell-parent (operation);
    abandon-build (build id); deregister (component). Of a build: run-build, cancel-running-build (build id); of an app:
    destroy-component (name)."""

    kind: str
    key: str


def progress(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """The events that follow at `now` (microseconds UTC) with these live `nodes`; call again after applying them."""
    for step in _STEPS:
        events = step(state, now, nodes)
        if events:
            return events
    return []


def next_deadline(state: ComponentState, now: int) -> int | None:
    """When `progress` must be asked again although nothing happened (microseconds UTC); None: not before an event."""
    times = [s.restart_at for s in state.slots.values() if s.restart_at > now]
    if state.crons or state.tasks:
        times += [t for t in cron_deadlines(state) if t > now]
    operation = state.operation
    if operation is not None:
        times += [_deadline(state, operation), operation.rollout_deadline_at, _step_deadline(state, operation)]
        times = [t for t in times if t > now]
    return min(times, default=None)


def effects(state: ComponentState) -> list[Effect]:
    """What the world owes this component now. Only to be carried out when `state` is durable."""
    owed = [Effect("start", i.id) for i in state.instances.values() if i.status is InstanceStatus.STARTING]
    owed += [Effect("stop", i.id) for i in state.instances.values() if i.status is InstanceStatus.STOPPING]
    operation = state.operation
    if operation is not None:
        if operation.phase is Phase.BUILDING:
            owed.append(Effect("await-build", operation.build_id))
            if operation.cancel_reason:
                owed.append(Effect("cancel-build", operation.build_id))
        if operation.phase is Phase.CLAIMING and unclaimed_routes(state):
            owed.append(Effect("claim", str(operation.release)))
        if operation.phase is Phase.SIBLINGS:
            owed += [Effect("sibling", s.process) for s in operation.siblings if not s.ended]
    owed += [Effect("tell-parent", operation) for operation in state.reports]
    owed += [Effect("abandon-build", build_id) for build_id in state.abandoned]
    if surplus_claims(state):
        owed.append(Effect("free", ",".join(f"{r.host}{r.path}" for r in surplus_claims(state))))
    if state.routing_version > state.applied_version:
        owed.append(Effect("wait-applied", str(state.routing_version)))
    draining = sorted(e.instance for e in state.endpoints if e.draining and e.instance not in state.drained)
    if draining:
        owed.append(Effect("wait-drained", ",".join(draining)))
    if state.status is ComponentStatus.DESTROYING and _is_empty(state):
        owed.append(Effect("deregister", state.name))
    return owed


def unclaimed_routes(state: ComponentState) -> tuple[RouteSpec, ...]:
    """The routes of the release being rolled out that are not claimed yet."""
    if state.operation is None or not state.operation.release:
        return ()
    wanted = state.releases[state.operation.release].spec.routes
    return tuple(r for r in wanted if r not in state.claims)


def claim_of(state: ComponentState, wanted: RouteSpec) -> ClaimRoute:
    """What is asked of the stream of one of `unclaimed_routes`."""
    return ClaimRoute(
        host=wanted.host,
        path=wanted.path,
        service_id=state.service_id,
        team=state.team,
        app=state.app,
        as_of=state.version,
    )


def surplus_claims(state: ComponentState) -> tuple[RouteSpec, ...]:
    """The claims, certain or not, that nothing needs any more; none while an operation may still need them."""
    if state.status is ComponentStatus.ACTIVE and state.operation is not None:
        return ()
    needed = set() if state.status is not ComponentStatus.ACTIVE else {*state.spec.routes}
    return tuple(r for r in sorted({*state.claims, *state.doubtful}) if r not in needed)


def _is_empty(state: ComponentState) -> bool:
    quiet = not state.instances and not state.endpoints and not state.routes
    return quiet and state.routing_version <= state.applied_version and not state.claims and not state.doubtful


# --- the operation ----------------------------------------------------------------------------------------------------


def _advance_operation(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    operation = state.operation
    if operation is None:
        return []
    if operation.kind == "destroy":
        # Nobody waits for ever; the destruction itself goes on until nothing is left.
        left = ", ".join(sorted(state.instances)) or "its routes"
        late = OperationTimedOut(operation=operation.id, reason=f"still being stopped, and going on: {left}")
        return [late] if now >= operation.deadline_at else []
    if operation.cancel_reason and operation.phase in (Phase.ACCEPTED, Phase.CLAIMING, Phase.STARTING):
        ended = OperationCancelled(operation=operation.id, reason=operation.cancel_reason)
        return [*_rollout_failed(operation, operation.cancel_reason), ended]
    if 0 < _deadline(state, operation) <= now and operation.phase is not Phase.DONE:
        reason = f"it took longer than allowed in phase {operation.phase}"
        ended_late = OperationTimedOut(operation=operation.id, reason=reason, still_serving=state.current)
        abandoned: list[Event] = (
            [BuildAbandoned(build_id=operation.build_id)] if operation.phase is Phase.BUILDING else []
        )
        return [*abandoned, *_rollout_failed(operation, reason), ended_late]
    match operation.phase:
        case Phase.CLAIMING:
            return _after_claims(state, operation, now, nodes)
        case Phase.STARTING:
            return _after_start(state, operation, now)
        case Phase.SIBLINGS:
            return _after_siblings(operation, state)
        case Phase.DONE:
            return _after_rollout(state, operation)
    return []


def _deadline(state: ComponentState, operation: Operation) -> int:
    """When the operation ends as timed out. A release step has its own time, which the others' does not shorten."""
    release = state.releases.get(operation.release)
    if not operation.deadline_at or release is None or not _step(operation, release):
        return operation.deadline_at
    return operation.deadline_at + release.artifact.release_seconds() * SECOND


def _step(operation: Operation, release: Release) -> str:
    """The release command that this operation runs: the deploy that built it does, and one that was told to."""
    return release.artifact.release_command if operation.build_id or operation.has_release_step else ""


def _step_deadline(state: ComponentState, operation: Operation) -> int:
    """By when the release step that runs must have ended; 0 when none runs."""
    running = state.instances.get(operation.release_step)
    if running is None:
        return 0
    return running.starting_at + state.releases[running.release].artifact.release_seconds() * SECOND


def _rollout_failed(operation: Operation, reason: str) -> list[Event]:
    if not operation.release:
        return []
    return [RolloutFailed(operation=operation.id, release=operation.release, reason=reason)]


def _failed(state: ComponentState, code: str, reason: str, lines: tuple[str, ...] = ()) -> list[Event]:
    operation = state.operation
    assert operation is not None  # noqa: S101 -- only called while an operation runs
    ended = OperationFailed(
        operation=operation.id, code=code, reason=reason, lines=lines, still_serving=state.current
    )  # fmt: skip
    return [*_rollout_failed(operation, reason), ended]


def _after_claims(state: ComponentState, operation: Operation, now: int, nodes: Sequence[Room]) -> list[Event]:
    if unclaimed_routes(state):
        return []
    release = state.releases[operation.release]
    step = _step(operation, release)
    if step and not operation.release_step:
        return start_one_off(state, nodes, release.number, InstanceKind.RELEASE_STEP, step)
    if step:
        ended = state.ended_tasks.get(operation.release_step)
        if ended is None:
            if 0 < _step_deadline(state, operation) <= now:
                may = release.artifact.release_seconds()
                # Its instance is nobody's with the operation's end, and is stopped for it.
                return _failed(state, "release_step_timed_out", f"the release step `{step}` did not end within {may} s")
            return []
        if ended.exit_code != 0:
            reason = f"the release step `{step}` ended with exit code {ended.exit_code}{unseen(ended)}"
            return _failed(state, "release_step_failed", reason, ended.lines)
    deadline = now + (release.spec.start_timeout_seconds + ROLLOUT_MARGIN_SECONDS) * SECOND
    return [RolloutStarted(operation=operation.id, release=release.number, deadline_at=deadline)]


def _after_start(state: ComponentState, operation: Operation, now: int) -> list[Event]:
    release = state.releases[operation.release]
    live = state.releases.get(state.current)
    kept = set(slots_of(live))
    fresh = [slot for slot in slots_of(release) if slot not in kept]
    for print_, number in fresh:
        slot = state.slots.get(f"{print_}:{number}")
        if slot is not None and slot.failures:
            reason = f"instance {state.name}.{number} crashed while starting: {slot.reason}"
            return _failed(state, "crashed", reason, slot.lines)
    up = sorted((i for i in services(state) if i.status in UP), key=lambda i: i.status is InstanceStatus.READY)
    by_slot = {(i.fingerprint, i.slot): i for i in up}  # of two in one place, the ready one
    for place in fresh:
        instance = by_slot.get(place)
        if instance is not None and instance.status is InstanceStatus.UNREADY:
            reason = f"instance {state.name}.{instance.slot} did not become ready: {instance.reason}"
            return _failed(state, "not_ready", reason, instance.lines)
    if now >= operation.rollout_deadline_at:
        return _failed(state, "not_ready", "the new instances were not ready in time")
    waiting = [p for p in fresh if p not in by_slot or by_slot[p].status is not InstanceStatus.READY]
    return [] if waiting else [RolloutSwitched(operation=operation.id, release=release.number)]


def _after_rollout(state: ComponentState, operation: Operation) -> list[Event]:
    release = state.releases[operation.release]
    others = [p for p in sorted(release.artifact.processes) if p != state.process] if operation.build_id else []
    if others:
        siblings = tuple(Sibling(process=p, operation=f"{operation.id}-{p}") for p in others)
        return [SiblingsRequested(siblings=siblings)]
    return [OperationSucceeded(operation=operation.id, detail=f"v{release.number} is live")]


def _after_siblings(operation: Operation, state: ComponentState) -> list[Event]:
    if any(not s.ended for s in operation.siblings):
        return []
    failed = [s for s in operation.siblings if not s.succeeded]
    if failed:
        reason = "; ".join(f"{s.process}: {s.reason}" for s in failed)
        return [OperationFailed(operation=operation.id, code="sibling_failed", reason=reason,
                                still_serving=state.current)]  # fmt: skip
    return [OperationSucceeded(operation=operation.id, detail=f"v{operation.release} is live")]


def _finish_rollout(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    operation = state.operation
    if operation is None or operation.phase is not Phase.SWITCHED:
        return []
    places = wanted(state)
    leftover = [i for i in services(state) if i.status in UP and (i.fingerprint, i.slot) not in places]
    if leftover or state.routing_version > state.applied_version or any(e.draining for e in state.endpoints):
        return []
    return [RolloutSucceeded(operation=operation.id, release=operation.release)]


_STEPS = (
    _advance_operation,
    fill_slots,
    late_tasks,
    tick_crons,
    start_tasks,
    sync_endpoints,
    stop_unwanted,
    _finish_rollout,
    keep_within_bounds,
)
