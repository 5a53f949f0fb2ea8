"""Making components and deploying sources to them; cancelling a build.

A deploy makes what it needs on its way (app, component), every step under an id derived from the request's own, so that
a repetition completes what the first attempt left undone and does nothing twice.
"""

import asyncio

from aiohttp import web

from actors.builder import svn
from actors.builder.errors import SourceError
from actors.builder.git import check_ref, check_url
from actors.containers.errors import ContainerFault
from actors.containers.reference import parse_reference
from actors.containers.registry import resolve
from api.http import schema as s
from api.http import schema_deploy as sources
from api.http.answers import accepted
from api.http.call import Call
from api.http.context import accepted_view
from api.http.problems import HttpProblem, invalid, of_refusal
from api.http.uploads import Uploads
from events.model.app import CreateApp, RegisterComponent
from events.model.base import Reply, ServiceId, service_id_of
from events.model.build import CancelBuild, Source, said_of
from events.model.component_commands import CreateComponent, Deploy
from events.model.component_parts import Spec
from events.model.hosts import WEB, automatic_host


async def deploy(call: Call) -> web.Response:
    body, team = call.body_as(sources.Deploy), call.name("team")
    source = await _source(call, body.source)
    service_id = service_id_of(team, call.name("app"), call.name("component"))
    stream, expected = f"component/{service_id}", call.expected_version
    command_id, order = call.command_id, Deploy(source=source)

    async def attempt() -> Reply:
        return await call.context.submit(
            call, stream, order, reason=body.reason, command_id=command_id, expected_version=expected
        )

    reply = await attempt()
    if reply.refusal is not None and reply.refusal.code == "not_found" and body.create:
        await ensure(call, command_id, call.name("app"), call.name("component"), service_id, None, None, body.reason)
        reply = await attempt()
    await call.context.accepted(reply, stream, expected)
    return accepted(accepted_view(reply, team, operation=reply.operation, service_id=service_id))


async def _source(call: Call, given: sources.Source) -> Source:
    if isinstance(given, sources.ImageSource):
        return await _image(call, given.image)
    _check_subdir(given.subdir)
    if isinstance(given, sources.UploadSource):
        uploads = Uploads(call.context.services.uploads)
        if not await asyncio.to_thread(uploads.has, call.name("team"), given.digest):
            path = f"/v1/teams/{call.name('team')}/uploads/{given.digest}"
            raise invalid(f"expected an upload {given.digest}, found none", hint=f"PUT the tar to {path} first")
        said = _said(given.commit, given.author)
        return Source(kind="upload", digest=given.digest, subdir=given.subdir, ref=said)
    try:
        if isinstance(given, sources.SvnSource):
            url, ref = svn.check_url(given.url), svn.check_revision(given.revision)
        else:
            url, ref = check_url(given.url), check_ref(given.ref)
    except SourceError as error:
        raise HttpProblem(422, error.code, str(error), hint="give another URL or ref") from None
    if call.principal.team is not None and url.startswith(("/", "file:")):
        # The builder reads with the platform's eyes: a path of this machine is for whoever runs the platform.
        raise invalid("expected a URL of https or ssh, found a path: only the administrator deploys from a path")
    return Source(kind=given.kind, url=url, ref=ref, subdir=given.subdir)


def _said(commit: str, author: str) -> str:
    if author and not commit:
        raise invalid("expected the commit that the author wrote, found none", hint="give source.commit too")
    if not author.isprintable() or author != author.strip():
        raise invalid(f"expected an author without control characters or space around it, found {author[:80]!r}")
    return said_of(commit, author)


async def _image(call: Call, name: str) -> Source:
    """The image as it is now: what is built later, and again after a crash, is what was asked for."""
    try:
        asked = parse_reference(name)
        ours = asked.host == call.context.services.registry.partition("/")[0]
        if call.principal.team is not None and asked.plain_http and not ours:
            raise invalid(
                f"expected an image of a registry, found {asked.host}: only the administrator deploys from a registry "
                "of the platform's own machine"
            )
        pinned = await resolve(asked)
    except ContainerFault as error:
        raise HttpProblem(422, error.code, str(error), hint="give another image, or its tag or digest") from None
    return Source(kind="image", url=str(pinned), ref=str(asked) if asked != pinned else "")


def _check_subdir(subdir: str) -> None:
    plain = not subdir or subdir.isprintable()
    if not plain or subdir.startswith(("/", "-")) or ".." in subdir.split("/") or "\\" in subdir:
        raise invalid(
            f"expected a directory inside the source, found {subdir[:80]!r}", hint="for example: services/web"
        )


async def create_component(call: Call) -> web.Response:
    body, team, app = call.body_as(s.CreateComponent), call.name("team"), call.name("app")
    service_id = service_id_of(team, app, body.name)
    await call.context.reads.app(call)
    reply = await ensure(
        call, call.command_id, app, body.name, service_id, body.process, body.http, body.reason, make_app=False
    )
    view = accepted_view(reply, team, operation=None, service_id=service_id)
    return accepted(view, created=True)


async def ensure(
    call: Call,
    command_id: str,
    app: str,
    component: str,
    service_id: ServiceId,
    process: str | None,
    http: bool | None,
    reason: str,
    *,
    make_app: bool = True,
) -> Reply:
    """Make the app (unless there is one), list the component in it, and make the component. Raises HttpProblem."""
    team, context = call.name("team"), call.context
    app_stream, stream = f"app/{team}.{app}", f"component/{service_id}"
    made: Reply | None = None
    if make_app:
        await context.reads.team(team)
        create_app = CreateApp(team=team, name=app)
        made = await context.submit(call, app_stream, create_app, reason=reason, command_id=command_id, suffix=".app")
        if made.refusal is not None and made.refusal.code != "conflict":
            raise of_refusal(made.refusal)
    register = RegisterComponent(name=component, service_id=service_id)
    listed = await context.submit(call, app_stream, register, reason=reason, command_id=command_id, suffix=".reg")
    if listed.refusal is not None:
        # "exists already" is no obstacle, but "is being destroyed" is, and it says so better than "no such app".
        raise of_refusal(made.refusal if made is not None and made.refusal is not None else listed.refusal)
    process = process or component
    serves = process == WEB if http is None else http
    create = CreateComponent(
        service_id=service_id,
        team=team,
        app=app,
        name=component,
        process=process,
        spec=Spec(http=serves, auto_host=automatic_host(team, app, component) if serves else ""),
    )
    reply = await context.submit(call, stream, create, reason=reason, command_id=command_id, suffix=".create")
    return await context.accepted(reply, stream)


async def cancel_build(call: Call) -> web.Response:
    row, team = await call.context.reads.build(call), call.name("team")
    stream, reason = f"build/{row.build_id}", call.body_as(s.Because).reason
    if call.expected_version is not None:
        raise HttpProblem(422, "invalid", "a build takes no If-Match: cancelling depends on no version")
    reply = await call.context.submit(call, stream, CancelBuild(reason=reason or "cancelled by user"), reason=reason)
    await call.context.accepted(reply, stream)
    return accepted(accepted_view(reply, team, operation=row.operation, service_id=row.service_id))


HANDLERS = {"deploy": deploy, "createComponent": create_component, "cancelBuild": cancel_build}
