"""What follows for a component's instances and endpoints: which to start and where, which to route to, which to stop.

Level-triggered and pure, as `component_progress` is, which calls these steps in turn.
"""

from collections.abc import Sequence

from events.model.base import Event
from events.model.component_crons import must_wait
from events.model.component_events import EndpointsChanged, InstanceStarting, InstanceStopping
from events.model.component_parts import (
    ALIVE,
    ComponentState,
    ComponentStatus,
    Endpoint,
    Instance,
    InstanceKind,
    InstanceStatus,
    Release,
    fingerprint,
)
from events.model.component_wanted import RUNNING, UP, services, serving_release, slots_of, superseded, wanted
from events.model.operation import OperationCancelled, OperationFailed, OperationSucceeded
from events.model.placement import Room, choose


class _Choice:
    """Gives nodes to the instances that one decision starts."""

    def __init__(self, state: ComponentState, nodes: Sequence[Room]) -> None:
        self._placement = state.placement
        self._nodes = nodes
        self._taken = {room.name: 0 for room in nodes}
        for instance in state.instances.values():
            if instance.node in self._taken:
                self._taken[instance.node] += 1
        self._promised: dict[str, int] = {}

    def node(self, release: Release) -> str:
        """A node for one more instance of `release`; empty when there is none."""
        memory = release.spec.memory_bytes
        name = choose(self._nodes, self._placement, memory, self._taken, self._promised)
        if name:
            self._taken[name] += 1
            self._promised[name] = self._promised.get(name, 0) + memory
        return name


def start_one_off(
    state: ComponentState, nodes: Sequence[Room], release: int, kind: InstanceKind, command: str, task: str = ""
) -> list[Event]:
    """The start of a release step or a task; nothing while no node can have it."""
    node = _Choice(state, nodes).node(state.releases[release])
    return [_starting(state, release, node, 0, kind, command, task)] if node else []


def _starting(
    state: ComponentState,
    release: int,
    node: str,
    slot: int,
    kind: InstanceKind,
    command: str,
    task: str = "",
    ahead: int = 0,
) -> InstanceStarting:
    """`ahead`: how many are started by the same decision before this one."""
    instance = f"{state.service_id}-{state.started_instances + 1 + ahead}"
    return InstanceStarting(
        instance=instance, release=release, node=node, slot=slot, kind=kind, command=command, task=task
    )


def fill_slots(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """Start what is wanted and does not run; what runs on a node that is being drained is wanted elsewhere as well."""
    leaving = {room.name for room in nodes if room.leaving}
    taken = {(i.fingerprint, i.slot) for i in services(state) if i.status in UP and i.node not in leaving}
    running = {i.slot for i in services(state) if i.status in ALIVE}
    missing = [item for item in wanted(state).items() if item[0] not in taken]
    if not missing:
        return []
    choice = _Choice(state, nodes)
    events: list[Event] = []
    for place, number in sorted(missing, key=lambda item: item[0][1]):
        slot = state.slots.get(f"{place[0]}:{place[1]}")
        if slot is not None and slot.restart_at > now:
            continue
        if state.placement.stateful and place[1] in running:
            continue  # two must not run in one slot
        node = choice.node(state.releases[number])
        if not node:
            continue
        command = state.releases[number].command
        events.append(_starting(state, number, node, place[1], InstanceKind.SERVICE, command, ahead=len(events)))
    return events


def unseen(ended: Instance) -> str:
    """What there is to say of an instance that has no exit code of its own."""
    return f": {ended.reason}" if ended.exit_code == -1 and ended.reason else ""


def start_tasks(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """Start one-off commands, and end the operations of those that are over."""
    for operation, task in state.tasks.items():
        if state.status is not ComponentStatus.ACTIVE:
            return [OperationCancelled(operation=operation, reason="the component is being destroyed")]
        if task.instance:
            ended = state.ended_tasks.get(task.instance)
            if ended is None:
                continue
            if ended.exit_code == 0:
                return [OperationSucceeded(operation=operation, detail="exit code 0")]
            reason = f"exit code {ended.exit_code}{unseen(ended)}"
            return [OperationFailed(operation=operation, code="task_failed", reason=reason, lines=ended.lines)]
        if must_wait(state, operation):
            continue
        started = start_one_off(state, nodes, state.current, InstanceKind.TASK, task.command, operation)
        if started:
            return started
    return []


def sync_endpoints(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """Route to what is ready and stays; let what goes finish its requests."""
    release = serving_release(state)
    live = {place for place in slots_of(release) if place in wanted(state)}
    over = superseded(state, nodes)
    active: dict[str, Endpoint] = {}
    if release is not None and release.spec.http:
        for i in services(state):
            ready = i.status is InstanceStatus.READY and i.port and i.id not in over
            if ready and (i.fingerprint, i.slot) in live:
                active[i.id] = Endpoint(i.id, i.host, i.port)
    draining = [
        Endpoint(e.instance, e.host, e.port, True)
        for e in state.endpoints
        if e.instance not in active and e.instance not in state.drained and _still_runs(state, e.instance)
    ]
    endpoints = tuple(sorted([*active.values(), *draining]))
    spec = release.spec if release is not None else state.spec
    routes = spec.all_routes() if state.status is ComponentStatus.ACTIVE else ()
    if endpoints == state.endpoints and routes == state.routes:
        return []
    return [EndpointsChanged(release=release.number if release else 0, routes=routes, endpoints=endpoints)]


def _still_runs(state: ComponentState, instance: str) -> bool:
    known = state.instances.get(instance)
    return known is not None and known.status in RUNNING


def stop_unwanted(state: ComponentState, now: int, nodes: Sequence[Room]) -> list[Event]:
    """Stop what is not wanted and no longer routed to."""
    places = wanted(state)
    over = superseded(state, nodes)
    routed = {e.instance for e in state.endpoints}
    operation = state.operation
    tasks = {task.instance for task in state.tasks.values()}
    events: list[Event] = []
    for i in state.instances.values():
        if i.status not in UP or i.id in routed:
            continue
        if i.kind is InstanceKind.SERVICE:
            keep = (i.fingerprint, i.slot) in places and i.id not in over
        else:
            keep = i.id in tasks or (operation is not None and operation.release_step == i.id)
        if not keep:
            events.append(InstanceStopping(instance=i.id, reason=_why_stopped(state, i, nodes)))
    return events


def _why_stopped(state: ComponentState, instance: Instance, nodes: Sequence[Room]) -> str:
    if state.status is not ComponentStatus.ACTIVE:
        return "the component is being destroyed"
    if instance.kind is not InstanceKind.SERVICE:
        return "its operation has ended"
    serving = serving_release(state)
    if serving is None or instance.release > serving.number:
        return f"the rollout of v{instance.release} failed"
    if (instance.fingerprint, instance.slot) in wanted(state):
        leaving = any(room.name == instance.node and room.leaving for room in nodes)
        return f"node {instance.node} is being drained" if leaving else "another runs in its place"
    return f"replaced by v{serving.number}" if instance.fingerprint != fingerprint(serving) else "scaled down"
