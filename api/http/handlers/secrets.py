"""What is secret in a team: which variables, under which keys; the end of a key, and another master key.

No handler here ever has a clear value in hand; sealing one is `changes`'s, opening one nobody's in this package.
"""

from collections.abc import Collection

from aiohttp import web

from api.http import schema as s
from api.http import schema_secrets as secret
from api.http.answers import answer
from api.http.call import Call, at_time, to_time
from api.http.context import accepted_view
from api.http.problems import not_found
from api.http.queries import PageOf
from events.model.team import DestroyTeamKey
from events.secrets import Sealed
from events.secrets.rotation import rotate_master
from projections import queries
from projections.views import ComponentView


async def list_secrets(call: Call) -> web.Response:
    reads, asked, team = call.context.reads, call.query_as(PageOf), call.name("team")
    await reads.wait_for(call)
    await reads.team(team)
    openable = await call.context.services.keyring.openable(team)
    found = await reads.ask(queries.list_components, team, cursor=asked.cursor or "", limit=asked.limit)
    items = [view for row in found.items for view in _secrets_of(row, openable)]
    return answer(s.Page(items=items, next_cursor=found.next_cursor or None))


def _secrets_of(row: ComponentView, openable: Collection[str]) -> list[secret.SecretView]:
    views = []
    for name, text in sorted(row.spec.config.items()):
        sealed = Sealed.parse(text)
        if sealed is None:
            continue
        views.append(
            secret.SecretView(
                team=row.team,
                app=row.app,
                component=row.name,
                name=name,
                fingerprint=sealed.fingerprint,
                key=sealed.key_id,
                readable=sealed.key_id in openable,
            )
        )
    return views


async def list_keys(call: Call) -> web.Response:
    team = call.name("team")
    await call.context.reads.team(team)
    keys = await call.context.services.keyring.keys(team)
    active = keys.active()
    items = [
        secret.KeyView(
            team=team,
            key=key.id,
            active=key == active,
            created_at=at_time(key.created_at),
            destroyed_at=to_time(key.destroyed_at),
            destroyed_by=key.destroyed_by,
            reason=key.reason,
        )
        for key in keys.keys
    ]
    return answer(s.Page(items=items))


async def destroy_key(call: Call) -> web.Response:
    body, team, context = call.body_as(secret.DestroyKey), call.name("team"), call.context
    keys = await context.services.keyring.keys(team)
    wanted = body.key or (keys.keys[-1].id if keys.keys else "")
    if keys.find(wanted) is None:
        raise not_found(f"team {team} has no key {body.key}".rstrip(), hint=f"rayfold secrets list --team {team}")
    stream = f"team/{team}"
    reply = await context.submit(call, stream, DestroyTeamKey(key_id=wanted), reason=body.reason)
    await context.accepted(reply, stream)
    return answer(accepted_view(reply, team, operation=None, service_id=None), 202)


async def rotate(call: Call) -> web.Response:
    services = call.context.services
    told = await rotate_master(services.keyring, services.master_key_file)
    return answer(secret.RotatedView(before=told.before, after=told.after, rewrapped=told.rewrapped))


HANDLERS = {
    "listSecrets": list_secrets,
    "listKeys": list_keys,
    "destroyKey": destroy_key,
    "rotateMaster": rotate,
}
