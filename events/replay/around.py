"""What a component's decision meets outside its own stream, as the log tells of it at a time: who holds its routes, and
the nodes that its instances may be given to.

Reads a `Past`; must not know what is decided with it.
"""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from events.log.records import StoredEvent
from events.model.component_parts import ALIVE, ComponentState, RouteSpec
from events.model.node import NodeState, NodeStatus
from events.model.placement import Room
from events.model.registry import decode_event
from events.model.route import RouteState, route_stream
from events.replay.errors import NoSuchStream
from events.replay.history import history, state_of
from events.replay.past import Past

MAX_ROUTES = 32
"""Whose claims are looked at: each is a stream to be read, and none of a hundred made up ones is worth that."""


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """`nodes`: as far as their memory is known; `claims`: of the routes that were looked at. `notes`: what the log did
    not tell and was taken for granted, in words."""

    nodes: Sequence[Room] = ()
    claims: dict[RouteSpec, RouteState] = {}
    notes: Sequence[str] = ()


async def around(
    past: Past,
    state: msgspec.Struct,
    events: Sequence[StoredEvent],
    routes: Collection[RouteSpec],
    *,
    at: int,
    complete: bool,
) -> Around:
    """What there was at `at` (microseconds UTC) around the component whose state is `state` and history `events`.

    `routes`: those that may be asked for; `complete`: the past holds everything there is, as a log does and a file may
    not. Nothing for what is no component. Raises what reading raises.
    """
    if not isinstance(state, ComponentState):
        return Around()
    notes: list[str] = []
    nodes = [await _room(past, name, state, at, notes) for name in _names(events)]
    wanted = {*routes, *(route for release in state.releases.values() for route in release.spec.routes)}
    asked = sorted(wanted - {*state.claims})
    claims = {route: await _claim(past, route, at, complete, notes) for route in asked[:MAX_ROUTES]}
    if len(asked) > MAX_ROUTES:
        notes.append(f"who holds {len(asked) - MAX_ROUTES} of the {len(asked)} routes was not looked at")
    return Around(nodes=[room for room in nodes if room is not None], claims=claims, notes=notes)


def _names(events: Iterable[StoredEvent]) -> list[str]:
    """The nodes that the component was ever given to."""
    found = {getattr(decode_event(s.record), "node", "") for s in events if s.record.type == "InstanceStarting"}
    return sorted(found - {""})


async def _room(past: Past, name: str, state: ComponentState, at: int, notes: list[str]) -> Room | None:
    """The node with the memory that the component's own instances leave; None when it was not there.

    Labels are in no event. It had what the component requires, for the component ran there.
    """
    stream = f"node/{name}"
    try:
        node = state_of(stream, await history(past, stream), at=at).state
    except NoSuchStream:
        notes.append(f"nothing tells of node {name}: it is taken for one that is there and has room")
        return Room(name=name, free_bytes=1 << 62, labels=state.placement.require)
    assert isinstance(node, NodeState)  # noqa: S101 -- a node's stream
    if node.status is not NodeStatus.READY:
        return None
    there = [i for i in state.instances.values() if i.node == name and i.status in ALIVE]
    promised = sum(state.releases[i.release].spec.memory_bytes for i in there if i.release in state.releases)
    free = max(0, node.memory_bytes - promised)
    return Room(name=name, free_bytes=free, labels=state.placement.require, leaving=node.draining)


async def _claim(past: Past, route: RouteSpec, at: int, complete: bool, notes: list[str]) -> RouteState:
    stream = route_stream(route.host, route.path)
    try:
        claim = state_of(stream, await history(past, stream), at=at).state
    except NoSuchStream:
        if not complete:
            notes.append(f"nothing here tells who holds {route.host}{route.path}: it is taken for free")
        return RouteState()
    assert isinstance(claim, RouteState)  # noqa: S101 -- a route's stream
    return claim
