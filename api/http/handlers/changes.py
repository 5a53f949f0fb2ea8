"""What is changed of a component: scale, settings, configuration, probe, routes, release, tasks, its end."""

import msgspec
from aiohttp import web

from api.http import schema as s
from api.http.answers import answer
from api.http.call import Call, reason_of
from api.http.changing import Change, Changer, alone, service_of
from api.http.handlers.past import history_of, state_at
from api.http.problems import invalid, of_refusal
from api.http.queries import Destroy, RemoveRoute
from events.model.component_commands import ChangeSpec, DestroyComponent, Restart, Rollback, RunTask, SetPlacement
from events.model.component_parts import ComponentState, RouteSpec, config_problem
from events.secrets import is_sealed


async def change_component(call: Call) -> Change:
    body = call.body_as(s.ChangeComponent)
    order = ChangeSpec(scale=body.scale, stopped=body.stopped, settings=dict(body.settings))
    if order == ChangeSpec():
        raise invalid("expected one of scale, stopped, settings, found none")
    return Change(order=order, reason=body.reason)


async def change_config(call: Call) -> Change:
    body = call.body_as(s.ChangeConfig)
    if not body.set and not body.secret and not body.unset:
        raise invalid("expected variables in set, secret or unset, found none")
    given = {**body.set, **await _sealed(call, body)}
    return Change(order=ChangeSpec(config_set=given, config_unset=tuple(body.unset)), reason=body.reason)


async def _sealed(call: Call, body: s.ChangeConfig) -> dict[str, str]:
    """The secrets of `body` as they may go on: before they are part of any command. Raises HttpProblem 404, 422."""
    clear = {key: value.get_secret_value() for key, value in body.secret.items()}
    for key, text in {**body.set, **clear}.items():
        if is_sealed(text):
            raise invalid(f"{key}: expected a value, found the text of a sealed one, which opens at its own place only")
    if both := sorted(clear.keys() & body.set.keys()):
        raise invalid(f"expected each variable in set or in secret, found in both: {both[0]}")
    for key, text in clear.items():
        if problem := config_problem(key, text):  # its length and letters cannot be seen once it is sealed
            raise of_refusal(problem)
    if not clear:
        return {}
    team = call.name("team")
    await call.context.reads.team(team)  # nobody's key is made for a team that there is not
    stream = f"component/{service_of(call)}"
    return await call.context.services.keyring.seal_all(team, stream, clear)


async def change_probe(call: Call) -> Change:
    body = call.body_as(s.ChangeProbe)
    settings: dict[str, str] = {}
    if body.path is not None:
        settings["probe_path"] = body.path
    if body.start_timeout_seconds is not None:
        settings["start_timeout_seconds"] = str(body.start_timeout_seconds)
    if not settings:
        raise invalid("expected path or start_timeout_seconds, found neither")
    return Change(order=ChangeSpec(settings=settings), reason=body.reason)


async def change_placement(call: Call) -> Change:
    body = call.body_as(s.ChangePlacement)
    given = {"require": body.require, "spread": body.spread, "stateful": body.stateful}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise invalid("expected one of require, spread, stateful, found none")
    placement = msgspec.structs.replace((await component_state(call)).placement, **changes)
    return Change(order=SetPlacement(placement=placement), reason=body.reason, lasts=False)


async def get_placement(call: Call) -> web.Response:
    state = await component_state(call)
    asked = state.placement
    view = s.PlacementView(
        team=state.team,
        app=state.app,
        component=state.name,
        require=asked.require,
        spread=asked.spread,
        stateful=asked.stateful,
    )
    return answer(view)


async def component_state(call: Call) -> ComponentState:
    """The call's component as its log has it. Raises HttpProblem 404."""
    await call.context.reads.wait_for(call)
    row = await call.context.reads.component(call)
    stream = f"component/{row.service_id}"
    found = await state_at(call, stream, await history_of(call, stream), {})
    assert isinstance(found.state, ComponentState)  # noqa: S101 -- the stream's kind says so
    return found.state


async def add_route(call: Call) -> Change:
    body = call.body_as(s.AddRoute)
    return Change(order=ChangeSpec(routes_add=(RouteSpec(body.host, body.path),)), reason=body.reason)


async def remove_route(call: Call) -> Change:
    query = call.query_as(RemoveRoute)
    order = ChangeSpec(routes_remove=(RouteSpec(query.host, query.path),))
    return Change(order=order, reason=query.reason or reason_of(call.request))


async def restart(call: Call) -> Change:
    return Change(order=Restart(), reason=call.body_as(s.Because).reason)


async def rollback(call: Call) -> Change:
    body = call.body_as(s.Rollback)
    return Change(order=Rollback(to=body.to), reason=body.reason)


async def run_task(call: Call) -> Change:
    body = call.body_as(s.RunTask)
    return Change(order=RunTask(command=body.command), reason=body.reason)


async def destroy_component(call: Call) -> Change:
    reason = call.query_as(Destroy).reason or reason_of(call.request)
    return Change(order=DestroyComponent(), reason=reason)


CHANGES: dict[str, Changer] = {
    "changeComponent": change_component,
    "changeConfig": change_config,
    "changeProbe": change_probe,
    "changePlacement": change_placement,
    "addRoute": add_route,
    "removeRoute": remove_route,
    "restart": restart,
    "rollback": rollback,
    "runTask": run_task,
    "destroyComponent": destroy_component,
}

HANDLERS = {**{name: alone(changer) for name, changer in CHANGES.items()}, "getPlacement": get_placement}
