"""Which event or command stands behind an event, read from what its envelope and body say. Pure.

Knows how the supervisor names commands and how each outcome points back at its intent; reads nothing by itself.
"""

import msgspec

from events.log.records import EventRecord
from events.model.base import Event
from events.model.build import (
    BuildCancelled,
    BuildCancelRequested,
    BuildFailed,
    BuildRequested,
    BuildStarted,
    BuildSucceeded,
    BuildTimedOut,
)
from events.model.component_events import (
    EndpointsDrained,
    InstanceExited,
    InstanceReady,
    InstanceStarted,
    InstanceStopped,
    InstanceUnready,
    ParentTold,
    RoutesClaimed,
    RoutesFreed,
    RoutingApplied,
)
from events.model.operation import OperationStarted
from events.model.registry import AGGREGATES
from events.model.route import RouteClaimed, RouteReleased, route_stream

_BUILD_OUTCOMES = (BuildStarted, BuildSucceeded, BuildFailed, BuildCancelled, BuildTimedOut)


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look for the event behind another: in `stream`, the one of `version`, or (0) the newest before it of one
    of `types` whose body has `field` = `value`. `how`: in words, between the later event and the earlier one."""

    how: str
    stream: str
    version: int = 0
    types: tuple[str, ...] = ()
    field: str = ""
    value: str = ""


def link_of(record: EventRecord, event: Event) -> Link | None:
    """Where the event behind `record` (whose body is `event`) is to be found; None: only its command is known."""
    followed = _event_id(record.causation_id)
    if followed is not None:
        return Link(how="follows from", stream=followed[0], version=followed[1])
    by_command = _by_command(record)
    return by_command or _by_body(record, event)


def _event_id(text: str) -> tuple[str, int] | None:
    """`stream@version`, as event ids are written; None for what is none."""
    stream, _, version = text.rpartition("@")
    known = stream.partition("/")[0] in AGGREGATES and version.isascii() and version.isdecimal()
    return (stream, int(version)) if known else None


def _by_command(record: EventRecord) -> Link | None:
    """The commands whose ids are made from what they follow; see actors.supervisor.effects."""
    name, dot, what = record.command_id.rpartition(".")
    if not dot:
        return None
    if what == "finish" and record.stream.startswith("component/"):
        ended = tuple(kind.__name__ for kind in _BUILD_OUTCOMES[1:])
        return Link(how="reports the end of the build in", stream=f"build/{name}", types=ended)
    if what == "gone" and (gone := _event_id(name)) is not None:
        return Link(how="tells what ended in", stream=gone[0], version=gone[1])
    return None


def _by_body(record: EventRecord, event: Event) -> Link | None:
    stream = record.stream
    types: tuple[str, ...]
    match event:
        case InstanceStarted() | InstanceReady() | InstanceUnready() | InstanceExited():
            types = ("InstanceStarting",)
            return Link(how="is the outcome of", stream=stream, types=types, field="instance", value=event.instance)
        case InstanceStopped():
            types = ("InstanceStopping",)
            return Link(how="is the outcome of", stream=stream, types=types, field="instance", value=event.instance)
        case RoutingApplied() | EndpointsDrained():
            return Link(how="is the outcome of", stream=stream, types=("EndpointsChanged",))
        case ParentTold():
            types = ("OperationSucceeded", "OperationFailed", "OperationCancelled", "OperationTimedOut")
            return Link(how="passes on", stream=stream, types=types, field="operation", value=event.operation)
        case RoutesClaimed(routes=[first, *_]):
            return Link(how="reports", stream=route_stream(first.host, first.path), types=("RouteClaimed",))
        case RoutesFreed(routes=[first, *_]):
            return Link(how="reports", stream=route_stream(first.host, first.path), types=("RouteReleased",))
    return _across(record, event)


def _across(record: EventRecord, event: Event) -> Link | None:
    """What another stream asked of this one."""
    stream = record.stream
    match event:
        case BuildRequested():
            asking = f"component/{event.service_id}"
            types = ("DeployRequested",)
            return Link(how="carries out", stream=asking, types=types, field="build_id", value=event.build_id)
        case BuildCancelRequested():
            service_id = stream.removeprefix("build/").partition("-")[0]
            return Link(
                how="carries out", stream=f"component/{service_id}", types=("CancelRequested", "BuildAbandoned")
            )
        case RouteClaimed() | RouteReleased() if event.as_of:
            return Link(how="was asked for by", stream=f"component/{event.service_id}", version=event.as_of)
        case OperationStarted() if event.parent_stream:
            types = ("SiblingsRequested",)
            return Link(how="was asked for by", stream=event.parent_stream, types=types)
    if isinstance(event, _BUILD_OUTCOMES):
        return Link(how="is the outcome of", stream=stream, types=("BuildRequested", "BuildStarted"))
    return None
