"""Apps: list, make, show, destroy. What an app is made of is its components' story."""

from aiohttp import web

from api.http import schema as s
from api.http import shown
from api.http.answers import accepted, answer, versioned
from api.http.call import Call, reason_of
from api.http.context import accepted_view
from api.http.queries import Destroy, PageOf
from events.model.app import CreateApp, DestroyApp
from projections import queries


async def list_apps(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(PageOf)
    await reads.wait_for(call)
    team = call.name("team")
    found = await reads.ask(queries.list_apps, team, cursor=asked.cursor or "", limit=asked.limit)
    if not found.items and asked.cursor is None:
        await reads.team(team)
    return answer(shown.page(found, shown.app))


async def get_app(call: Call) -> web.Response:
    await call.context.reads.wait_for(call)
    row = await call.context.reads.app(call)
    return versioned(shown.app(row), row.version)


async def create_app(call: Call) -> web.Response:
    body, team = call.body_as(s.CreateApp), call.name("team")
    await call.context.reads.team(team)
    stream = f"app/{team}.{body.name}"
    reply = await call.context.submit(call, stream, CreateApp(team=team, name=body.name), reason=body.reason)
    await call.context.accepted(reply, stream)
    return accepted(accepted_view(reply, team, operation=None), created=True)


async def destroy_app(call: Call) -> web.Response:
    team = call.name("team")
    stream = f"app/{team}.{call.name('app')}"
    reason = call.query_as(Destroy).reason or reason_of(call.request)
    expected = call.expected_version
    reply = await call.context.submit(call, stream, DestroyApp(), reason=reason, expected_version=expected)
    await call.context.accepted(reply, stream, expected)
    return accepted(accepted_view(reply, team, operation=reply.operation))


async def list_routes(call: Call) -> web.Response:
    """The addresses that gateways serve now, of every component of the team."""
    reads, asked = call.context.reads, call.query_as(PageOf)
    await reads.wait_for(call)
    team, port = call.name("team"), call.context.services.gateway_port()
    found = await reads.ask(queries.list_components, team, cursor=asked.cursor or "", limit=asked.limit)
    items = [route for row in found.items for route in shown.routes(row, port)]
    return answer(s.Page(items=items, next_cursor=found.next_cursor or None))


HANDLERS = {
    "listApps": list_apps,
    "getApp": get_app,
    "createApp": create_app,
    "destroyApp": destroy_app,
    "listRoutes": list_routes,
}
