"""The whole platform at a time: every stream's state, folded in the log's total order.

Works on a `Past` and the aggregates' pure `apply`; must not know how it is shown or who may see which part.
"""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from events.log.records import StoredEvent
from events.model.app import AppState, AppStatus
from events.model.base import service_id_of
from events.model.build import LIVE, BuildState
from events.model.component_parts import ComponentState, ComponentStatus, InstanceKind, InstanceStatus
from events.model.node import NodeState, NodeStatus
from events.model.registry import apply_record, initial_state, kind_of
from events.model.route import RouteState, RouteStatus
from events.model.team import TeamState, TeamStatus
from events.replay.past import Past, in_total_order

_BLOCK_EVENTS = 512  # folded in a thread at once


class Then(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it was: its state after `version` events, the last of them `last`."""

    stream: str
    version: int
    last: StoredEvent
    state: msgspec.Struct


class ComponentThen(msgspec.Struct, frozen=True, kw_only=True):
    """A component in one line. `ready` counts the instances that serve; `operation` is the one under way."""

    team: str
    app: str
    component: str
    status: str
    release: int
    scale: int
    instances: int
    ready: int
    routes: Sequence[str]
    operation: str


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """Anything else in one line. `team` is empty for what is the platform's own."""

    team: str
    name: str
    status: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What there was, by kind and name; `operations` are those in flight, with what they work on as `status`."""

    events: int
    streams: int
    teams: Sequence[Named]
    apps: Sequence[Named]
    components: Sequence[ComponentThen]
    nodes: Sequence[Named]
    routes: Sequence[Named]
    builds: Sequence[Named]
    operations: Sequence[Named]


class _Fold:
    """One stream on its way: `then` is it at the moment asked for, `state` whatever came after."""

    __slots__ = ("state", "then")

    def __init__(self, stream: str) -> None:
        self.state = initial_state(stream)
        self.then: Then | None = None


async def whole(past: Past, *, at: int | None = None) -> dict[str, Then]:
    """Every stream that had begun at `at` (microseconds UTC, that instant included; None: now), by name.

    A stream is as `state_of` gives it: after its last event of that time. As a clock may have gone back, the log is
    read to its end. Holds two states of each stream, which share what they have in common, and a page of each
    partition; folds in a thread. Raises what reading and folding raise.
    """
    folds: dict[str, _Fold] = {}
    block: list[StoredEvent] = []
    async for stored in in_total_order(past):
        block.append(stored)
        if len(block) >= _BLOCK_EVENTS:
            await asyncio.to_thread(_fold, folds, block, at)
            block = []
    await asyncio.to_thread(_fold, folds, block, at)
    return {stream: fold.then for stream, fold in sorted(folds.items()) if fold.then is not None}


def _fold(folds: dict[str, _Fold], block: Iterable[StoredEvent], at: int | None) -> None:
    for stored in block:
        record = stored.record
        fold = folds.get(record.stream)
        if fold is None:
            fold = folds[record.stream] = _Fold(record.stream)
        fold.state = apply_record(fold.state, record)
        if at is None or record.at <= at:
            fold.then = Then(stream=record.stream, version=record.version, last=stored, state=fold.state)


def summary(then: Iterable[Then]) -> Summary:
    """The streams in a line each; what was gone at that time is left out."""
    told: dict[str, list[Named]] = {kind: [] for kind in ("team", "app", "node", "route", "build", "operation")}
    components: list[ComponentThen] = []
    events = streams = 0
    for one in then:
        events, streams = events + one.version, streams + 1
        if isinstance(one.state, ComponentState):
            if one.state.status not in (ComponentStatus.ABSENT, ComponentStatus.DESTROYED):
                components.append(_component(one.state))
        elif (named := _named(one.state)) is not None:
            told[kind_of(one.stream)].append(named)
        told["operation"] += _operations(one.state)
    return Summary(
        events=events,
        streams=streams,
        teams=told["team"],
        apps=told["app"],
        components=sorted(components, key=lambda c: (c.team, c.app, c.component)),
        nodes=told["node"],
        routes=told["route"],
        builds=told["build"],
        operations=told["operation"],
    )


def _component(state: ComponentState) -> ComponentThen:
    services = [i for i in state.instances.values() if i.kind is InstanceKind.SERVICE]
    return ComponentThen(
        team=state.team,
        app=state.app,
        component=state.name,
        status=state.status.value,
        release=state.current,
        scale=state.spec.wanted,
        instances=len(services),
        ready=sum(i.status is InstanceStatus.READY for i in services),
        routes=[f"{route.host}{route.path}" for route in state.routes],
        operation=state.operation.id if state.operation else "",
    )


def _named(state: msgspec.Struct) -> Named | None:
    """The rest, as far as it was there: builds only while they were queued or ran."""
    match state:
        case TeamState(status=TeamStatus.ACTIVE):
            return Named(team=state.name, name=state.name, status=state.status.value)
        case AppState(status=AppStatus.ACTIVE | AppStatus.DESTROYING):
            return Named(team=state.team, name=state.name, status=state.status.value)
        case NodeState(status=NodeStatus.READY | NodeStatus.LOST):
            return Named(team="", name=state.name, status=state.status.value)
        case RouteState(status=RouteStatus.CLAIMED):
            owner = f"claimed by {state.app} ({state.service_id})"
            return Named(team=state.team, name=f"{state.host}{state.path}", status=owner)
        case BuildState() if state.status in LIVE:
            return Named(team=state.team, name=state.build_id, status=state.status.value)
    return None


def _operations(state: msgspec.Struct) -> list[Named]:
    if isinstance(state, ComponentState) and state.operation is not None:
        what = f"{state.operation.kind} of {state.app}/{state.name}, {state.operation.phase.value}"
        return [Named(team=state.team, name=state.operation.id, status=what)]
    if isinstance(state, AppState) and state.status is AppStatus.DESTROYING:
        return [Named(team=state.team, name=state.operation, status=f"destroy of {state.name}")]
    return []


def of_team(then: Iterable[Then], team: str) -> list[Then]:
    """Those that belong to a team: its own stream, its apps, components, builds, and the routes it held."""
    chosen = list(then)
    own: set[str] = {
        service_id_of(one.state.team, one.state.app, one.state.name)
        for one in chosen
        if isinstance(one.state, ComponentState) and one.state.team == team
    }
    return [one for one in chosen if _belongs(one, team, own)]


def _belongs(one: Then, team: str, own: set[str]) -> bool:
    kind, _, ident = one.stream.partition("/")
    if kind == "team":
        return ident == team
    if kind in ("component", "build"):
        return ident.partition("-")[0] in own
    return getattr(one.state, "team", None) == team
