"""Route: the claim on one host and path, so that no two components ever answer for the same address.

Knows who holds the claim; which instances answer is the component's story (EndpointsChanged).
"""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, host_problem


class RouteStatus(StrEnum):
    """free ⇄ claimed."""

    FREE = "free"
    CLAIMED = "claimed"


class RouteState(msgspec.Struct, frozen=True, kw_only=True):
    status: RouteStatus = RouteStatus.FREE
    host: str = ""
    path: str = "/"
    service_id: str = ""
    team: str = ""
    app: str = ""


class RouteClaimed(Event, frozen=True):
    host: str
    path: str
    service_id: str
    team: str
    app: str


class RouteReleased(Event, frozen=True):
    service_id: str


class ClaimRoute(Command, frozen=True):
    host: str
    path: str
    service_id: str
    team: str
    app: str


class ReleaseRoute(Command, frozen=True):
    service_id: str


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
            )
        case RouteReleased():
            return msgspec.structs.replace(state, status=RouteStatus.FREE, service_id="", team="", app="")


def decide(state: RouteState, command: RouteCommand, meta: Meta) -> Decision:
    match command:
        case ClaimRoute():
            if state.status is RouteStatus.CLAIMED:
                if state.service_id == command.service_id:
                    return []
                return Refusal(
                    code="conflict",
                    message=f"{command.host}{command.path} is taken by another application",
                    hint="choose another host or path",
                )
            problem = host_problem(command.host) or path_problem(command.path)
            return problem or [
                RouteClaimed(
                    host=command.host,
                    path=command.path,
                    service_id=command.service_id,
                    team=command.team,
                    app=command.app,
                )
            ]
        case ReleaseRoute(service_id=service_id):
            held = state.status is RouteStatus.CLAIMED and state.service_id == service_id
            return [RouteReleased(service_id=service_id)] if held else []
    raise TypeError(f"not a route command: {type(command).__name__}")


def path_problem(path: str) -> Refusal | None:
    """None when `path` may be a route's path prefix; else what is wrong with it."""
    plain = path.startswith("/") and path.isascii() and path.isprintable() and not set(path) & set(' "<>\\^`{|}?#*')
    if plain and len(path) <= 512 and ".." not in path.split("/"):
        return None
    return Refusal(
        code="invalid",
        message=f"expected a path like /api (printable, at most 512 characters, no ..), found {path[:80]!r}",
    )
