"""The bodies of a list of commands: each as the request of its own would be, and what became of each.

Shapes and bounds only; it knows nothing of how a request is served.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from api.http.schema import NOTHING, Accepted, Body, Problem, View

MAX_COMMANDS = 512  # of one request: an eighth of what a team alone may have on its way


class AskedCommand(Body):
    """One change of a component, as the request of its own: `path` with its query, `idempotency_key` for the header
    Idempotency-Key, `if_match` for If-Match."""

    method: Literal["POST", "PATCH", "DELETE"]
    path: str = Field(max_length=2048, pattern="^/v1/", examples=["/v1/teams/default/apps/shop/components/web/config"])
    body: dict[str, JsonValue] = Field(default_factory=dict, json_schema_extra=NOTHING)
    idempotency_key: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    if_match: int | None = Field(default=None, ge=0, lt=10**15)


class SendCommands(Body):
    """They are independent; those of one component are decided in their order."""

    commands: list[AskedCommand] = Field(min_length=1, max_length=MAX_COMMANDS)


class CommandResult(View):
    """`status` is what the request of its own would have been answered with; `accepted` or else `problem` is its body,
    `retry_after` its Retry-After in seconds."""

    status: int
    accepted: Accepted | None = None
    problem: Problem | None = None
    retry_after: int | None = None


class CommandResults(View):
    """One for each command, in their order."""

    results: list[CommandResult]
