"""Which instances a component should have: by its releases, by the rollout under way, and by what runs in their place.

Pure rules over the state; what is done about the difference is in `component_instances`.
"""

from collections.abc import Sequence

from events.model.component_parts import (
    ComponentState,
    ComponentStatus,
    Instance,
    InstanceKind,
    InstanceStatus,
    Phase,
    Release,
    fingerprint,
)
from events.model.placement import Room

RUNNING = (InstanceStatus.STARTED, InstanceStatus.READY, InstanceStatus.UNREADY)
UP = (InstanceStatus.STARTING, *RUNNING)
_SWITCHED = (Phase.SWITCHED, Phase.SIBLINGS, Phase.DONE)


def serving_release(state: ComponentState) -> Release | None:
    """The release whose instances should take the traffic now."""
    if state.status is not ComponentStatus.ACTIVE:
        return None
    operation = state.operation
    if operation is not None and operation.phase in _SWITCHED and operation.release:
        return state.releases[operation.release]
    return state.releases.get(state.current)


def incoming_release(state: ComponentState) -> Release | None:
    """The release whose instances are being started to take the traffic over."""
    operation = state.operation
    starting = operation is not None and operation.phase is Phase.STARTING
    return state.releases[operation.release] if operation is not None and starting else None


def slots_of(release: Release | None) -> list[tuple[str, int]]:
    """The places of a release's instances: (fingerprint, slot)."""
    if release is None:
        return []
    print_ = fingerprint(release)
    return [(print_, slot) for slot in range(1, release.spec.wanted + 1)]


def services(state: ComponentState) -> list[Instance]:
    """The instances that keep running, in their slots."""
    return [i for i in state.instances.values() if i.kind is InstanceKind.SERVICE]


def wanted(state: ComponentState) -> dict[tuple[str, int], int]:
    """(fingerprint, slot) → the release to start it from.

    During a rollout that is the old release and the new one, but for a component with state: there the old instance
    goes first, since two must not run in one slot.
    """
    incoming, serving = incoming_release(state), serving_release(state)
    places = dict.fromkeys(slots_of(incoming), incoming.number) if incoming else {}
    if serving and not (incoming and state.placement.stateful):
        places |= dict.fromkeys(slots_of(serving), serving.number)
    return places


def superseded(state: ComponentState, nodes: Sequence[Room]) -> set[str]:
    """The service instances that are to end although their places are wanted.

    One on a node that is being drained ends when another is ready in its place, or at once where it has state; of two
    in one place, as after a drain that was called off, the better one stays.
    """
    leaving = {room.name for room in nodes if room.leaving}
    somewhere = any(not room.leaving for room in nodes)
    by_place: dict[tuple[str, int], list[Instance]] = {}
    up = [instance for instance in services(state) if instance.status in UP]
    for instance in up:
        by_place.setdefault((instance.fingerprint, instance.slot), []).append(instance)
    over: set[str] = set()
    if not leaving and len(by_place) == len(up):
        return over  # one in each place, as nearly always: nothing to choose between
    for instances in by_place.values():
        instances.sort(key=lambda i: (i.status is not InstanceStatus.READY, i.node in leaving, i.starting_at, i.id))
        best = instances[0]
        if best.node in leaving:
            elsewhere = [i for i in instances if i.node not in leaving and i.status is InstanceStatus.READY]
            best = elsewhere[0] if elsewhere else best
        if state.placement.stateful and best.node in leaving and somewhere:
            over.update(i.id for i in instances)
        elif best.status is InstanceStatus.READY:
            over.update(i.id for i in instances if i is not best and (best.node not in leaving or i.node in leaving))
    return over
