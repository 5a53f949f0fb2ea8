"""Rules for log lines, of a team and of a component: told, and changed by a command to the team's own stream."""

import msgspec
from aiohttp import web

from actors.logs.errors import BadQuery
from actors.logs.redact import check_rules
from api.http import schema as s
from api.http import schema_lines as lines
from api.http.answers import accepted, answer
from api.http.call import Call
from api.http.context import accepted_view
from api.http.problems import HttpProblem, invalid
from events.model.log_rules import FIELDS, NO_RULES, TEAM_ONLY, LogRules
from events.model.team import ChangeLogRules
from projections import queries


async def list_rules(call: Call) -> web.Response:
    reads, team = call.context.reads, call.name("team")
    await reads.wait_for(call)
    await reads.team(team)
    found = await reads.ask(queries.log_rules, team)
    return answer(s.Page(items=[_view(team, scope, rules) for (_, scope), rules in sorted(found.items())]))


async def get_component_rules(call: Call) -> web.Response:
    reads = call.context.reads
    await reads.wait_for(call)
    row = await reads.component(call)
    scope = f"{row.app}/{row.name}"
    found = await reads.ask(queries.log_rules, row.team, scope)
    return answer(_view(row.team, scope, found.get((row.team, scope), NO_RULES)))


async def change_team_rules(call: Call) -> web.Response:
    body = call.body_as(lines.ChangeTeamLogRules)
    theirs = [name for name in TEAM_ONLY if name in body.model_fields_set]
    if theirs and call.principal.team is not None:
        raise HttpProblem(409, "conflict", f"{' and '.join(theirs)} can be set by the administrator only")
    return await _change(call, "", body)


async def change_component_rules(call: Call) -> web.Response:
    row = await call.context.reads.component(call)
    return await _change(call, f"{row.app}/{row.name}", call.body_as(lines.ChangeLogRules))


async def _change(call: Call, scope: str, body: lines.ChangeLogRules) -> web.Response:
    given = {name: getattr(body, name) for name in FIELDS if name in body.model_fields_set}
    if not given:
        raise invalid(f"expected one of {', '.join(FIELDS)}, found none")
    try:
        check_rules(given.get("redact") or ())
    except BadQuery as error:
        raise invalid(str(error)) from None
    rules = msgspec.convert({name: value for name, value in given.items() if value is not None}, LogRules)
    unset = tuple(name for name, value in given.items() if value is None)
    team, context = call.name("team"), call.context
    stream = f"team/{team}"
    command = ChangeLogRules(scope=scope, rules=rules, unset=unset)
    reply = await context.submit(call, stream, command, reason=body.reason)
    await context.accepted(reply, stream)
    return accepted(accepted_view(reply, team, operation=None))


def _view(team: str, scope: str, rules: LogRules) -> lines.LogRulesView:
    app, _, component = scope.partition("/")
    told = msgspec.to_builtins(rules)
    return lines.LogRulesView(team=team, app=app, component=component, **told)


HANDLERS = {
    "listLogRules": list_rules,
    "changeTeamLogRules": change_team_rules,
    "getLogRules": get_component_rules,
    "changeLogRules": change_component_rules,
}
