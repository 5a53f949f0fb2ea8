"""A team's credentials for private sources, and the ssh host keys it trusts.

A secret comes in once, in clear, and is sealed before it is part of any command; opening one is the supervisor's.
"""

import asyncio
from typing import cast

from aiohttp import web
from pydantic import SecretStr

from actors.builder.errors import SourceError
from actors.builder.ssh_keys import KeyPair, fingerprint, make_pair, read_pair
from api.http import schema as s
from api.http import schema_credentials as c
from api.http.answers import accepted, answer
from api.http.call import Call, reason_of
from api.http.context import accepted_view
from api.http.handlers.past import history_of, state_at
from api.http.problems import invalid, of_refusal
from api.http.queries import Destroy
from events.model.base import Command, Reply, name_problem
from events.model.team import AddCredential, PinHostKeys, RemoveCredential, TeamState, UnpinHostKeys
from events.model.team_credentials import (
    MAX_SECRET_CHARS,
    Credential,
    CredentialKind,
    host_name,
    kind_for,
    place_name,
    prefix_problem,
)
from events.secrets import Sealed
from events.secrets.table import TeamKeys

DEFAULT_USER = "git"
"""What hosts that look at the token alone take as well as any other."""


async def list_credentials(call: Call) -> web.Response:
    team = call.name("team")
    state, keys = await _team(call), await call.context.services.keyring.keys(team)
    items = [_view(team, name, held, keys) for name, held in sorted(state.credentials.items())]
    return answer(s.Page(items=items))


async def put_credential(call: Call) -> web.Response:
    body, team, name = call.body_as(c.PutCredential), call.name("team"), call.name("credential")
    if problem := name_problem("a credential name", name) or prefix_problem(body.prefix):
        raise of_refusal(problem)
    await call.context.reads.team(team)  # nobody's key is made for a team that there is not
    wanted, clear = await asyncio.to_thread(_asked, body)  # a long key of RSA takes a while to be looked at
    place = place_name(name, body.prefix)
    sealed = await call.context.services.keyring.seal_all(team, f"team/{team}", {place: clear})
    credential = Credential(
        kind=CredentialKind.SSH_KEY if wanted else CredentialKind.PASSWORD,
        prefix=body.prefix,
        secret=sealed[place],
        user="" if wanted else body.user or DEFAULT_USER,
        public=wanted.public if wanted else "",
        made_here=wanted is not None and body.private_key is None,
    )
    reply = await _submit(call, AddCredential(name=name, credential=credential), body.reason)
    # From the log: asked for again, a pair that was made before is still the one that counts.
    kept = (await _team(call)).credentials.get(name, credential)
    view = _view(team, name, kept, await call.context.services.keyring.keys(team))
    position = f"{reply.partition}:{reply.offset}" if reply.offset >= 0 else None
    return answer(c.CredentialKept(**view.model_dump(), position=position))


def _asked(body: c.PutCredential) -> tuple[KeyPair | None, str]:
    """The key pair, where it is to be one, and the secret in clear. Raises HttpProblem 422."""
    if kind_for(body.prefix) is CredentialKind.SSH_KEY:
        if body.token is not None or body.user:
            raise invalid("expected private_key, or nothing to have one made, for an ssh URL; found a token or user")
        pair = _pair(body.private_key)
        return pair, pair.private
    if body.private_key is not None or body.token is None:
        raise invalid("expected a token for an https URL, found none", hint="an ssh key is for an ssh URL")
    token = body.token.get_secret_value()
    # A line break in it would be another line of what git is told.
    if not token or len(token) > MAX_SECRET_CHARS or not token.isprintable() or Sealed.parse(token):
        raise invalid(f"expected a token of 1 to {MAX_SECRET_CHARS} printable characters, found something else")
    return None, token


def _pair(given: SecretStr | None) -> KeyPair:
    if given is None:
        return make_pair()
    text = given.get_secret_value()
    if len(text) > MAX_SECRET_CHARS:
        raise invalid(f"expected a private key of at most {MAX_SECRET_CHARS} characters, found {len(text)}")
    try:
        return read_pair(text)
    except SourceError as error:
        raise invalid(str(error)) from None


async def remove_credential(call: Call) -> web.Response:
    return await _told(call, RemoveCredential(name=call.name("credential")))


async def list_host_keys(call: Call) -> web.Response:
    team, state = call.name("team"), await _team(call)
    items = [
        c.HostKeysView(team=team, host=host, keys=list(keys), fingerprints=[fingerprint(key) for key in keys])
        for host, keys in sorted(state.host_keys.items())
    ]
    return answer(s.Page(items=items))


async def pin_host_keys(call: Call) -> web.Response:
    body = call.body_as(c.PinHostKeys)
    reply = await _submit(call, PinHostKeys(host=_host(call), keys=tuple(body.keys)), body.reason)
    return accepted(accepted_view(reply, call.name("team"), operation=None))


async def unpin_host_keys(call: Call) -> web.Response:
    return await _told(call, UnpinHostKeys(host=_host(call)))


def _host(call: Call) -> str:
    host = host_name(call.name("host"))
    if host is None:
        raise invalid(f"expected a host, or host:port, found {call.name('host')[:80]!r}", hint="git.example.com:2222")
    return host


async def _told(call: Call, command: Command) -> web.Response:
    reply = await _submit(call, command, call.query_as(Destroy).reason or reason_of(call.request))
    return accepted(accepted_view(reply, call.name("team"), operation=None))


async def _submit(call: Call, command: Command, reason: str) -> Reply:
    stream = f"team/{call.name('team')}"
    reply = await call.context.submit(call, stream, command, reason=reason, expected_version=call.expected_version)
    return await call.context.accepted(reply, stream, call.expected_version)


async def _team(call: Call) -> TeamState:
    """The team as its log has it. Raises HttpProblem 404."""
    team = call.name("team")
    await call.context.reads.team(team)
    stream = f"team/{team}"
    return cast("TeamState", (await state_at(call, stream, await history_of(call, stream), {})).state)


def _view(team: str, name: str, held: Credential, keys: TeamKeys) -> c.CredentialView:
    sealed = Sealed.parse(held.secret)
    key = keys.find(sealed.key_id) if sealed else None
    return c.CredentialView(
        team=team,
        name=name,
        kind=held.kind.value,
        prefix=held.prefix,
        user=held.user,
        public_key=held.public,
        fingerprint=fingerprint(held.public) if held.public else sealed.fingerprint if sealed else "",
        key=sealed.key_id if sealed else "",
        readable=key is not None and not key.destroyed_at,
    )


HANDLERS = {
    "listCredentials": list_credentials,
    "putCredential": put_credential,
    "removeCredential": remove_credential,
    "listHostKeys": list_host_keys,
    "pinHostKeys": pin_host_keys,
    "unpinHostKeys": unpin_host_keys,
}
