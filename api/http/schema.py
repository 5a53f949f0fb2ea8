"""Every request and response body of the HTTP interface, as pydantic models from which the OpenAPI document is made.

Shapes and bounds only; it knows nothing of how a request is served or where an answer comes from.
"""

from datetime import datetime
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr
from pydantic.config import JsonDict

Item = TypeVar("Item")

Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z](?:[a-z0-9]|-(?:[a-z0-9]))*$")]
Reason = Annotated[str, Field(max_length=500, description="Why, in the user's own words; kept with the event.")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PositionText = Annotated[str, Field(pattern=r"^\d{1,4}:\d{1,18}$", examples=["3:120"])]
Host = Annotated[str, Field(min_length=1, max_length=253)]
PathPrefix = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^/")]
ConfigKey = Annotated[str, Field(min_length=1, max_length=128)]
ConfigValue = Annotated[str, Field(max_length=65536)]
SecretValue = Annotated[SecretStr, Field(max_length=65536)]

# Making an empty default takes a tenth of the time of copying one; the document says it all the same.
NOTHING: JsonDict = {"default": {}}


class Body(BaseModel):
    """A request body: unknown fields are refused, so that a typing error never passes for a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class View(BaseModel):
    """A response body. Times are UTC in ISO-8601; sizes are bytes."""

    model_config = ConfigDict(frozen=True)


class Page(View, Generic[Item]):
    """One page of a list; `next_cursor` is the query's `cursor` for the next page, null on the last."""

    items: list[Item]
    next_cursor: str | None = None


# --- requests ---------------------------------------------------------------------------------------------------------


class CreateTeam(Body):
    name: Name


class IssueToken(Body):
    name: Name


class CreateApp(Body):
    name: Name
    reason: Reason = ""


class CreateComponent(Body):
    """`process`: the Procfile's process type it runs, its own name by default. `http`: gets PORT and a host name; by
    default only when the process is `web`."""

    name: Name
    process: Name | None = None
    http: bool | None = None
    reason: Reason = ""


class Rollback(Body):
    """`to`: the release number; 0 is the one that served before the current one."""

    to: int = Field(default=0, ge=0, le=2**31)
    reason: Reason = ""


class ChangeComponent(Body):
    """What is given is set, the rest stays. `settings` are probe_path and the limits that `getComponent` shows."""

    scale: int | None = Field(default=None, ge=0, le=100)
    stopped: bool | None = None
    settings: dict[ConfigKey, str] = Field(default_factory=dict, max_length=32, json_schema_extra=NOTHING)
    reason: Reason = ""


class ChangeConfig(Body):
    """`secret` is `set` for values that are kept encrypted and never shown again; `unset` wins over both."""

    secret: dict[ConfigKey, SecretValue] = Field(default_factory=dict, max_length=1000, json_schema_extra=NOTHING)
    set: dict[ConfigKey, ConfigValue] = Field(default_factory=dict, max_length=1000, json_schema_extra=NOTHING)
    unset: list[ConfigKey] = Field(default_factory=list, max_length=1000, json_schema_extra={"default": []})
    reason: Reason = ""


class ChangeProbe(Body):
    """`path`: what is requested to see whether an instance is ready; empty means that an open port is enough."""

    path: str | None = Field(default=None, max_length=512)
    start_timeout_seconds: int | None = Field(default=None, ge=1, le=3600)
    reason: Reason = ""


class ChangePlacement(Body):
    """`require`: labels that a node must have; `spread`: the label over whose values instances are spread first.

    `stateful`: never two instances in one place at a time. What is left out stays as it is.
    """

    require: dict[str, str] | None = Field(default=None, max_length=16)
    spread: str | None = Field(default=None, max_length=63)
    stateful: bool | None = None
    reason: Reason = ""


class PlacementView(View):
    team: str
    app: str
    component: str
    require: dict[str, str]
    spread: str
    stateful: bool


class AddRoute(Body):
    host: Host
    path: PathPrefix = "/"
    reason: Reason = ""


class RunTask(Body):
    command: str = Field(min_length=1, max_length=8192)
    reason: Reason = ""


class Because(Body):
    """A request that needs no more than a reason, if that; an empty body is one too."""

    reason: Reason = ""


class PoolBounds(Body):
    """Between these its size follows its work."""

    least: int = Field(ge=1, le=256)
    most: int = Field(ge=1, le=256)


class ScalePool(Body):
    """Either `size`, which ends automatic scaling, or `auto`."""

    size: int | None = Field(default=None, ge=1, le=256)
    auto: PoolBounds | None = None
    reason: Reason = ""


# --- answers ----------------------------------------------------------------------------------------------------------


class FieldProblem(View):
    """What is wrong with one field of the request; `field` is its path, like `source.url`."""

    field: str
    message: str


class EventView(View):
    """One event as the log keeps it. `position` is partition:offset; `operation` the correlation id."""

    position: str
    event_id: str
    stream: str
    version: int
    type: str
    schema_version: int
    at: datetime
    team: str | None
    app: str | None
    component: str | None
    command_id: str
    operation: str
    causation_id: str
    actor: str
    reason: str
    traceparent: str
    body: dict[str, JsonValue]


class Problem(View):
    """RFC 9457. `code` is stable; `hint` says what to do next; `events` are those in between, on version_mismatch."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    hint: str = ""
    errors: list[FieldProblem] = []
    events: list[EventView] = []


class Accepted(View):
    """A write that is durable. `operation` is what to follow, null when nothing had to change or it is done already;
    `position` is for `min_position`; `version` is the stream's, for If-Match."""

    team: str
    operation: str | None
    position: str | None
    stream: str
    version: int
    service_id: str | None = None


class TeamView(View):
    team: str
    status: str
    tokens: list[str]
    created_at: datetime | None


class TokenIssued(View):
    """`token` is shown this once and stored nowhere."""

    team: str
    name: str
    token: str
    position: str | None


class AppView(View):
    team: str
    app: str
    status: str
    components: list[str]
    version: int
    created_at: datetime | None


class RouteView(View):
    """`url` is where a browser on this machine reaches it; `own` marks the host name every component has by itself."""

    team: str
    app: str
    component: str
    host: str
    path: str
    own: bool
    url: str


class ComponentView(View):
    """`version` is for If-Match; `release` is the current one (0: none); `ready` counts instances that serve."""

    team: str
    app: str
    component: str
    service_id: str
    process: str
    status: str
    version: int
    release: int
    scale: int
    stopped: bool
    ready: int
    http: bool
    urls: list[str]
    settings: dict[str, str]
    operation: str | None
    created_at: datetime | None
    updated_at: datetime | None


class Change(View):
    """One difference; `before` is null where it was absent, `after` where it went away."""

    path: str
    before: JsonValue
    after: JsonValue


class InstanceView(View):
    """`restart_at`: when a crashed one is started again."""

    team: str
    app: str
    component: str
    instance: str
    kind: str
    status: str
    release: int
    node: str
    slot: int
    host: str
    port: int
    pid: int
    exit_code: int | None
    alive: bool
    draining: bool
    reason: str
    lines: list[str]
    starting_at: datetime | None
    ready_at: datetime | None
    ended_at: datetime | None
    restart_at: datetime | None


class ConfigView(View):
    """In `config` a secret is `•••• (fingerprint)`; `secret` names those that are."""

    team: str
    app: str
    component: str
    version: int
    config: dict[str, str]
    secret: list[str]


class PortView(View):
    """An HTTP component listens where `env` says; the gateway finds it there."""

    team: str
    app: str
    component: str
    name: str
    protocol: str
    env: str


class ProbeView(View):
    team: str
    app: str
    component: str
    version: int
    path: str
    start_timeout_seconds: int


class OperationStep(View):
    """An operation entered `phase`; `seconds` count from its beginning."""

    phase: str
    at: datetime
    seconds: float


class OperationView(View):
    """`status`: running, succeeded, failed, cancelled, timed_out; `still_serving`: the release that serves (0: none).

    `children` (operations of other process types) are in `getOperation` only."""

    team: str
    app: str
    component: str | None
    operation: str
    kind: str
    status: str
    phase: str
    detail: str
    result: str
    code: str
    reason: str
    lines: list[str]
    still_serving: int
    release: int
    build: str | None
    parent: str | None
    actor: str
    message: str
    stream: str
    position: str
    started_at: datetime | None
    ended_at: datetime | None
    steps: list[OperationStep]
    children: list["OperationView"] = []
