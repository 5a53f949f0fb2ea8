"""Every way in which a request may fail, and how it is told: application/problem+json with a stable code.

Knows status codes and the model's refusals; nothing of any one route.
"""

from collections.abc import Mapping, Sequence

from aiohttp import web
from pydantic import ValidationError

from api.http.schema import EventView, FieldProblem, Problem
from events.model.base import Refusal, Reply
from events.secrets import mask

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 1
FULL_RETRY_SECONDS = 5  # what the archive has put away is reclaimed about this often

_TITLES = {
    400: "Malformed request",
    401: "No valid token",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    412: "The version moved",
    413: "Too large",
    415: "Unsupported media type",
    422: "Invalid",
    429: "Overloaded",
    500: "Internal error",
    503: "Not available now",
    507: "The event log is full",
}
# A thing that one may not have is told as one that is not there, so that its existence does not leak.
_REFUSALS = {"not_found": 404, "forbidden": 404, "conflict": 409, "version_mismatch": 412, "invalid": 422}


class HttpProblem(Exception):
    """A request that cannot be served as asked. `code` is part of the interface; `hint` says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        hint: str = "",
        errors: Sequence[FieldProblem] = (),
        events: Sequence[EventView] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.errors = list(errors)
        self.events = list(events)
        self.headers = dict(headers or {})

    def view(self, request_id: str) -> Problem:
        """The body of the answer."""
        return Problem(
            type=f"urn:rayfold:problem:{self.code}",
            title=_TITLES.get(self.status, "Problem"),
            status=self.status,
            detail=self.detail,
            code=self.code,
            request_id=request_id,
            hint=self.hint,
            errors=self.errors,
            events=self.events,
        )

    def answer(self, request_id: str) -> web.Response:
        """The whole answer."""
        return web.Response(
            status=self.status,
            body=mask(self.view(request_id).model_dump_json()).encode(),
            content_type=MEDIA_TYPE,
            headers=self.headers,
        )


def malformed(detail: str, hint: str = "") -> HttpProblem:
    """400: not even readable as what it should be."""
    return HttpProblem(400, "malformed", detail, hint=hint)


def not_found(detail: str, hint: str = "") -> HttpProblem:
    """404; also for what the token does not reach."""
    return HttpProblem(404, "not_found", detail, hint=hint)


def out_of_reach() -> HttpProblem:
    """404: whether it is there is not told to who has a token of another team."""
    return not_found("there is no such thing for this token", hint="rayfold teams shows what it reaches")


def invalid(detail: str, hint: str = "") -> HttpProblem:
    """422: readable, and wrong."""
    return HttpProblem(422, "invalid", detail, hint=hint)


def too_large(limit: int, found: str) -> HttpProblem:
    """413; `limit` in bytes."""
    detail = f"expected at most {limit} bytes, found {found}"
    return HttpProblem(413, "too_large", detail, hint="send less: leave out what a build does not need")


def unavailable(detail: str, hint: str = "try again", code: str = "unavailable") -> HttpProblem:
    """503 with Retry-After."""
    return HttpProblem(503, code, detail, hint=hint, headers={"Retry-After": str(RETRY_SECONDS)})


def overloaded(detail: str) -> HttpProblem:
    """429 with Retry-After: nothing was kept of the request."""
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return HttpProblem(429, "overloaded", detail, hint="repeat it with the same Idempotency-Key", headers=headers)


def unauthorized() -> HttpProblem:
    """401: there is no token, or it is not one of ours; which of the two is not told."""
    return HttpProblem(
        401,
        "unauthorized",
        "expected a valid bearer token in the Authorization header, found none",
        hint="the administrator's token is in the data directory's tokens/admin; the command line finds it by itself",
        headers={"WWW-Authenticate": 'Bearer realm="rayfold"'},
    )


def of_validation(what: str, error: ValidationError) -> HttpProblem:
    """422 for a body or query that does not have the shape it should; every field is named."""
    errors = [
        FieldProblem(field=".".join(str(part) for part in e["loc"])[:200] or what, message=e["msg"][:500])
        for e in error.errors(include_url=False, include_input=False, include_context=False)[:50]
    ]
    first = errors[0]
    detail = f"{what}: {first.field}: {first.message}"
    return HttpProblem(422, "invalid", detail, hint="the fields and their bounds are in /openapi.json", errors=errors)


def damaged(detail: str) -> HttpProblem:
    """500: what was asked for needs a part of the log that cannot be read; to ask again helps nobody."""
    hint = "`rayfold log verify` names what is broken; docs/operations.md, What is damaged, says what then"
    return HttpProblem(500, "log_damaged", detail, hint=hint)


def of_refusal(refusal: Refusal, events: Sequence[EventView] = ()) -> HttpProblem:
    """A command that was refused, as the interface tells it."""
    status = _REFUSALS.get(refusal.code, 409)
    code = "not_found" if refusal.code == "forbidden" else refusal.code
    return HttpProblem(status, code, refusal.message, hint=refusal.hint, events=events)


def of_error(reply: Reply) -> HttpProblem:
    """A command of which nothing is known: sending it again with the same Idempotency-Key is safe."""
    if reply.error == "overloaded":
        return overloaded(reply.error_message or "too many commands at once")
    if reply.error == "failed":
        hint = "the platform's log has the cause; nothing has changed"
        return HttpProblem(500, "internal", reply.error_message or "the command could not be decided", hint=hint)
    if reply.error == "unreadable":
        return damaged(reply.error_message)
    if reply.error == "full":
        return HttpProblem(
            507,
            "log_full",
            reply.error_message or "the event log takes nothing new until its archive has made room",
            hint="`rayfold log stats` says what fills it; repeat it later with the same Idempotency-Key",
            headers={"Retry-After": str(FULL_RETRY_SECONDS)},
        )
    detail = reply.error_message or "nobody serves this partition now"
    return unavailable(detail, hint="repeat it with the same Idempotency-Key: it takes effect once")


def of_http(error: web.HTTPException) -> HttpProblem:
    """What aiohttp itself refused: an unknown path, a method, a size."""
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    code = codes.get(error.status, "malformed" if error.status < 500 else "internal")
    hint = "every path and method is in /openapi.json"
    return HttpProblem(error.status, code, error.reason, hint=hint, headers=headers)
