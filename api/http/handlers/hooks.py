"""Webhooks: where a component's are sent and with which secret, and the pushes that come in by them.

A push is deployed as the last deploy from git was. Its delivery id is the command's: one sent twice counts once.
"""

from dataclasses import replace

from aiohttp import web

from api.http import schema_hooks as v
from api.http.answers import answer
from api.http.call import Call
from api.http.identity import Principal, command_id_of
from api.http.problems import HttpProblem, unauthorized
from api.http.webhooks import NotGenuine, NotUnderstood, Push, hook_secret, read_push, same_repository
from events.model.base import service_id_of
from events.model.build import Source
from events.model.component_commands import Deploy
from projections import queries

MAX_REASON = 200


def _secret(call: Call) -> str:
    return hook_secret(call.context.services.admin_token, call.name("team"), call.name("app"), call.name("component"))


async def get_hook(call: Call) -> web.Response:
    await call.context.reads.component(call)
    path = f"/v1/hooks/{call.name('team')}/{call.name('app')}/{call.name('component')}"
    # Not through `answer`, which would mask it: showing it is what this is for.
    view = v.HookView(path=path, secret=_secret(call), content_type="application/json")
    return web.json_response(view.model_dump(), headers={"Cache-Control": "no-store"})


async def receive_hook(call: Call) -> web.Response:
    """No token opens this, but the proof that only who knows the secret can give; without it nothing is told apart."""
    body = await call.request.read()
    try:
        push = read_push(_secret(call), call.request.headers, body)
    except NotGenuine:
        raise unauthorized() from None
    except NotUnderstood as error:
        raise HttpProblem(422, "invalid", str(error), hint="docs/webhooks.md says how to set it up") from None
    if not push.branch:
        return _ignored(f"{push.event} is no push to a branch")
    source = await _source(call)
    if source is None:
        return _ignored("the component was never deployed from git: rayfold deploy GIT_URL first")
    if not any(same_repository(source.url, address) for address in push.repositories):
        return _ignored(f"it is deployed from {source.url}, not from this repository")
    wanted = source.ref or push.default_branch
    if push.branch != wanted:
        return _ignored(f"it is deployed from branch {wanted}, not from {push.branch}")
    return await _deploy(call, push, source)


async def _source(call: Call) -> Source | None:
    """What its newest build from git was built from."""
    found = await call.context.reads.ask(
        queries.list_builds, call.name("team"), app=call.name("app"), component=call.name("component")
    )
    return next((row.source for row in found.items if row.source.kind == "git"), None)


async def _deploy(call: Call, push: Push, source: Source) -> web.Response:
    team = call.name("team")
    sender = replace(call, principal=Principal(name=f"hook:{push.provider}", team=team))
    stream = f"component/{service_id_of(team, call.name('app'), call.name('component'))}"
    by = f" by {push.pusher}" if push.pusher.isprintable() and push.pusher else ""
    reason = f"push of {push.commit[:12]} to {push.branch}{by}"[:MAX_REASON]
    ident = command_id_of(team, "POST", call.request.path, push.delivery)
    reply = await call.context.submit(sender, stream, Deploy(source=source), reason=reason, command_id=ident)
    await call.context.accepted(reply, stream)
    return answer(v.HookAnswer(deployed=True, reason=reason, operation=reply.operation), 202)


def _ignored(reason: str) -> web.Response:
    return answer(v.HookAnswer(deployed=False, reason=reason, operation=None))


HANDLERS = {"getHook": get_hook, "receiveHook": receive_hook}
