"""Operations: list, show, cancel. What an operation does is told by its events (`events`)."""

from aiohttp import web

from api.http import schema as s
from api.http import shown
from api.http.answers import accepted, answer
from api.http.call import Call
from api.http.context import accepted_view
from api.http.problems import HttpProblem, not_found
from api.http.queries import Builds, Operations, PageOf
from events.model.component_commands import CancelOperation
from projections import queries


def _team(call: Call, asked: str | None) -> str | None:
    """The team to list: the one asked for, within reach; None is all of them."""
    if asked is not None and not call.principal.reaches(asked):
        raise not_found(f"there is no team {asked}", hint="rayfold teams")
    return asked if asked is not None else call.principal.team


async def list_operations(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(Operations)
    await reads.wait_for(call)
    team = _team(call, asked.team)
    found = await reads.operations(
        team, app=asked.app or "", status=asked.status or "", cursor=asked.cursor or "", limit=asked.limit
    )
    return answer(shown.page(found, shown.operation))


async def list_component_operations(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(PageOf)
    await reads.wait_for(call)
    row = await reads.component(call)
    found = await reads.ask(
        queries.list_operations,
        row.team,
        app=row.app,
        component=row.name,
        cursor=asked.cursor or "",
        limit=asked.limit,
    )
    return answer(shown.page(found, shown.operation))


async def list_all_builds(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(Builds)
    await reads.wait_for(call)
    found = await reads.builds(
        call.principal.team, status=asked.status or "", cursor=asked.cursor or "", limit=asked.limit
    )
    return answer(shown.page(found, shown.build))


async def get_operation(call: Call) -> web.Response:
    reads = call.context.reads
    await reads.wait_for(call)
    row = await reads.operation(call.principal, call.name("operation"))
    children = await reads.ask(queries.list_operations, row.team, parent=row.id, limit=200)
    return answer(shown.operation(row, children.items))


async def cancel_operation(call: Call) -> web.Response:
    row = await call.context.reads.operation(call.principal, call.name("operation"))
    if row.status != "running":
        detail = f"operation {row.id} has ended already: {row.status}"
        raise HttpProblem(409, "conflict", detail, hint=f"rayfold operations {row.id}")
    if not row.stream.startswith("component/"):
        raise HttpProblem(409, "conflict", f"a {row.kind} operation cannot be cancelled once it began")
    reason, expected = call.body_as(s.Because).reason, call.expected_version
    order = CancelOperation(operation=row.id)
    reply = await call.context.submit(call, row.stream, order, reason=reason, expected_version=expected)
    await call.context.accepted(reply, row.stream, expected)
    return accepted(accepted_view(reply, row.team, operation=row.id, service_id=row.service_id or None))


HANDLERS = {
    "listOperations": list_operations,
    "listComponentOperations": list_component_operations,
    "listAllBuilds": list_all_builds,
    "getOperation": get_operation,
    "cancelOperation": cancel_operation,
}
