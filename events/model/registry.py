"""Which aggregate a stream belongs to, and how its events and commands are stored as MessagePack.

The one table that knows every aggregate by its kind; it knows nothing of where records are kept.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import msgspec

from events.log.records import EventRecord
from events.model import (
    app,
    build,
    component,
    component_commands,
    component_events,
    component_fold,
    component_parts,
    component_progress,
    node,
    parked,
    pool,
    route,
    team,
    template,
)
from events.model.base import Command, Decision, Event, Meta
from events.model.drafts import Drafting
from events.model.evolution import UnknownEventError as UnknownEventError
from events.model.evolution import collect_upcasters, upcast
from events.model.placement import Room


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of stream behaves. `progress` gives what follows by itself at a time, given the live nodes.

    `drafting`: `apply` for a fold of many events, where that is worth having.
    """

    kind: str
    state: type[msgspec.Struct]
    events: tuple[type[Event], ...]
    command: Any
    apply: Callable[[Any, Any, int], Any]
    decide: Callable[[Any, Any, Meta], Decision]
    drafting: Drafting | None = None
    progress: Callable[[Any, int, Sequence[Room]], list[Event]] = lambda state, now, nodes: []
    effects: Callable[[Any], list[component_progress.Effect]] = lambda state: []
    next_deadline: Callable[[Any, int], int | None] = lambda state, now: None


def _team_effects(state: team.TeamState) -> list[component_progress.Effect]:
    return [component_progress.Effect("destroy-key", key) for key in sorted(state.doomed_keys)]


def _app_effects(state: app.AppState) -> list[component_progress.Effect]:
    if state.status is not app.AppStatus.DESTROYING:
        return []
    return [component_progress.Effect("destroy-component", name) for name in sorted(state.components)]


def _node_effects(state: node.NodeState) -> list[component_progress.Effect]:
    return [component_progress.Effect("tell-node", state.wish)] if state.wish != state.told else []


def _build_effects(state: build.BuildState) -> list[component_progress.Effect]:
    if state.status not in build.LIVE:
        return []
    owed = [component_progress.Effect("run-build", state.build_id)]
    if state.cancel_requested:
        owed.append(component_progress.Effect("cancel-running-build", state.build_id))
    return owed


AGGREGATES: dict[str, Aggregate] = {
    a.kind: a
    for a in (
        Aggregate(
            kind="team",
            state=team.TeamState,
            events=get_args(team.TeamEvent),
            command=team.TeamCommand,
            apply=team.apply,
            decide=team.decide,
            effects=_team_effects,
        ),
        Aggregate(
            kind="app",
            state=app.AppState,
            events=get_args(app.AppEvent),
            command=app.AppCommand,
            apply=app.apply,
            decide=app.decide,
            progress=lambda state, now, nodes: app.progress(state, now),
            next_deadline=app.next_deadline,
            effects=_app_effects,
        ),
        Aggregate(
            kind="component",
            state=component_parts.ComponentState,
            events=get_args(component_events.ComponentEvent),
            command=component_commands.ComponentCommand,
            apply=component_fold.apply,
            drafting=component_fold.DRAFTING,
            decide=component.decide,
            progress=component_progress.progress,
            effects=component_progress.effects,
            next_deadline=component_progress.next_deadline,
        ),
        Aggregate(
            kind="build",
            state=build.BuildState,
            events=get_args(build.BuildEvent),
            command=build.BuildCommand,
            apply=build.apply,
            decide=build.decide,
            effects=_build_effects,
        ),
        Aggregate(
            kind="route",
            state=route.RouteState,
            events=get_args(route.RouteEvent),
            command=route.RouteCommand,
            apply=route.apply,
            decide=route.decide,
        ),
        Aggregate(
            kind="node",
            state=node.NodeState,
            events=get_args(node.NodeEvent),
            command=node.NodeCommand,
            apply=node.apply,
            decide=node.decide,
            effects=_node_effects,
        ),
        Aggregate(
            kind=parked.KIND,
            state=parked.ParkedState,
            events=get_args(parked.ParkedEvent),
            command=parked.ParkedCommand,
            apply=parked.apply,
            decide=parked.decide,
        ),
        Aggregate(
            kind="template",
            state=template.TemplateState,
            events=get_args(template.TemplateEvent),
            command=template.TemplateCommand,
            apply=template.apply,
            decide=template.decide,
        ),
        Aggregate(
            kind="pool",
            state=pool.PoolState,
            events=get_args(pool.PoolEvent),
            command=pool.PoolCommand,
            apply=pool.apply,
            decide=pool.decide,
        ),
    )
}

