"""The platform itself: health, readiness, measures, nodes, pools, read models, and this interface's own document."""

import asyncio
import json

from aiohttp import web

from actors.logs.errors import LogError as LinesError
from api.http import openapi, shown
from api.http import schema as s
from api.http import schema_platform as p
from api.http.answers import accepted, answer
from api.http.call import Call, at_time, reason_of
from api.http.context import accepted_view
from api.http.problems import not_found
from api.http.queries import PageOf, RemoveNode
from api.http.services import PlatformAway
from events.log.errors import LogError
from events.model.base import Command
from events.model.node import DrainNode, LeaveNode, UndrainNode
from projections import progress, queries
from projections.errors import ProjectionsError

CHECK_SECONDS = 3.0


async def health(call: Call) -> web.Response:
    return answer(p.HealthView(status="ok"))


async def ready(call: Call) -> web.Response:
    """503 until the log, the read models and the rest of the platform answer. Names no cause to strangers."""
    checks = await _checks(call)
    good = all(check.ok for check in checks)
    plain = [p.CheckView(name=check.name, ok=check.ok, found="", waiting=check.waiting) for check in checks]
    return answer(p.HealthView(status="ok" if good else "not ready", checks=plain), 200 if good else 503)


async def _checks(call: Call) -> list[p.CheckView]:
    own = await asyncio.gather(_check_log(call), _check_database(call), _check_master_key(call))
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            others = list(await call.context.services.platform.checks())
    except (TimeoutError, PlatformAway):
        others = [p.CheckView(name="platform", ok=False, found="no answer", fix="rayfold status")]
    return [*own, *others]


async def _check_log(call: Call) -> p.CheckView:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            tails = await call.context.feed.tails()
            damage = await call.context.damage.standing()
    except (LogError, TimeoutError) as error:
        return p.CheckView(name="event log", ok=False, found=type(error).__name__, fix="look at etcd: rayfold doctor")
    if damage:
        fix = "rayfold log verify; docs/operations.md, What is damaged"
        return p.CheckView(name="event log", ok=False, found="; ".join(damage), fix=fix, waiting=True)
    return p.CheckView(name="event log", ok=True, found=f"{sum(tails.values())} events in {len(tails)} partitions")


async def _check_database(call: Call) -> p.CheckView:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            reached = await call.context.reads.ask(progress.reached)
    except (ProjectionsError, TimeoutError) as error:
        return p.CheckView(name="read models", ok=False, found=type(error).__name__, fix="rayfold doctor")
    return p.CheckView(name="read models", ok=True, found=f"{sum(reached.values())} events folded")


async def _check_master_key(call: Call) -> p.CheckView:
    """With another key than the log's everything runs, but for what has secrets."""
    name, fix = "master key", "docs/operations.md, Secrets, says how keys are put back"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            trouble = await call.context.services.keyring.master_trouble()
    except (LogError, TimeoutError) as error:
        return p.CheckView(name=name, ok=False, found=type(error).__name__, fix="look at etcd: rayfold doctor")
    return p.CheckView(name=name, ok=not trouble, found=trouble or "opens the secrets", fix=fix if trouble else "",
                       waiting=bool(trouble))  # fmt: skip


