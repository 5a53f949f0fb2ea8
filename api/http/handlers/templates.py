"""Application templates: publish from a running app, list, show, remove, export and import.

Thin: what an app comes to and what a file may hold is decided in `actors.templates`.
"""

import asyncio

import msgspec
from aiohttp import web

from actors.builder.artifacts import DirectoryArtifactStore, read_manifest
from actors.builder.errors import ArtifactError
from actors.templates.package import Head, Package, PackageError, blocks, head_of, parts
from actors.templates.publish import Addresses, TemplateError, document_of
from api.http import schema_templates as t
from api.http import shown
from api.http.answers import accepted, answer
from api.http.call import Call, at_time, reason_of
from api.http.context import accepted_view
from api.http.handlers.past import history_of, state_at
from api.http.problems import HttpProblem, invalid, not_found
from api.http.queries import Destroy, PageOf
from api.http.streams import WRITE_SECONDS
from api.http.uploads import Uploads
from events.model.component_parts import ComponentState, ComponentStatus
from events.model.template import PublishTemplate, RemoveTemplate, template_stream
from events.model.template_parts import Document
from projections import queries
from projections.views import AppView, TemplateView

_NO_TEMPLATE = "rayfold template list"


async def publish_template(call: Call) -> web.Response:
    body, team = call.body_as(t.PublishTemplate), call.name("team")
    row = await app_named(call, body.app)
    states = await states_of(call, row)
    try:
        document = document_of(
            states.values(),
            addresses=Addresses(hosts=hosts_of(states), port=call.context.services.gateway_port()),
            description=body.description,
            required=body.required,
            generated=body.generated,
        )
    except TemplateError as error:
        raise invalid(str(error), hint="rayfold components; rayfold config") from None
    await hold(call, document)
    return await _published(call, team, body.name, body.version, document, f"{team}/{body.app}", body.reason)


async def app_named(call: Call, name: str) -> AppView:
    """An app of the call's team. Raises HttpProblem 404."""
    reads, team = call.context.reads, call.name("team")
    found = await reads.ask(queries.get_app, team, name)
    if found is None or found.status == "destroyed":
        await reads.catch_up([f"app/{team}.{name}"])
        found = await reads.ask(queries.get_app, team, name)
    if found is None or found.status == "destroyed":
        raise not_found(f"there is no app {name} in team {team}", hint="rayfold apps")
    return found


async def states_of(call: Call, app: AppView) -> dict[str, ComponentState]:
    """An app's components by name, as their logs have them now; without those that are going or gone."""
    found = {name: await state_of(call, service_id) for name, service_id in sorted(app.components.items())}
    return {name: state for name, state in found.items() if state.status is ComponentStatus.ACTIVE}


async def state_of(call: Call, service_id: str) -> ComponentState:
    """A component as its log has it now; absent before its first event, and once its life is over."""
    stream = f"component/{service_id}"
    try:
        events = await history_of(call, stream)
    except HttpProblem as problem:
        if problem.status == 404:
            return ComponentState()
        raise
    state = (await state_at(call, stream, events, {})).state
    assert isinstance(state, ComponentState)  # noqa: S101 -- the stream's kind says so
    return state if state.status is ComponentStatus.ACTIVE else ComponentState()


def hosts_of(states: dict[str, ComponentState]) -> dict[str, str]:
    """The host name that each component with one has by itself."""
    return {name: state.spec.auto_host for name, state in states.items() if state.spec.auto_host}


async def hold(call: Call, document: Document) -> None:
    """Keep the artifacts of a template from being swept until the log says that they are needed. Raises HttpProblem."""
    store = DirectoryArtifactStore(call.context.services.artifacts)
    for component in document.components:
        digest = component.artifact.digest
        try:
            manifest = await read_manifest(store, digest)
            for part in (digest, *(blob.digest for blob in parts(manifest))):
                await store.renew(part)
        except ArtifactError as error:
            detail = f"the artifact of {component.name} is not in the platform's store: {error}"
            raise HttpProblem(409, "artifact_missing", detail, hint="deploy the component again") from None


async def _published(
    call: Call, team: str, name: str, label: str, document: Document, source: str, reason: str
) -> web.Response:
    stream = template_stream(team, name)
    order = PublishTemplate(team=team, name=name, label=label, document=document, source=source)
    command_id = call.command_id
    reply = await call.context.submit(call, stream, order, reason=reason, command_id=command_id)
    await call.context.accepted(reply, stream)
    events = await history_of(call, stream)
    view = t.TemplateAccepted(
        team=team,
        name=name,
        version=label,
        digest=document.digest(),
        position=f"{reply.partition}:{reply.offset}" if reply.offset >= 0 else None,
        published=any(event.record.command_id == command_id for event in events),
    )
    return answer(view)


async def list_templates(call: Call) -> web.Response:
    return await _listed(call, "")


async def list_versions(call: Call) -> web.Response:
    return await _listed(call, call.name("template"))


