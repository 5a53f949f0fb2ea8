"""What one route is: method, path, operation id, bodies, codes and reach; and how the usual kinds of it are written.

It knows no particular route; `routes` has them all.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from api.http import queries as q
from api.http import schema as s

Reach = Literal["public", "token", "team", "admin"]
"""public: no token. token: any, the answer is limited to what it reaches. team: a token that reaches {team}. admin."""

REQUEST_SECONDS = 60.0  # for an answer that is no stream and no upload
CHECK_SECONDS = 300.0  # a stream is folded twice, in two processes
REBUILD_SECONDS = 660.0  # a read model is folded again from the first event
IMPORT_SECONDS = 660.0  # every layer of a file is unpacked once

TEAM = "/v1/teams/{team}"
APP = TEAM + "/apps/{app}"
COMPONENT = APP + "/components/{component}"


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation. `status` is the answer's when all goes well; `also` are further good ones; `codes` the problems.

    `streams`: answers server-sent events when asked to (`Accept: text/event-stream`, or `follow=1`); `lines`: may
    answer JSON Lines, for as long as that takes; `raw`: the body is a tar, not JSON; `file`: the answer is one;
    `keyed`: a write takes an Idempotency-Key and, of what has a version, an If-Match.
    """

    id: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    summary: str
    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    query: type[q.Query] = q.Nothing
    reach: Reach = "team"
    status: int = 200
    also: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    streams: bool = False
    lines: bool = False
    raw: bool = False
    file: bool = False
    keyed: bool = True
    seconds: float = REQUEST_SECONDS

    @property
    def writes(self) -> bool:
        """Whether it takes an Idempotency-Key."""
        return self.method not in ("GET", "HEAD")


def get(
    id: str,
    path: str,
    summary: str,
    answer: type[BaseModel],
    query: type[q.Query] = q.Read,
    reach: Reach = "team",
    streams: bool = False,
    codes: tuple[int, ...] = (),
) -> Route:
    """Something that is read; absent it is a 404."""
    return Route(
        id=id,
        method="GET",
        path=path,
        summary=summary,
        answer=answer,
        query=query,
        reach=reach,
        streams=streams,
        codes=(*codes, 404, 503) if path.startswith("/v1") else (503,),
    )


def command(
    id: str,
    method: Literal["POST", "PUT", "PATCH", "DELETE"],
    path: str,
    summary: str,
    body: type[BaseModel] | None,
    query: type[q.Query] = q.Nothing,
    answer: type[BaseModel] = s.Accepted,
    reach: Reach = "team",
    status: int = 202,
    seconds: float = REQUEST_SECONDS,
) -> Route:
    """Something that is asked for and goes on: 202, or 200 when all is done at once."""
    return Route(
        id=id,
        method=method,
        path=path,
        summary=summary,
        answer=answer,
        body=body,
        query=query,
        reach=reach,
        status=status,
        also=(200,) if status == 202 else (),
        seconds=seconds,
        codes=(404, 409, 412, 413, 429, 503),
    )


def page(
    id: str,
    path: str,
    summary: str,
    of: type[BaseModel],
    query: type[q.Query] = q.PageOf,
    reach: Reach | None = None,
) -> Route:
    """A list, page by page."""
    default: Reach = "team" if "{team}" in path else "token"
    return get(id, path, summary, s.Page[of], query, reach or default)  # type: ignore[valid-type]
