"""What is changed of a component: scale, settings, configuration, probe, routes, release, tasks, its end."""

from aiohttp import web

from api.http import schema as s
from api.http.answers import accepted
from api.http.call import Call, reason_of
from api.http.context import accepted_view
from api.http.problems import invalid
from api.http.queries import Destroy, RemoveRoute
from events.model.base import Command, service_id_of
from events.model.component_commands import ChangeSpec, DestroyComponent, Restart, Rollback, RunTask
from events.model.component_parts import RouteSpec


async def command(call: Call, order: Command, reason: str) -> web.Response:
    """Send `order` to the call's component and answer with the operation to follow."""
    team = call.name("team")
    service_id = service_id_of(team, call.name("app"), call.name("component"))
    stream, expected = f"component/{service_id}", call.expected_version
    reply = await call.context.submit(call, stream, order, reason=reason, expected_version=expected)
    await call.context.accepted(reply, stream, expected)
    return accepted(accepted_view(reply, team, operation=reply.operation, service_id=service_id))


async def change_component(call: Call) -> web.Response:
    body = call.body_as(s.ChangeComponent)
    order = ChangeSpec(scale=body.scale, stopped=body.stopped, settings=dict(body.settings))
    if order == ChangeSpec():
        raise invalid("expected one of scale, stopped, settings, found none")
    return await command(call, order, body.reason)


async def change_config(call: Call) -> web.Response:
    body = call.body_as(s.ChangeConfig)
    if not body.set and not body.unset:
        raise invalid("expected variables in set or unset, found none")
    return await command(call, ChangeSpec(config_set=dict(body.set), config_unset=tuple(body.unset)), body.reason)


async def change_probe(call: Call) -> web.Response:
    body = call.body_as(s.ChangeProbe)
    settings: dict[str, str] = {}
    if body.path is not None:
        settings["probe_path"] = body.path
    if body.start_timeout_seconds is not None:
        settings["start_timeout_seconds"] = str(body.start_timeout_seconds)
    if not settings:
        raise invalid("expected path or start_timeout_seconds, found neither")
    return await command(call, ChangeSpec(settings=settings), body.reason)


async def add_route(call: Call) -> web.Response:
    body = call.body_as(s.AddRoute)
    return await command(call, ChangeSpec(routes_add=(RouteSpec(body.host, body.path),)), body.reason)


async def remove_route(call: Call) -> web.Response:
    query = call.query_as(RemoveRoute)
    order = ChangeSpec(routes_remove=(RouteSpec(query.host, query.path),))
    return await command(call, order, query.reason or reason_of(call.request))


async def restart(call: Call) -> web.Response:
    return await command(call, Restart(), call.body_as(s.Because).reason)


async def rollback(call: Call) -> web.Response:
    body = call.body_as(s.Rollback)
    return await command(call, Rollback(to=body.to), body.reason)


async def run_task(call: Call) -> web.Response:
    body = call.body_as(s.RunTask)
    return await command(call, RunTask(command=body.command), body.reason)


async def destroy_component(call: Call) -> web.Response:
    return await command(call, DestroyComponent(), call.query_as(Destroy).reason or reason_of(call.request))


HANDLERS = {
    "changeComponent": change_component,
    "changeConfig": change_config,
    "changeProbe": change_probe,
    "addRoute": add_route,
    "removeRoute": remove_route,
    "restart": restart,
    "rollback": rollback,
    "runTask": run_task,
    "destroyComponent": destroy_component,
}
