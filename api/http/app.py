"""The HTTP application: joins the route table with its handlers and puts the door before them.

Thin: what passes the door is decided in `call` and `identity`, what is answered in `handlers`. Holds no state.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from aiohttp import web

from actors.cluster.tracing import span
from api.git.door import GitDoor
from api.http.call import MAX_BODY_BYTES, Call, check_names, parse_body, parse_query, read_json
from api.http.context import Context
from api.http.failures import of_exception
from api.http.handlers.table import HANDLERS, Handler
from api.http.identity import ADMIN, Principal, fresh_id
from api.http.problems import out_of_reach, overloaded
from api.http.route import COMPONENT, Route
from api.http.routes import ROUTES
from api.http.services import Services

log = structlog.get_logger("api")

MAX_LINE_BYTES = 64 * 1024  # so that a name of 10,000 characters gets a clear answer
SHUTDOWN_SECONDS = 5.0

CONTEXT = web.AppKey("context", Context)
REQUEST_ID = web.RequestKey("request_id", str)
HELD = web.RequestKey("held", tuple[str, int])
_Inner = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(services: Services) -> web.Application:
    """The application over `services`. Run it with `serve`, or with aiohttp's own runners."""
    app = web.Application(middlewares=[_door])
    context = Context(services)
    app[CONTEXT] = context
    # aiohttp tries the paths of one beginning one after the other: what is asked most comes first, each path once.
    resources: dict[str, web.Resource] = {}
    for route in sorted(ROUTES, key=_how_late):
        path = route.path.replace("{stream}", "{stream:.+}")
        if path not in resources:
            resources[path] = app.router.add_resource(path)
        resources[path].add_route(route.method, _serve_route(context, route, HANDLERS[route.id]))
    GitDoor(context).add_to(app)
    app.cleanup_ctx.append(_live_feed)
    app.cleanup_ctx.append(_parts_of_uploads)
    app.on_shutdown.append(_end_streams)
    return app


def _how_late(route: Route) -> tuple[bool, int]:
    of_component = route.path.startswith(COMPONENT)
    return not of_component, route.path.count("/") if of_component else 0


async def serve(app: web.Application, host: str, port: int, *, shared: bool = False) -> tuple[web.AppRunner, int]:
    """Listen; returns the runner (`await runner.cleanup()` ends it) and the port, chosen where `port` is 0.

    `shared`: other processes of this user may listen there too; the kernel spreads the connections over them.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_LINE_BYTES,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True, reuse_port=shared or None)
        await site.start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])


def requests_of(app: web.Application) -> tuple[float, float]:
    """Requests answered since the start, and running now."""
    return app[CONTEXT].answered, float(app[CONTEXT].running)


async def end_gently(app: web.Application, runner: web.AppRunner) -> bool:
    """Stop listening, end what streams; whether every other request has been answered."""
    context = app[CONTEXT]
    context.leaving = True
    for site in list(runner.sites):
        await site.stop()
    await _end_streams(app)
    return context.running == 0


async def _live_feed(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(app[CONTEXT].feed.run())
    task.add_done_callback(_feed_ended)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _feed_ended(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("the live feed ended: streams are fed by their own reading only", exc_info=task.exception())


async def _parts_of_uploads(app: web.Application) -> AsyncIterator[None]:
    context = app[CONTEXT]
    task = asyncio.get_running_loop().create_task(context.parts.rounds())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # What is being joined goes on to its end, whether or not anybody waits: it is there when it is asked for again.
    context.joining.shutdown(wait=False)


async def _end_streams(app: web.Application) -> None:
    for task in list(app[CONTEXT].streams):
        task.cancel()


def _serve_route(context: Context, route: Route, handler: Handler) -> _Inner:
    async def serve_one(request: web.Request) -> web.StreamResponse:
        began = time.perf_counter()
        request_id = request[REQUEST_ID]
        status = 500
        context.running += 1
        try:
            with span(route.id, request.headers.get("traceparent", "")[:100], request_id=request_id) as traceparent:
                call = await _enter(context, route, request, request_id, traceparent)
                if route.streams or route.lines or route.raw or route.file:
                    response = await handler(call)
                else:
                    with context.deadlines.within(route.seconds):
                        response = await handler(call)
            status = response.status
            if context.leaving and not response.prepared:
                response.force_close()
            return response
        except Exception as error:
            status = of_exception(error, request_id).status
            context.damage.note(error)
            raise
        finally:
            if (held := request.get(HELD)) is not None:
                context.gate.leave(*held)
            context.running -= 1
            context.answered += 1
            seconds = None if route.streams or route.lines else time.perf_counter() - began
            context.metrics.answered(route.id, status, seconds)

    return serve_one


async def _enter(context: Context, route: Route, request: web.Request, request_id: str, traceparent: str) -> Call:
    """Through the door: the token first, so that nobody without one learns what is valid or there."""
    principal = ADMIN if route.reach == "public" else await _principal(context, request)
    names = request.match_info
    check_names(names)
    team = names.get("team")
    if (route.reach == "admin" and principal.team is not None) or (team is not None and not principal.reaches(team)):
        raise out_of_reach()
    query = parse_query(request.query.items() if request.query_string else (), route.query)
    body = None
    if route.body is not None:
        _hold(context, request, team or principal.team or principal.name)
        body = parse_body(await read_json(request), route.body, request)
    return Call(
        request=request,
        names=names,
        path=request.path,
        headers=request.headers,
        context=context,
        route=route,
        principal=principal,
        request_id=request_id,
        query=query,
        body=body,
        traceparent=traceparent,
    )


def _hold(context: Context, request: web.Request, team: str) -> None:
    """Make room for a body before any of it is read. Raises HttpProblem 429 for who has more than a fair share."""
    held = (team, min(MAX_BODY_BYTES, request.content_length or MAX_BODY_BYTES))
    if not context.gate.enter(*held):
        raise overloaded(f"{context.gate.things} requests are being read; those of {team} have their share")
    request[HELD] = held


async def _principal(context: Context, request: web.Request) -> Principal:
    return await context.gatekeeper.principal(request.headers.get("Authorization") or _socket_token(request))


def _socket_token(request: web.Request) -> str:
    """A page cannot give a WebSocket headers, only names of protocols: `rayfold` and `bearer.TOKEN`."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return ""
    names = (name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(","))
    return next((f"Bearer {name.removeprefix('bearer.')}" for name in names if name.startswith("bearer.")), "")


@web.middleware
async def _door(request: web.Request, handler: _Inner) -> web.StreamResponse:
    """Every request gets an id, and every failure becomes a problem that tells no more than it should."""
    request_id = fresh_id()
    request[REQUEST_ID] = request_id
    try:
        response = await handler(request)
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception as error:
        problem = of_exception(error, request_id)
        if problem.status >= 500 and problem.code == "internal":
            log.error("request failed", request_id=request_id, method=request.method, path=request.path[:200],
                      exc_info=error)  # fmt: skip
        response = problem.answer(request_id)
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
    return response
