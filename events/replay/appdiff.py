"""What changed in an app between two times: its components, configuration, routes, instances, builds and machines in
one answer, each change with the event that made it.

Works on a `Past`; must not know who may see what: streams that are not to be looked into are asked for.
"""

from collections.abc import Sequence

import msgspec

from events.log.records import StoredEvent
from events.model.app import ComponentRegistered
from events.model.base import service_id_of
from events.model.component_events import InstanceStarting, RoutesClaimed
from events.model.registry import decode_event, kind_of
from events.model.route import route_stream
from events.replay.causes import Allowed
from events.replay.errors import NoSuchStream
from events.replay.history import compare, history, place_of, state_of
from events.replay.past import Past
from events.replay.why import AttributedChange, attribute

_AREAS = ("app", "component", "config", "routes", "releases", "instances", "builds", "nodes")
"""In this order an answer is read: what was wanted before what came of it."""

_OF_COMPONENT = {
    "config": ("spec.config",),
    "routes": ("spec.routes", "spec.auto_host", "routes", "claims", "doubtful", "endpoints"),
    "releases": ("releases", "current", "succeeded"),
    "instances": ("instances", "slots", "started_instances", "drained", "ended_tasks", "tasks"),
}


class AppChange(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. `area` is one of app, component, config, routes, releases, instances, builds, nodes; `name` what
    of it (a component's name, a build's id, a route's address, a node's name)."""

    area: str
    name: str
    stream: str
    change: AttributedChange


class AppDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Two times of an app (microseconds UTC), the streams that were looked at, and what differs."""

    team: str
    app: str
    begin: int
    end: int
    streams: Sequence[str]
    changes: Sequence[AppChange]


async def app_streams(past: Past, team: str, app: str) -> dict[str, str]:
    """Every stream that ever was part of an app, with its name for people: the app, its components with their builds,
    the routes they claimed and the nodes they ran on. Raises NoSuchStream when there is no such app."""
    components = await _components(past, team, app)
    found: dict[str, str] = {}
    for stream, name in components.items():
        for related in await _around(past, stream):
            found.setdefault(related, name if related == stream else related.partition("/")[2])
    if app_stream := await _events(past, f"app/{team}.{app}"):
        found[app_stream[0].record.stream] = app
    if not found:
        raise NoSuchStream(f"expected an app {app} of team {team}, found none; list apps with: rayfold apps")
    return found


async def related_streams(past: Past, stream: str) -> list[str]:
    """`stream` and those that its events' causes are in: of a component or a build the component, its builds, its
    routes and its nodes. Raises NoSuchStream for a kind that there is not."""
    place_of(past, stream)
    kind, _, ident = stream.partition("/")
    if kind not in ("component", "build"):
        return [stream]
    around = await _around(past, f"component/{ident.partition('-')[0]}")
    return list(dict.fromkeys([stream, *around]))


async def _components(past: Past, team: str, app: str) -> dict[str, str]:
    """Stream → name of each component that the app ever had. `web` has its stream before the app knows of it."""
    found = {f"component/{service_id_of(team, app, 'web')}": "web"}
    for stored in await _events(past, f"app/{team}.{app}"):
        event = decode_event(stored.record)
        if isinstance(event, ComponentRegistered):
            found[f"component/{event.service_id}"] = event.name
    return found


async def _around(past: Past, component: str) -> list[str]:
    """The component's own stream, its builds, and what its events name, as far as there are events of it."""
    builds = f"build/{component.partition('/')[2]}-"
    found: dict[str, None] = {}
    named: dict[str, None] = {}
    # Builds stand in the component's partition: that is what their key is for.
    async for block in past.read(place_of(past, component), 0):
        for stored in block:
            stream = stored.record.stream
            if stream.startswith(builds):
                found[stream] = None
            elif stream == component:
                found[stream] = None
                named.update(dict.fromkeys(_named(stored)))
    return [*found, *[stream for stream in named if await _events(past, stream)]]


def _named(stored: StoredEvent) -> list[str]:
    if stored.record.type not in ("RoutesClaimed", "InstanceStarting"):
        return []
    event = decode_event(stored.record)
    if isinstance(event, RoutesClaimed):
        return [route_stream(route.host, route.path) for route in event.routes]
    return [f"node/{event.node}"] if isinstance(event, InstanceStarting) else []


async def app_diff(past: Past, team: str, app: str, *, begin: int, end: int, allowed: Allowed) -> AppDifference:
    """What differs between `begin` and `end` (microseconds UTC, both instants included).

    Streams that are not `allowed` are left out. Raises NoSuchStream when there is no such app.
    """
    names = {s: n for s, n in (await app_streams(past, team, app)).items() if await allowed(s)}
    changes: list[AppChange] = []
    for stream, name in names.items():
        events = await _events(past, stream)
        difference = compare(state_of(stream, events, at=begin), state_of(stream, events, at=end))
        versions = difference.before.version, difference.after.version
        for change in attribute(stream, events, difference.changes, before=versions[0], after=versions[1]):
            changes.append(AppChange(area=_area(stream, change.change.path), name=name, stream=stream, change=change))
    # Stable: within one stream the order stays that of `diff`.
    changes.sort(key=lambda c: (_AREAS.index(c.area), c.name, c.stream))
    return AppDifference(team=team, app=app, begin=begin, end=end, streams=sorted(names), changes=changes)


def _area(stream: str, path: str) -> str:
    kind = kind_of(stream)
    if kind != "component":
        return {"app": "app", "route": "routes", "build": "builds", "node": "nodes"}.get(kind, kind)
    for area, fields in _OF_COMPONENT.items():
        if any(path == field or path.startswith(field + ".") for field in fields):
            return area
    return "component"


async def _events(past: Past, stream: str) -> list[StoredEvent]:
    try:
        return await history(past, stream)
    except NoSuchStream:
        return []
