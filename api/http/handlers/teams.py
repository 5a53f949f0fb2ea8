"""Teams and their tokens. A token is told once, in answer to the command that makes it, and kept only as a digest."""

from aiohttp import web

from api.http import schema as s
from api.http import shown
from api.http.answers import accepted, answer
from api.http.call import Call
from api.http.context import accepted_view
from api.http.identity import derived_token, digest_of
from api.http.problems import HttpProblem
from api.http.queries import PageOf
from events.model.base import Reply
from events.model.team import CreateTeam, IssueTeamToken, RevokeTeamToken
from projections import queries
from projections.views import TeamView

FIRST_TOKEN = "first"  # noqa: S105 a name, not a secret


async def list_teams(call: Call) -> web.Response:
    reads = call.context.reads
    await reads.wait_for(call)
    if call.principal.team is not None:
        return answer(s.Page(items=[await _shown(call, await reads.team(call.principal.team))]))
    asked = call.query_as(PageOf)
    found = await reads.ask(queries.list_teams, cursor=asked.cursor or "", limit=asked.limit)
    items = [await _shown(call, row) for row in found.items]
    return answer(s.Page(items=items, next_cursor=found.next_cursor or None))


async def get_team(call: Call) -> web.Response:
    await call.context.reads.wait_for(call)
    return answer(await _shown(call, await call.context.reads.team(call.name("team"))))


async def _shown(call: Call, row: TeamView) -> s.TeamView:
    tokens = await call.context.reads.ask(queries.list_tokens, row.name, limit=200)
    return shown.team(row, [token.name for token in tokens.items])


async def create_team(call: Call) -> web.Response:
    """Two commands under one key: a repetition completes what the first attempt left undone."""
    name = call.body_as(s.CreateTeam).name
    stream, command_id = f"team/{name}", call.command_id
    context = call.context
    made = await context.submit(call, stream, CreateTeam(name=name), command_id=command_id)
    await context.accepted(made, stream)
    return await _issue(call, name, FIRST_TOKEN, command_id)


async def issue_token(call: Call) -> web.Response:
    return await _issue(call, call.name("team"), call.body_as(s.IssueToken).name, call.command_id)


async def _issue(call: Call, team: str, name: str, command_id: str) -> web.Response:
    context, stream = call.context, f"team/{team}"
    token = derived_token(context.services.admin_token, f"{team}|{name}|{command_id}")
    command = IssueTeamToken(name=name, sha256=digest_of(token))
    reply = await context.submit(call, stream, command, command_id=command_id, suffix=".token")
    await context.accepted(reply, stream)
    view = s.TokenIssued(team=team, name=name, token=token, position=_position(reply))
    return answer(view, 201)


def _position(reply: Reply) -> str | None:
    return f"{reply.partition}:{reply.offset}" if reply.offset >= 0 else None


async def revoke_token(call: Call) -> web.Response:
    team = call.name("team")
    stream = f"team/{team}"
    if call.principal.team is not None and call.name("token") == FIRST_TOKEN:
        raise HttpProblem(409, "conflict", "the team's first token can be revoked by the administrator only")
    command = RevokeTeamToken(name=call.name("token"))
    reply = await call.context.submit(call, stream, command, expected_version=call.expected_version)
    await call.context.accepted(reply, stream, call.expected_version)
    return accepted(accepted_view(reply, team, operation=None))


HANDLERS = {
    "listTeams": list_teams,
    "getTeam": get_team,
    "createTeam": create_team,
    "issueToken": issue_token,
    "revokeToken": revoke_token,
}