async def metrics(call: Call) -> web.Response:
    """While the archiver or the reconciler does not answer in time, what it last said stands."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            call.context.metrics.show_log(await call.context.services.platform.log_report())
    except (TimeoutError, PlatformAway, LogError):
        pass
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            call.context.metrics.show_pools(await call.context.services.platform.pools())
    except (TimeoutError, PlatformAway):
        pass
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            totals = await call.context.services.logs.totals()
            call.context.metrics.show_lines(totals, await call.context.reads.all_names())
    except (TimeoutError, LinesError):
        pass
    text = await asyncio.to_thread(call.context.metrics.text)
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def document(call: Call) -> web.Response:
    body = json.dumps(openapi.document(call.context.services.version)).encode()
    return web.Response(body=body, content_type="application/json")


async def status(call: Call) -> web.Response:
    """How it is, over what the token reaches; its parts are named to the administrator only."""
    reads, team = call.context.reads, call.principal.team
    checks, (apps, components, running), alarms = await asyncio.gather(
        _checks(call), reads.counts(team), line_alarms(call)
    )
    view = p.StatusView(
        version=call.context.services.version,
        ready=all(check.ok for check in checks),
        gateway_port=call.context.services.gateway_port(),
        partitions=call.context.partitions,
        apps=apps,
        components=components,
        running_operations=running,
        checks=checks if team is None else [],
        alarms=alarms,
    )
    return answer(view)


async def line_alarms(call: Call) -> list[p.AlarmView]:
    """Lines that were lost within the last hour, of what the token reaches."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            losses = (await call.context.services.logs.totals()).losses
            names = await call.context.reads.all_names() if losses else {}
    except (TimeoutError, LinesError):
        return []  # that the log servers do not answer is a check's story
    alarms = []
    for stream, loss in sorted(losses.items()):
        team, app, component = names.get(stream, ("", "", ""))
        if call.principal.reaches(team or None):
            alarms.append(
                p.AlarmView(
                    name="log lines lost",
                    team=team,
                    app=app,
                    component=component,
                    found=f"{loss.lines} within the last hour, the last {at_time(int(loss.at * 1e6)):%H:%M} UTC",
                    fix=f"rayfold logs --app {app} --component {component}: each gap says why" if app else "",
                )
            )
    return alarms


async def list_nodes(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(PageOf)
    await reads.wait_for(call)
    found = await reads.ask(queries.list_nodes, cursor=asked.cursor or "", limit=asked.limit)
    return answer(shown.page(found, shown.node))


async def change_node(call: Call) -> web.Response:
    body = call.body_as(p.ChangeNode)
    order = DrainNode(reason=body.reason) if body.draining else UndrainNode(reason=body.reason)
    return await _tell_node(call, order, body.reason)


async def remove_node(call: Call) -> web.Response:
    reason = call.query_as(RemoveNode).reason or reason_of(call.request)
    return await _tell_node(call, LeaveNode(reason=reason), reason)


async def _tell_node(call: Call, order: Command, reason: str) -> web.Response:
    stream = f"node/{call.name('node')}"
    reply = await call.context.submit(call, stream, order, reason=reason, expected_version=call.expected_version)
    await call.context.accepted(reply, stream, call.expected_version)
    return accepted(accepted_view(reply, "", operation=None))


async def list_projections(call: Call) -> web.Response:
    tails = await call.context.feed.tails()
    rows = await call.context.reads.ask(progress.checkpoints)
    positions: dict[str, dict[str, int]] = {}
    for row in rows:
        positions.setdefault(row.projection, {})[str(row.partition)] = row.next
    refused = await _refused_by_projectors(call)
    items = [
        p.ProjectionView(
            name=name,
            positions=places,
            behind=sum(max(0, tail - places.get(str(partition), 0)) for partition, tail in tails.items()),
            refused=refused,
        )
        for name, places in sorted(positions.items())
    ]
    return answer(s.Page(items=items))


async def _refused_by_projectors(call: Call) -> str:
    """Why they fold nothing, or not everything; what they say of all read models together."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            checks = await call.context.services.platform.checks()
    except (TimeoutError, PlatformAway):
        return ""
    return "; ".join(check.found for check in checks if check.name.startswith("projector-") and check.waiting)


async def rebuild_projection(call: Call) -> web.Response:
    name = call.name("projection")
    if not await call.context.services.platform.rebuild_projection(name):
        raise not_found(f"there is no projection {name}", hint="rayfold projections")
    return answer(p.Rebuilt(name=name, accepted=True), 202)


HANDLERS = {
    "health": health,
    "ready": ready,
    "metrics": metrics,
    "openapi": document,
    "status": status,
    "listNodes": list_nodes,
    "changeNode": change_node,
    "removeNode": remove_node,
    "listProjections": list_projections,
    "rebuildProjection": rebuild_projection,
}
