"""What a component is and was: its builds, releases, rollouts, instances, configuration, ports, probe and routes."""

from typing import cast

from aiohttp import web
from pydantic import JsonValue

from api.http import schema as s
from api.http import schema_story as story
from api.http import shown
from api.http.answers import answer, versioned
from api.http.call import Call
from api.http.problems import HttpProblem, not_found
from api.http.queries import PageOf, Preview
from events.model.component_parts import Release
from events.secrets import is_sealed, mask
from projections import queries
from projections.views import ComponentView, ReleaseView

PORT_VARIABLE = "PORT"


async def list_components(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(PageOf)
    await reads.wait_for(call)
    row = await reads.app(call)
    cursor = asked.cursor or ""
    found = await reads.ask(queries.list_components, row.team, app=row.name, cursor=cursor, limit=asked.limit)
    port = call.context.services.gateway_port()
    ready = await reads.ask(queries.count_ready, row.team, app=row.name)
    return answer(shown.page(found, lambda row: shown.component(row, port, ready.get(row.service_id, 0))))


async def get_component(call: Call) -> web.Response:
    row = await _component(call)
    ready = await call.context.reads.ask(queries.count_ready, row.team, app=row.app, component=row.name)
    port = call.context.services.gateway_port()
    return versioned(shown.component(row, port, ready.get(row.service_id, 0)), row.version)


async def _component(call: Call) -> ComponentView:
    await call.context.reads.wait_for(call)
    return await call.context.reads.component(call)


async def list_builds(call: Call) -> web.Response:
    row, asked = await _component(call), call.query_as(PageOf)
    found = await call.context.reads.ask(
        queries.list_builds, row.team, app=row.app, component=row.name, cursor=asked.cursor or "", limit=asked.limit
    )
    return answer(shown.page(found, shown.build))


async def get_build(call: Call) -> web.Response:
    await call.context.reads.wait_for(call)
    return answer(shown.build(await call.context.reads.build(call)))


async def list_releases(call: Call) -> web.Response:
    row, asked = await _component(call), call.query_as(PageOf)
    found = await call.context.reads.ask(
        queries.list_releases, row.team, row.app, row.name, cursor=asked.cursor or "", limit=asked.limit
    )
    return answer(shown.page(found, shown.release))


async def get_release(call: Call) -> web.Response:
    row = await _component(call)
    return answer(shown.release(await _release(call, row, _number(call.name("number"))), config=True))


def _number(text: str) -> int:
    text = text.removeprefix("v")
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) > 0):
        raise not_found(f"there is no release {text[:60]!r}", hint="rayfold releases")
    return int(text)


async def _release(call: Call, row: ComponentView, number: int) -> ReleaseView:
    found = await call.context.reads.ask(queries.get_release, row.team, row.app, row.name, number)
    if found is None or found.number <= row.born_after:
        raise not_found(f"there is no release v{number}", hint="rayfold releases")
    return found


async def preview_rollback(call: Call) -> web.Response:
    row, to = await _component(call), call.query_as(Preview).to
    if row.current == 0:
        raise HttpProblem(409, "conflict", "nothing is released yet", hint="rayfold deploy")
    before = await _release(call, row, row.current)
    after = await _release(call, row, to or await _previous(call, row))
    changes = shown.changes(_flat(before.release), _flat(after.release))
    view = story.RollbackPreview(
        team=row.team, app=row.app, component=row.name, current=row.current, to=after.number, changes=changes
    )
    return answer(view)


async def _previous(call: Call, row: ComponentView) -> int:
    """The release that served last before the current one, as the component's own `previous_release` has it."""
    cursor = ""
    while True:
        found = await call.context.reads.ask(
            queries.list_releases, row.team, row.app, row.name, cursor=cursor, limit=200
        )
        for release in found.items:
            if release.status == "succeeded" and release.number != row.current:
                return release.number
        if not found.next_cursor:
            raise HttpProblem(409, "conflict", "there is no earlier release to go back to", hint="rayfold releases")
        cursor = found.next_cursor


def _flat(release: Release) -> dict[str, JsonValue]:
    spec = release.spec
    flat: dict[str, JsonValue] = {f"config.{key}": value for key, value in spec.config.items()}
    flat |= {f"settings.{key}": value for key, value in shown.settings_of(spec).items()}
    flat |= {f"routes.{route.host}{route.path}": True for route in spec.all_routes()}
    artifact = release.artifact
    flat |= {"artifact": artifact.digest, "commit": artifact.commit, "command": release.command}
    return flat | {"scale": spec.scale, "stopped": spec.stopped}


async def list_rollouts(call: Call) -> web.Response:
    row, asked = await _component(call), call.query_as(PageOf)
    found = await call.context.reads.ask(
        queries.list_rollouts, row.team, app=row.app, component=row.name, cursor=asked.cursor or "", limit=asked.limit
    )
    return answer(shown.page(found, shown.rollout))


async def list_instances(call: Call) -> web.Response:
    """Those that live, and those of the last ones that ended."""
    row, asked = await _component(call), call.query_as(PageOf)
    found = await call.context.reads.ask(
        queries.list_instances,
        row.team,
        app=row.app,
        component=row.name,
        ended=True,
        cursor=asked.cursor or "",
        limit=asked.limit,
    )
    return answer(shown.page(found, shown.instance))


async def get_config(call: Call) -> web.Response:
    row = await _component(call)
    config = row.spec.config
    view = s.ConfigView(
        team=row.team,
        app=row.app,
        component=row.name,
        version=row.version,
        config=mask(config),
        secret=sorted(key for key, value in config.items() if is_sealed(value)),
    )
    return versioned(view, row.version)


async def list_ports(call: Call) -> web.Response:
    row = await _component(call)
    port = s.PortView(team=row.team, app=row.app, component=row.name, name="http", protocol="http", env=PORT_VARIABLE)
    return answer(s.Page(items=[port] if row.http else cast("list[s.PortView]", [])))


async def get_probe(call: Call) -> web.Response:
    row = await _component(call)
    view = s.ProbeView(
        team=row.team,
        app=row.app,
        component=row.name,
        version=row.version,
        path=row.spec.probe_path,
        start_timeout_seconds=row.spec.start_timeout_seconds,
    )
    return versioned(view, row.version)


async def list_routes(call: Call) -> web.Response:
    row = await _component(call)
    return answer(s.Page(items=shown.routes(row, call.context.services.gateway_port())))


HANDLERS = {
    "listComponents": list_components,
    "getComponent": get_component,
    "listBuilds": list_builds,
    "getBuild": get_build,
    "listReleases": list_releases,
    "getRelease": get_release,
    "previewRollback": preview_rollback,
    "listRollouts": list_rollouts,
    "listInstances": list_instances,
    "getConfig": get_config,
    "listPorts": list_ports,
    "getProbe": get_probe,
    "listComponentRoutes": list_routes,
}
