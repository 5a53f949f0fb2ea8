"""What was set aside because it could not be handled, and what a person decides about it.

Supervisors tell of the streams they decide for, the read models of those they fold.
"""

from aiohttp import web

from api.http import schema as s
from api.http import schema_platform as p
from api.http.answers import answer
from api.http.call import Call, to_time
from api.http.problems import HttpProblem, not_found
from events.model.parked import KIND, ParkedState, RetryParked, SkipParked, parked_stream
from projections import progress
from projections.views import ParkedView

SUPERVISOR = "supervisor"


async def list_parked(call: Call) -> web.Response:
    return answer(s.Page(items=await _everything(call)))


async def get_parked(call: Call) -> web.Response:
    """One line for each that has set the stream aside."""
    found = [view for view in await _everything(call) if view.stream == call.name("stream")]
    if not found:
        raise not_found("nothing of this stream is parked", hint="rayfold parked list")
    return answer(s.Page(items=found))


async def retry_parked(call: Call) -> web.Response:
    stream = call.body_as(p.AboutParked).stream
    by = await _by(call, stream)
    for name in by - {SUPERVISOR}:
        error = await call.context.services.platform.retry_projection(name, stream)
        if error is None:
            message = f"no projector has {stream} in hand just now, or another took it over meanwhile"
            raise HttpProblem(409, "conflict", message, hint=f"again: rayfold parked retry {stream}")
        if error:
            message = f"the read model {name} cannot fold {stream} still: {error}"
            raise HttpProblem(409, "conflict", message, hint=f"rayfold parked show {stream}")
    if SUPERVISOR not in by:
        return answer(p.Decided(stream=stream, position=None), 202)
    return await _decide(call, RetryParked())


async def skip_parked(call: Call) -> web.Response:
    stream = call.body_as(p.AboutParked).stream
    if SUPERVISOR not in (by := await _by(call, stream)):
        # It holds nothing of its own, a decision to leave an event out neither: folded anew, it would meet it again.
        message = f"{stream} is set aside by the read model {min(by)}, which leaves no event out"
        raise HttpProblem(409, "conflict", message, hint=f"once that is mended: rayfold parked retry {stream}")
    return await _decide(call, SkipParked())


async def _by(call: Call, stream: str) -> set[str]:
    by = {view.by for view in await _everything(call) if view.stream == stream}
    if stream.startswith(f"{KIND}/"):
        by.discard(SUPERVISOR)  # about what is told of parked streams nothing is decided
    if not by:
        raise not_found("nothing of this stream is parked", hint="rayfold parked list")
    return by


async def _decide(call: Call, command: RetryParked | SkipParked) -> web.Response:
    body = call.body_as(p.AboutParked)
    stream = parked_stream(body.stream)
    reply = await call.context.submit(call, stream, command, reason=body.reason)
    await call.context.accepted(reply, stream)
    return answer(p.Decided(stream=body.stream, position=f"{reply.partition}:{reply.offset}"), 202)


async def _everything(call: Call) -> list[p.ParkedView]:
    decided = [_of_supervisor(state) for state in await call.context.services.platform.parked()]
    folded = [_of_projection(view) for view in await call.context.reads.ask(progress.parked)]
    return sorted(decided + folded, key=lambda view: (view.stream, view.by))


def _of_supervisor(state: ParkedState) -> p.ParkedView:
    return p.ParkedView(
        by=SUPERVISOR,
        stream=state.stream,
        handler=state.handler,
        version=state.version,
        tries=state.tries,
        error=state.error,
        behind=None,
        parked_at=to_time(state.parked_at),
    )


def _of_projection(view: ParkedView) -> p.ParkedView:
    return p.ParkedView(
        by=view.projection,
        stream=view.stream,
        handler=view.event_type,
        version=None,
        tries=view.attempts,
        error=view.error,
        behind=view.behind,
        parked_at=to_time(view.parked_at),
    )


HANDLERS = {
    "listParked": list_parked,
    "getParked": get_parked,
    "retryParked": retry_parked,
    "skipParked": skip_parked,
}
