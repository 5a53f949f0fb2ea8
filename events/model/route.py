"""Route: the claim on one host and path, so that no two components ever answer for the same address.

Knows who holds the claim; which instances answer is the component's story (EndpointsChanged).
"""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, host_problem
from events.model.hosts import reserved_problem


class RouteStatus(StrEnum):
    """free ⇄ claimed."""

    FREE = "free"
    CLAIMED = "claimed"


class RouteState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`as_of`: for each component that ever held it, its version when it last claimed or released it."""

    status: RouteStatus = RouteStatus.FREE
    host: str = ""
    path: str = "/"
    service_id: str = ""
    team: str = ""
    app: str = ""
    as_of: dict[str, int] = {}


class RouteClaimed(Event, frozen=True):
    host: str
    path: str
    service_id: str
    team: str
    app: str
    as_of: int = 0


class RouteReleased(Event, frozen=True):
    service_id: str
    as_of: int = 0


class ClaimRoute(Command, frozen=True):
    """`as_of`: the version of the component that asks. What an earlier version of it asks for comes too late."""

    host: str
    path: str
    service_id: str
    team: str
    app: str
    as_of: int = 0


class ReleaseRoute(Command, frozen=True):
    service_id: str
    as_of: int = 0


RouteEvent = RouteClaimed | RouteReleased
RouteCommand = ClaimRoute | ReleaseRoute


def route_stream(host: str, path: str) -> str:
    """The stream of the claim on `host` and `path`."""
    return f"route/{host}{path}"


def apply(state: RouteState, event: RouteEvent, at: int) -> RouteState:
    match event:
        case RouteClaimed():
            return RouteState(
                status=RouteStatus.CLAIMED,
                host=event.host,
                path=event.path,
                service_id=event.service_id,
                team=event.team,
                app=event.app,
                as_of={**state.as_of, event.service_id: event.as_of},
            )
        case RouteReleased(service_id=service_id, as_of=as_of):
            seen = {**state.as_of, service_id: as_of}
            return msgspec.structs.replace(state, status=RouteStatus.FREE, service_id="", team="", app="", as_of=seen)


def decide(state: RouteState, command: RouteCommand, meta: Meta) -> Decision:
    late = command.as_of < state.as_of.get(command.service_id, 0)
    match command:
        case ClaimRoute():
            if late:
                return Refusal(code="conflict", message="the component has claimed or released it since")
            if state.status is RouteStatus.CLAIMED:
                if state.service_id == command.service_id:
                    return []
                return Refusal(
                    code="conflict",
                    message=f"{command.host}{command.path} is taken by another application",
                    hint="choose another host or path",
                )
            problem = host_problem(command.host) or path_problem(command.path)
            problem = problem or reserved_problem(command.host, team=command.team, app=command.app)
            return problem or [
                RouteClaimed(
                    host=command.host,
                    path=command.path,
                    service_id=command.service_id,
                    team=command.team,
                    app=command.app,
                    as_of=command.as_of,
                )
            ]
        case ReleaseRoute(service_id=service_id, as_of=as_of):
            held = state.status is RouteStatus.CLAIMED and state.service_id == service_id
            return [RouteReleased(service_id=service_id, as_of=as_of)] if held and not late else []
    raise TypeError(f"not a route command: {type(command).__name__}")


def plain_path(path: str) -> str:
    """`/` or `/a/b`, never with a slash at the end: `/a/` and `/a` are one prefix, on segment boundaries."""
    return "/" + path.strip("/")


def path_problem(path: str) -> Refusal | None:
    """None when `path` may be a route's path prefix; else what is wrong with it."""
    plain = path.startswith("/") and path.isascii() and path.isprintable() and not set(path) & set(' "<>\\^`{|}?#*')
    if plain and len(path) <= 512 and ".." not in path.split("/"):
        return None
    return Refusal(
        code="invalid",
        message=f"expected a path like /api (printable, at most 512 characters, no ..), found {path[:80]!r}",
    )
