"""git's smart HTTP: who may, which repository, and the bytes to and from git's own program. No protocol of our own.

Paths are `/git/{team}/{app}/{component}.git/…`, as a git client makes them of the remote's URL. Errors are plain text,
which git shows to whoever pushes.
"""

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
from aiohttp import web

from actors.cluster.fair import FairGate
from api.git.repository import MAX_PUSH_BYTES, SERVICES, NoGit, Repositories, end
from api.http.call import check_names
from api.http.context import Context
from api.http.identity import Principal
from api.http.problems import HttpProblem, not_found, overloaded, unauthorized
from events.model.base import ServiceId, service_id_of

log = structlog.get_logger("api")

PREFIX = "/git/{team}/{app}/{component}.git"
AT_ONCE = 16  # of one API server, pushes and fetches
IDLE_SECONDS = 60.0  # a client that sends nothing for so long is let go
WHOLE_SECONDS = 2 * 3600.0  # with the build that a push waits for
NOBODYS = ServiceId("empty")
_CHUNK = 64 * 1024
_PROTOCOL = re.compile(r"^version=[0-2]$")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GitDoor:
    """Serves every repository over the app's context."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._repositories = Repositories(context.services.repositories)
        self._gate = FairGate(things=AT_ONCE, size=AT_ONCE)

    def add_to(self, app: web.Application) -> None:
        """Put the three paths of the protocol into the app."""
        app.router.add_get(f"{PREFIX}/info/refs", self._plainly(self._info_refs))
        for service in SERVICES:
            app.router.add_post(f"{PREFIX}/{service}", self._plainly(self._exchange))

    def _plainly(self, handler: _Handler) -> _Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            self._context.running += 1
            try:
                return await handler(request)
            except HttpProblem as problem:
                return _told(problem)
            finally:
                self._context.running -= 1
                self._context.answered += 1

        return answer

    async def _enter(self, request: web.Request) -> Principal:
        """The token first, so that nobody without one learns what is there. Raises HttpProblem."""
        principal = await self._context.gatekeeper.principal(f"Bearer {_token(request)}")
        check_names(request.match_info)
        team = request.match_info["team"]
        if not principal.reaches(team):
            raise not_found("there is no such repository for this token", hint="rayfold git remote")
        await self._context.reads.team(team)
        return principal

    async def _info_refs(self, request: web.Request) -> web.StreamResponse:
        await self._enter(request)
        service = request.query.get("service", "")
        if service not in SERVICES:
            detail = f"expected the service {' or '.join(SERVICES)}, found {service[:60]!r}"
            raise HttpProblem(403, "forbidden", detail, hint="use a git that speaks the smart protocol")
        head = f"# service={service}\n".encode()
        # The one thing that git leaves to whoever serves it: the name of the service, framed, and the end of that part.
        framed = f"{len(head) + 4:04x}".encode() + head + b"0000"
        return await self._run(request, service, advertise=True, first=framed)

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        await self._enter(request)
        service = request.path.rpartition("/")[2]
        if request.content_type != f"application/x-{service}-request":
            raise HttpProblem(415, "unsupported_media_type", f"expected application/x-{service}-request")
        return await self._run(request, service, advertise=False, first=b"")

    async def _run(self, request: web.Request, service: str, *, advertise: bool, first: bytes) -> web.StreamResponse:
        names = {part: request.match_info[part] for part in ("team", "app", "component")}
        if not self._gate.enter(names["team"], 1):
            raise overloaded(f"{AT_ONCE} pushes and fetches go on; those of {names['team']} have their share")
        process = None
        try:
            path = await self._repository(service_id_of(**names), service, advertise=advertise)
            told = {f"RAYFOLD_PUSH_{part.upper()}": name for part, name in names.items()}
            told |= {"RAYFOLD_PUSH_URL": _own_address(request), "RAYFOLD_PUSH_TOKEN": _token(request)}
            protocol = request.headers.get("Git-Protocol", "")
            process = await self._repositories.serve(
                service, path, protocol=protocol if _PROTOCOL.match(protocol) else "", advertise=advertise, told=told
            )
            kind = "advertisement" if advertise else "result"
            return await _converse(request, process, f"application/x-{service}-{kind}", first)
        except NoGit as error:
            raise HttpProblem(503, "no_git", str(error)) from None
        finally:
            if process is not None:
                await asyncio.shield(end(process))
            self._gate.leave(names["team"], 1)

    async def _repository(self, service_id: ServiceId, service: str, *, advertise: bool) -> Path:
        path = self._repositories.path_of(service_id)
        if path.is_dir():
            return path
        if service != SERVICES[0]:
            raise not_found("nothing was pushed here yet", hint="rayfold git remote; git push rayfold main")
        # Who only asks what is there makes nothing: an empty repository that is nobody's answers for all of them.
        return await self._repositories.ensure(NOBODYS if advertise else service_id)


def _told(problem: HttpProblem) -> web.Response:
    if problem.status == 401:
        text = "expected a token of the platform as the password; rayfold git remote sets git up to find it\n"
        return web.Response(status=401, text=text, headers={"WWW-Authenticate": 'Basic realm="Rayfold"'})
    text = problem.detail + (f"\n{problem.hint}" if problem.hint else "") + "\n"
    return web.Response(status=problem.status, text=text, headers=problem.headers)


async def _converse(
    request: web.Request, process: asyncio.subprocess.Process, content_type: str, first: bytes
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-cache"})
    await response.prepare(request)
    if first:
        await response.write(first)
    feeding = asyncio.create_task(_feed(request, process))
    try:
        async with asyncio.timeout(WHOLE_SECONDS):
            assert process.stdout is not None  # noqa: S101 - asked for
            while chunk := await process.stdout.read(_CHUNK):
                await response.write(chunk)
            await process.wait()
        await response.write_eof()
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    return response


async def _feed(request: web.Request, process: asyncio.subprocess.Process) -> None:
    """The request's body to git, as fast as git takes it. Cut off or too long, git sees it end, and says so."""
    assert process.stdin is not None  # noqa: S101 - asked for
    received = 0
    try:
        while received <= MAX_PUSH_BYTES + _CHUNK:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await request.content.readany()
            if not chunk:
                return
            received += len(chunk)
            process.stdin.write(chunk)
            await process.stdin.drain()
    except (ConnectionError, TimeoutError, web.RequestPayloadError):
        log.info("a client of git went away", path=request.path[:200], received=received)
    finally:
        process.stdin.close()


def _token(request: web.Request) -> str:
    """The password of Basic authentication, which is what git asks for, or a bearer token. Raises HttpProblem."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    try:
        user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise unauthorized() from None
    return password or user


def _own_address(request: web.Request) -> str:
    """Where this very request came in, for the hook to ask back."""
    assert request.transport is not None  # noqa: S101 - the request is being answered
    host, port = request.transport.get_extra_info("sockname")[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
