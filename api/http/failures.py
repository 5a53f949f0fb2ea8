"""What an exception is told as: a problem that says no more than it should. Knows the errors of the rooms below."""

import structlog
from aiohttp import web

from actors.logs.errors import LogError as LinesError
from api.http.problems import HttpProblem, damaged, of_http, unavailable
from api.http.services import PlatformAway
from events.log.errors import BeyondTail, LogDamaged, LogError
from events.secrets.errors import SecretError
from projections.errors import BadCursor, ProjectionsError

log = structlog.get_logger("api")


def of_exception(error: Exception, request_id: str) -> HttpProblem:
    """The problem that `error` is, for whoever made the request of that id."""
    if isinstance(error, HttpProblem):
        return error
    if isinstance(error, web.HTTPException):
        return of_http(error)
    if isinstance(error, BadCursor):
        return HttpProblem(422, "invalid", str(error), hint="give a cursor as the page before gave it")
    if isinstance(error, BeyondTail):
        return HttpProblem(422, "invalid", str(error), hint="begin anew, without the cursor")
    if isinstance(error, LogDamaged):
        return damaged(str(error))
    if isinstance(error, LogError | LinesError | ProjectionsError | PlatformAway):
        log.warning("a part did not answer", request_id=request_id, error=f"{type(error).__name__}: {error}")
        return unavailable("a part of the platform did not answer", hint="try again; rayfold status shows which")
    if isinstance(error, SecretError):
        return unavailable(str(error), hint="docs/operations.md, Secrets, says how keys are put back", code="secrets")
    if isinstance(error, TimeoutError):
        return unavailable("no answer in time", hint="try again; rayfold status shows why")
    hint = f"the platform's log has the cause under {request_id}"
    return HttpProblem(500, "internal", "something went wrong here; it was not your request", hint=hint)