EVENT_TYPES: dict[str, type[Event]] = {e.__name__: e for a in AGGREGATES.values() for e in a.events}
UPCASTERS = collect_upcasters(EVENT_TYPES.values())

_encoder = msgspec.msgpack.Encoder()
BODY_DECODERS: dict[str, tuple[Callable[[msgspec.Raw], Event], int]] = {
    name: (msgspec.msgpack.Decoder(cls).decode, cls.schema_version) for name, cls in EVENT_TYPES.items()
}
"""type → how to read a body of its current schema version, and that version."""
_command_decoders = {kind: msgspec.msgpack.Decoder(a.command) for kind, a in AGGREGATES.items()}


def kind_of(stream: str) -> str:
    """`component` of `component/0123…`; raises KeyError naming the kinds when it is none of them."""
    kind = stream.partition("/")[0]
    if kind not in AGGREGATES:
        raise KeyError(f"expected a stream like {', '.join(sorted(AGGREGATES))}/ID, found {stream[:80]!r}")
    return kind


def aggregate_of(stream: str) -> Aggregate:
    """The aggregate that `stream` belongs to; raises KeyError for an unknown kind."""
    return AGGREGATES[kind_of(stream)]


def encode_event(event: Event) -> msgspec.Raw:
    """The event's own MessagePack map."""
    return msgspec.Raw(_encoder.encode(event))


def decode_event(record: EventRecord) -> Event:
    """The event of a record, upcast to the current schema; raises UnknownEventError for a type or version not known."""
    return decode_body(record.type, record.schema_version, record.body)


def decode_body(event_type: str, schema_version: int, body: msgspec.Raw) -> Event:
    """The event that `body` holds, upcast to the current schema. Raises as `decode_event`."""
    known = BODY_DECODERS.get(event_type)
    if known is None:
        raise UnknownEventError(
            f"expected an event type that this rayfold knows, found {event_type[:80]!r}: it was written by a newer "
            "rayfold; upgrade this one"
        )
    decode, current = known
    if schema_version == current:
        return decode(body)
    fields = msgspec.msgpack.decode(body, type=dict[str, object])
    fields = upcast(event_type, fields, found=schema_version, current=current, steps=UPCASTERS)
    return msgspec.convert(fields, EVENT_TYPES[event_type])


def encode_command(command: Command) -> msgspec.Raw:
    """The command's tagged MessagePack map."""
    return msgspec.Raw(_encoder.encode(command))


def decode_command(stream: str, raw: msgspec.Raw) -> Command:
    """The command for a stream's kind; raises msgspec.ValidationError when it is none of that kind's."""
    command: Command = _command_decoders[kind_of(stream)].decode(raw)
    return command


def initial_state(stream: str) -> msgspec.Struct:
    """The state of a stream that has no events yet."""
    return aggregate_of(stream).state()


def apply_record(state: msgspec.Struct, record: EventRecord) -> msgspec.Struct:
    """The state after one record."""
    result: msgspec.Struct = aggregate_of(record.stream).apply(state, decode_event(record), record.at)
    return result


def fold(stream: str, records: Iterable[EventRecord]) -> msgspec.Struct:
    """The state of `stream` after `records`, which must be its own, in order."""
    state = initial_state(stream)
    for record in records:
        state = apply_record(state, record)
    return state
