"""A real HTTP server over the API's own route table: it checks every request against the table's bodies and queries,
and answers what a test has put there. What a command sends is thereby held to the contract, not to a test's belief."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.http.route import Route
from api.http.routes import ROUTES

TOKEN = "a-token-for-tests"
Answer = tuple[int, object]
Teller = Callable[["Asked"], Answer]


@dataclass(frozen=True)
class Asked:
    """One request that the table let through."""

    id: str
    params: dict[str, str]
    query: dict[str, str]
    body: object
    headers: dict[str, str]
    raw: bytes = b""


@dataclass
class ContractServer:
    """`answers` by operation id: (status, object), a function of the request, a list of SSE lines to
    send, or the bytes of a file."""

    url: str = ""
    answers: dict[str, object] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def of(self, operation_id: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.id == operation_id]

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        app = web.Application(client_max_size=1 << 30)
        for route in ROUTES:
            path = route.path.replace("{stream}", "{stream:.+}")
            app.router.add_route(route.method, path, self._handler(route), name=route.id)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self.loop.run_until_complete(self._start())
        self.ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._runner.cleanup())
        self.loop.close()

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def _handler(self, route: Route) -> Callable[[web.Request], "asyncio.Future[web.StreamResponse]"]:
        async def handle(request: web.Request) -> web.StreamResponse:
            raw = await request.read()
            try:
                if request.headers.get("Authorization") != f"Bearer {TOKEN}" and route.reach != "public":
                    return problem(401, "unauthorized", "expected a valid bearer token, found none")
                route.query.model_validate(dict(request.query))
                body = json.loads(raw or b"{}") if route.body is not None else None
                if route.body is not None:
                    TypeAdapter(route.body).validate_python(body)
            except (ValidationError, ValueError) as error:
                return problem(422, "invalid", f"not as the route table says: {error}")
            asked = Asked(route.id, dict(request.match_info), dict(request.query), body, dict(request.headers), raw)
            self.asked.append(asked)
            return await self._answer(route, request, asked)

        return handle  # type: ignore[return-value]

    async def _answer(self, route: Route, request: web.Request, asked: Asked) -> web.StreamResponse:
        found = self.answers.get(route.id, (404, {"detail": f"no such thing: {request.path}", "code": "not_found"}))
        if callable(found):
            found = found(asked)
        if isinstance(found, list):
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for frame in found:
                await response.write(frame.encode())
                if frame == HANG:
                    await asyncio.sleep(60)
            return response
        if isinstance(found, bytes):
            return web.Response(body=found, content_type="application/jsonl")
        status, value = found
        if status >= 400:
            return problem(status, **value)
        raw = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        return web.json_response(raw, status=status)


HANG = ": nothing more for now\n\n"


def problem(status: int, code: str, detail: str, hint: str = "") -> web.Response:
    document = {
        "title": "Problem",
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        "request_id": "req1",
    }
    return web.json_response(document, status=status, content_type="application/problem+json")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ContractServer]:
    """The server, which the commands of this test find by RAYFOLD_URL."""
    found = ContractServer()
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    assert found.ready.wait(10)
    monkeypatch.setenv("RAYFOLD_URL", found.url)
    monkeypatch.setenv("RAYFOLD_TOKEN", TOKEN)
    for name in ("RAYFOLD_APP", "RAYFOLD_TEAM", "RAYFOLD_DATA", "RAYFOLD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield found
    found.loop.call_soon_threadsafe(found.loop.stop)
    thread.join(10)


def frames(*events: dict[str, object], end: bool = True) -> list[str]:
    """Server-sent frames of events, as the API sends them."""
    told = [f"id: {number}.0\ndata: {json.dumps(event)}\n\n" for number, event in enumerate(events, 1)]
    return told + (["event: end\ndata: {}\n\n"] if end else [])


def event(type_: str, second: float, operation: str = "op1", **body: object) -> dict[str, object]:
    """One event as the API shows it, `second` seconds after a fixed moment; endings and beginnings name `operation`."""
    if type_.startswith("Operation"):
        body["operation"] = operation
    return {
        "position": f"3:{int(second * 1000)}",
        "event_id": f"component/ab@{int(second * 1000)}",
        "stream": "component/ab",
        "version": int(second * 1000) + 1,
        "type": type_,
        "at": f"2026-01-31T12:00:{second:06.3f}Z",
        "operation": operation,
        "actor": "admin",
        "reason": "",
        "body": body,
    }


def deploy_events(release: int = 1) -> list[dict[str, object]]:
    """A deploy that goes well, event by event."""
    return [
        event("OperationStarted", 0.0, kind="deploy"),
        event("DeployRequested", 0.001, build_id="ab-op1"),
        event("BuildStarted", 0.1, builder="builder-0", attempt=1),
        event("BuildSucceeded", 2.1, artifact={"detected": "Python because of requirements.txt"}, cache_hit=False),
        event("ReleaseCreated", 2.2, release={"number": release}),
        event("RolloutStarted", 2.21, release=release),
        event("InstanceStarting", 2.22, instance="ab-1", kind="service"),
        event("InstanceReady", 3.2, instance="ab-1"),
        event("RolloutSwitched", 3.21, release=release),
        event("RoutingApplied", 3.25, gateways=["gateway-0"]),
        event("EndpointsDrained", 3.3, instances=["ab-0"]),
        event("RolloutSucceeded", 3.5, release=release),
        event("OperationSucceeded", 3.51, detail=f"v{release} is live"),
    ]
