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
    return await _decide(call, RetryParked())


async def skip_parked(call: Call) -> web.Response:
    return await _decide(call, SkipParked())


async def _decide(call: Call, command: RetryParked | SkipParked) -> web.Response:
    body = call.body_as(p.AboutParked)
    found = [view for view in await _everything(call) if view.stream == body.stream]
    if found and all(view.by != SUPERVISOR for view in found):
        names = sorted(view.by for view in found)
        raise HttpProblem(
            409,
            "conflict",
            f"{body.stream} is set aside by the read model {names[0]}, which is mended by folding it anew",
            hint=f"rayfold projections rebuild {names[0]}",
        )
    stream = parked_stream(body.stream)
    if not found or body.stream.startswith(f"{KIND}/"):
        raise not_found("nothing of this stream is parked", hint="rayfold parked list")
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
