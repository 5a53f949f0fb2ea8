"""Many changes of components in one request: each is what a request of its own would be, all are sent together.

Knows the routes whose changes are one command to the component's stream; what each is made of is their handlers'.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

import structlog
from aiohttp import web

from api.http.answers import answer
from api.http.call import Call, check_names, parse_body, parse_query
from api.http.changing import Change, changed, service_of
from api.http.failures import of_exception
from api.http.handlers import builds, changes, crons
from api.http.problems import invalid, out_of_reach
from api.http.route import Route
from api.http.routes import ROUTES
from api.http.schema import Accepted
from api.http.schema_commands import AskedCommand, CommandResult, CommandResults, SendCommands
from events.model.base import Envelope, Reply, ServiceId

log = structlog.get_logger("api")

CHANGES = {**changes.CHANGES, **crons.CHANGES, **builds.CHANGES}

_Shape = tuple[str, int, tuple[str, ...]]


def _shape(method: str, parts: Sequence[str]) -> _Shape:
    """What tells these routes apart: their paths are `v1` and then a word and a name in turns."""
    return method, len(parts), tuple(parts[2::2])


_ROUTES: dict[_Shape, tuple[Route, tuple[str, ...]]] = {
    _shape(route.method, parts): (route, tuple(part.strip("{}") for part in parts[3::2]))
    for route in ROUTES
    if route.id in CHANGES
    for parts in (route.path.split("/"),)
}


@dataclass(kw_only=True, slots=True)
class _Item:
    """One command of the list, on its way to its result."""

    call: Call
    place: int
    service_id: ServiceId


@dataclass(kw_only=True, slots=True, frozen=True)
class _Sent:
    """One that was sent."""

    item: _Item
    change: Change
    envelope: Envelope


async def send_commands(call: Call) -> web.Response:
    if "Idempotency-Key" in call.headers:
        hint = "give each of the commands an idempotency_key"
        raise invalid("expected an id for each command, found one for the whole list", hint=hint)
    asked = call.body_as(SendCommands).commands
    results: dict[int, CommandResult] = {}
    items: list[_Item] = []
    for place, one in enumerate(asked):
        try:
            its = _enter(call, one)
            items.append(_Item(call=its, place=place, service_id=service_of(its)))
        except Exception as error:
            results[place] = _failed(call, one.path, error)
    for together in _rounds(items):
        await _send(call, together, results)
    return answer(CommandResults(results=[results[place] for place in range(len(asked))]))


def _enter(call: Call, asked: AskedCommand) -> Call:
    """Through the door, as a request of its own goes there. Raises HttpProblem."""
    path, _, query = asked.path.partition("?")
    parts = path.split("/")
    found = _ROUTES.get(_shape(asked.method, parts))
    if found is None or parts[1] != "v1":
        hint = "others have a request of their own; docs/http-api.md says which may be in a list"
        raise invalid(f"expected a change of a component, found {asked.method} {path[:200]}", hint=hint)
    route, named = found
    if "%" in path:
        parts = [unquote(part) for part in parts]
        path = "/".join(parts)
    names = dict(zip(named, parts[3::2], strict=True))
    check_names(names)
    if not call.principal.reaches(names["team"]):
        raise out_of_reach()
    headers = {}
    if asked.idempotency_key is not None:
        headers["Idempotency-Key"] = asked.idempotency_key
    if asked.if_match is not None:
        headers["If-Match"] = str(asked.if_match)
    return Call(
        request=call.request,
        names=names,
        path=path,
        headers=headers,
        context=call.context,
        route=route,
        principal=call.principal,
        request_id=call.request_id,
        query=parse_query(parse_qsl(query, keep_blank_values=True) if query else (), route.query),
        body=None if route.body is None else parse_body(asked.body, route.body, call.request),
        traceparent=call.traceparent,
    )


def _rounds(items: Sequence[_Item]) -> list[list[_Item]]:
    """All at once but those of one component: each of them once the one before is answered.

    On their way to an owner that changes commands may overtake each other, and some are made of what is there.
    """
    rounds: list[list[_Item]] = []
    turns: dict[ServiceId, int] = {}
    for item in items:
        turn = turns.get(item.service_id, 0)
        turns[item.service_id] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(item)
    return rounds


async def _send(call: Call, items: Sequence[_Item], results: dict[int, CommandResult]) -> None:
    context = call.context
    sending: list[_Sent] = []
    for item in items:
        its = item.call
        try:
            change = await CHANGES[its.route.id](its)
            envelope = context.envelope(
                its,
                f"component/{item.service_id}",
                change.order,
                reason=change.reason,
                command_id=its.command_id,
                expected_version=its.expected_version,
            )
            sending.append(_Sent(item=item, change=change, envelope=envelope))
        except Exception as error:
            results[item.place] = _failed(call, its.path, error)
    replies: Sequence[Reply | Exception]
    try:
        replies = await context.services.commands.submit([sent.envelope for sent in sending])
    except Exception as error:
        replies = [error] * len(sending)
    for sent, reply in zip(sending, replies, strict=True):
        its, place = sent.item.call, sent.item.place
        try:
            if isinstance(reply, Exception):
                raise reply
            results[place] = _done(await changed(its, sent.change, sent.item.service_id, context.decided(reply)))
        except Exception as error:
            results[place] = _failed(call, its.path, error)


def _done(view: Accepted) -> CommandResult:
    return CommandResult(status=202 if view.operation else 200, accepted=view)


def _failed(call: Call, path: str, error: Exception) -> CommandResult:
    problem = of_exception(error, call.request_id)
    if problem.code == "internal":
        log.error("command failed", request_id=call.request_id, path=path[:200], exc_info=error)
    after = problem.headers.get("Retry-After")
    return CommandResult(
        status=problem.status, problem=problem.view(call.request_id), retry_after=None if after is None else int(after)
    )


HANDLERS = {"sendCommands": send_commands}