async def _listed(call: Call, name: str) -> web.Response:
    reads, asked, team = call.context.reads, call.query_as(PageOf), call.name("team")
    await reads.wait_for(call)
    found = await reads.ask(queries.list_templates, team, name=name, cursor=asked.cursor or "", limit=asked.limit)
    if not found.items and asked.cursor is None:
        await reads.team(team)
        if name:
            raise not_found(f"there is no template {name[:60]} in team {team}", hint=_NO_TEMPLATE)
    return answer(shown.page(found, _shown))


async def version_of(call: Call, name: str, label: str = "") -> TemplateView:
    """A version of a template of the call's team; the last one where none is named. Raises HttpProblem 404."""
    reads, team = call.context.reads, call.name("team")
    await reads.wait_for(call)
    if not label:
        # What was published a moment ago is the newest already.
        await reads.catch_up([template_stream(team, name)])
    found = await reads.ask(queries.list_templates, team, name=name, label=label, limit=1)
    if not found.items:
        await reads.catch_up([template_stream(team, name)])
        found = await reads.ask(queries.list_templates, team, name=name, label=label, limit=1)
    if not found.items:
        which = f"version {label[:60]} of template {name[:60]}" if label else f"template {name[:60]}"
        raise not_found(f"there is no {which} in team {team}", hint=_NO_TEMPLATE)
    return found.items[0]


async def get_template(call: Call) -> web.Response:
    return answer(_shown(await version_of(call, call.name("template"), call.name("version"))))


def _shown(row: TemplateView) -> t.TemplateView:
    components = [
        t.TemplateComponentView(
            name=each.name,
            process=each.process,
            http=each.http,
            artifact=each.artifact.digest,
            size_bytes=each.artifact.size_bytes,
            scale=each.scale,
            settings=each.settings,
            variables={key: t.VariableView(**msgspec.structs.asdict(v)) for key, v in each.variables.items()},
            crons=[job.name for job in each.crons],
            needs=list(each.needs),
        )
        for each in row.document.components
    ]
    return t.TemplateView(
        team=row.team,
        name=row.name,
        version=row.label,
        digest=row.digest,
        description=row.document.description,
        source=row.source,
        published_at=at_time(row.published_at),
        published_by=row.published_by,
        components=components,
    )


async def remove_template(call: Call) -> web.Response:
    team, label = call.name("team"), call.name("version")
    stream, expected = template_stream(team, call.name("template")), call.expected_version
    reason = call.query_as(Destroy).reason or reason_of(call.request)
    order = RemoveTemplate(label=label)
    reply = await call.context.submit(call, stream, order, reason=reason, expected_version=expected)
    await call.context.accepted(reply, stream, expected)
    return accepted(accepted_view(reply, team, operation=None))


# --- the file ---------------------------------------------------------------------------------------------------------


async def export_template(call: Call) -> web.StreamResponse:
    row = await version_of(call, call.name("template"), call.name("version"))
    store = DirectoryArtifactStore(call.context.services.artifacts)
    try:
        head = await head_of(store, row.name, row.label, row.document)
        # Checked here, once and whole: what is sent then is what the head says.
        paths = {blob.digest: await store.local_path(blob.digest) for blob in head.blobs}
    except PackageError as error:
        raise HttpProblem(409, error.code, str(error), hint="rayfold template show NAME@VERSION") from None
    except ArtifactError as error:
        raise HttpProblem(409, "artifact_missing", str(error), hint="publish it again") from None
    made = blocks(head, paths)
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar", "Cache-Control": "no-store"})
    await response.prepare(call.request)
    try:
        while piece := await asyncio.to_thread(next, made, b""):
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(piece)
    except Exception as error:
        if call.request.transport is not None:
            call.request.transport.abort()  # nobody takes a part for the whole
        raise ConnectionResetError("cut off, for the rest could not be sent") from error
    await response.write_eof()
    return response


async def import_template(call: Call) -> web.Response:
    body, team, services = call.body_as(t.ImportTemplate), call.name("team"), call.context.services
    await call.context.reads.team(team)
    if not await asyncio.to_thread(Uploads(services.uploads).has, team, body.upload):
        path = f"/v1/teams/{team}/uploads/{body.upload}"
        raise invalid(f"expected an upload {body.upload}, found none", hint=f"PUT the file to {path} first")
    try:
        package = await asyncio.to_thread(Package, services.uploads / body.upload, services.artifacts / "imports")
    except PackageError as error:
        raise HttpProblem(422, error.code, str(error), hint="export it again; nothing of it was kept") from None
    try:
        head: Head = package.head
        store = DirectoryArtifactStore(services.artifacts)
        for blob in package.blobs:
            await store.put(blob)
    finally:
        await asyncio.shield(asyncio.to_thread(package.close))
    name, label = body.name or head.name, body.version or head.version
    return await _published(call, team, name, label, head.document, f"file:{head.name}@{head.version}", body.reason)


HANDLERS = {
    "publishTemplate": publish_template,
    "listTemplates": list_templates,
    "listTemplateVersions": list_versions,
    "getTemplate": get_template,
    "removeTemplate": remove_template,
    "exportTemplate": export_template,
    "importTemplate": import_template,
}
