"""One request on its way through: who asks, for which route, with which validated parameters and body.

Knows how to read a request safely; nothing of what any route does with it.
"""

import asyncio
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

from aiohttp import web
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import from_json

from api.http.identity import Principal, command_id_of
from api.http.problems import HttpProblem, invalid, malformed, of_validation, too_large
from api.http.route import Route
from events.clock import now_micros
from events.log.records import Position
from events.model.base import name_problem
from events.replay.errors import BadTime
from events.replay.moments import parse_time

if TYPE_CHECKING:
    from api.http.context import Context

MAX_BODY_BYTES = 4 * 1024 * 1024
BODY_SECONDS = 30.0  # how long a client may take to send a JSON body

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Model = TypeVar("Model", bound=BaseModel)

_NAMED = {"team": "a team name", "app": "an app name", "component": "a component name"}
_NAMED |= {"token": "a token name", "pool": "a pool name", "projection": "a projection name"}
_NAMED |= {"credential": "a credential name"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that passed the door: its token is good, its names are names, its parameters and body are sound.

    `names`: the named parts of `path`, decoded. With `headers` they are the request's own; of one change in a list
    they are what the list says of it.
    """

    request: web.Request
    names: Mapping[str, str]
    path: str
    headers: Mapping[str, str]
    context: "Context"
    route: Route
    principal: Principal
    request_id: str
    query: BaseModel
    body: BaseModel | None
    traceparent: str = ""

    def name(self, part: str) -> str:
        """A part of the path, decoded."""
        return self.names[part]

    def query_as(self, model: type[Model]) -> Model:
        """The query, which the route table promises to be of this model."""
        assert isinstance(self.query, model)  # noqa: S101 the table and the handler disagree: a bug, told as such
        return self.query

    def body_as(self, model: type[Model]) -> Model:
        """The body, which the route table promises to be of this model."""
        assert isinstance(self.body, model)  # noqa: S101 as above
        return self.body

    @property
    def team(self) -> str:
        """Whose share it takes of what may wait: that of the team it works in, else of whoever asks."""
        return self.names.get("team") or self.principal.team or self.principal.name

    @property
    def command_id(self) -> str:
        """The id of this write's command; see `identity.command_id_of`."""
        scope = self.names.get("team") or self.principal.team or ""
        return command_id_of(scope, self.route.method, self.path, self.headers.get("Idempotency-Key"))

    @property
    def expected_version(self) -> int | None:
        """If-Match as a stream version. Raises HttpProblem 400."""
        text = self.headers.get("If-Match")
        if text is None or text.strip() == "*":
            return None
        digits = text.strip().removeprefix("W/").strip('"').removeprefix("v")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 16):
            raise malformed(f'expected If-Match: "<version>", found {text[:60]!r}', hint="the version is in the GET")
        return int(digits)


def check_names(names: Mapping[str, str]) -> None:
    """Every named part of a path is a name; raises HttpProblem 422 (or 404 for what could never be there)."""
    for part, value in names.items():
        what = _NAMED.get(part)
        refusal = None if what is None else name_problem(what, value)
        if what is not None and refusal is None:
            continue
        if not _clean(value):
            raise invalid(f"expected a {part} without NUL and of valid UTF-8, found something else")
        if refusal is not None:
            raise invalid(refusal.message, refusal.hint)
        if len(value) > 1024:
            raise invalid(f"expected a {part} of at most 1024 characters, found {len(value)}")


def parse_query(given: Iterable[tuple[str, str]], model: type[Model]) -> Model:
    """The validated query parameters. Raises HttpProblem 422, also when one is given twice."""
    values: dict[str, str] = {}
    for key, value in given:
        if key in values:
            raise invalid(f"expected the parameter {key[:60]!r} once, found it more often")
        if not (_clean(key) and _clean(value)):
            raise invalid("expected parameters without NUL and of valid UTF-8, found something else")
        values[key] = value
    if not values:
        nothing: Model | None = _without_query(model)
        if nothing is not None:
            return nothing
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise of_validation("query", error) from None


@functools.cache
def _without_query(model: type[Model]) -> Model | None:
    """The parameters of a request that gives none, which nobody can change; None where one is needed."""
    try:
        return model.model_validate({})
    except ValidationError:
        return None


async def read_json(request: web.Request) -> JsonValue:
    """The JSON body; an empty one is an empty object. Raises HttpProblem 400, 413, 415, 422."""
    raw = await _read(request)
    if not raw.strip():
        data: JsonValue = {}
    else:
        if request.headers.get("Content-Type") and request.content_type != "application/json":
            raise HttpProblem(415, "unsupported_media_type", f"expected application/json, found {request.content_type}")
        try:
            data = from_json(raw, allow_inf_nan=False)
        except ValueError as error:
            raise malformed(f"expected a JSON body: {str(error)[:200]}", hint="check quotes and commas") from None
    # JSON has no NUL and no half of a pair of surrogates but as an escape, and few bodies have one.
    if b"\\u" in raw and not _clean_json(data):
        raise invalid("expected text without NUL, found a NUL character in the body")
    return data


def parse_body(data: JsonValue, model: type[Model], request: web.Request) -> Model:
    """The body validated, with the reason that the request's header gives where it has none. Raises HttpProblem 422."""
    if isinstance(data, dict) and "reason" in model.model_fields and "reason" not in data:
        data = {**data, "reason": reason_of(request)}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise of_validation("body", error) from None


def reason_of(request: web.Request) -> str:
    """The user's words from the X-Rayfold-Reason header (percent-encoded), at most 500 characters."""
    given = request.headers.get("X-Rayfold-Reason")
    if not given:
        return ""
    text = unquote(given)[:500]
    return text if _clean(text) else ""


async def _read(request: web.Request) -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large(MAX_BODY_BYTES, f"{request.content_length}")
    if request.content.is_eof():
        # It came whole with the head, as most do: nothing to wait for.
        whole = request.content.read_nowait()
        if len(whole) > MAX_BODY_BYTES:
            raise too_large(MAX_BODY_BYTES, "more")
        return whole
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large(MAX_BODY_BYTES, "more")
    except TimeoutError:
        raise malformed(f"expected the body within {BODY_SECONDS:.0f} s") from None
    return bytes(body)


def _clean(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clean_json(value: JsonValue) -> bool:
    pending: list[JsonValue] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if not _clean(item):
                return False
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            pending += item.values()
            pending += item.keys()
    return True


def read_time(what: str, text: str) -> int:
    """Microseconds UTC of an ISO-8601 time, or of "10m" (ago). Raises HttpProblem 422."""
    try:
        return parse_time(text, now=now_micros())
    except (BadTime, OverflowError) as error:
        raise invalid(f"{what}: {error}") from None


def at_time(micros: int) -> datetime:
    """The UTC time of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def to_time(micros: int) -> datetime | None:
    """As `at_time`; None for 0, which stands for never."""
    return at_time(micros) if micros else None


def parse_position(text: str, partitions: int) -> Position:
    """A position of this log. Raises HttpProblem 422."""
    try:
        position = Position.parse(text)
    except ValueError as error:
        raise invalid(str(error)) from None
    if position.partition >= partitions:
        raise invalid(f"expected a partition below {partitions}, found {position.partition}")
    return position
