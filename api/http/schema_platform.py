"""The bodies that tell of the platform itself and of the past: replay, uploads, nodes, pools, read models.

Shapes only, as in `schema`; it knows nothing of how a request is served.
"""

from datetime import datetime

from pydantic import Field, JsonValue

from api.http.schema import Body, Reason, View


class StateView(View):
    """A stream's state as folded up to `version`; `position` and `at` are of the last event in it, null if none."""

    team: str | None
    stream: str
    version: int
    position: str | None
    at: datetime | None
    state: dict[str, JsonValue]


class Uploaded(View):
    """`size_bytes` is null when it was here already."""

    team: str
    sha256: str
    size_bytes: int | None


class NodeView(View):
    name: str
    status: str
    address: str
    cpus: int
    memory_bytes: int
    runtime: str
    reason: str
    joined_at: datetime | None


class PoolActorView(View):
    """`gauges`: what the actor measures of itself, in bytes, seconds and counts; `partitions`: which it serves."""

    name: str
    ready: bool
    draining: bool
    detail: str
    gauges: dict[str, float]
    partitions: list[int]


class ChangeNode(Body):
    """`draining`: what runs there is to run elsewhere, and nothing new is to start there."""

    draining: bool
    reason: Reason = ""


class PoolView(View):
    """`size` is what is wanted, `running` what there is, `most` what is of use. `auto_least` and `auto_most` bound
    automatic scaling, null where there is none; `work` is what the pool has to do, in actors. `moving`: partitions on
    their way between actors. `scaled_*`, `before`: the last decision."""

    name: str
    size: int
    running: int
    most: int = 1
    auto_least: int | None = None
    auto_most: int | None = None
    work: float = 0.0
    moving: int = 0
    draining: int = 0
    before: int | None = None
    scaled_at: datetime | None = None
    scaled_by: str = ""
    reason: str = ""
    actors: list[PoolActorView] = []


class ParkedView(View):
    """A stream that is set aside, `by` its supervisor or a read model, because `handler` failed at `version`, which is
    null for a read model. `behind`: later events of it that wait there."""

    by: str
    stream: str
    handler: str
    version: int | None
    tries: int
    error: str
    behind: int | None
    parked_at: datetime | None


class AboutParked(Body):
    """What is to be done about a parked stream, by its name."""

    stream: str = Field(min_length=3, max_length=1024)
    reason: Reason = ""


class Decided(View):
    """A decision that is durable, at `position`."""

    stream: str
    position: str | None


class ProjectionView(View):
    """`behind`: events of the log that it has not folded yet, over all partitions. `refused`: why nothing more is
    folded, and what a person does about it; empty while all is well."""

    name: str
    positions: dict[str, int]
    behind: int
    refused: str = ""


class Rebuilt(View):
    name: str
    accepted: bool


class CheckView(View):
    """One thing that was looked at; `fix` says what to do when it is not ok. `waiting`: it does its work, but for
    something that a person must see to."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    waiting: bool = False


class AlarmView(View):
    """Something to look at though the platform is ready; `app` and `component` "": of no component."""

    name: str
    team: str
    app: str
    component: str
    found: str
    fix: str


class StatusView(View):
    """`components` counts by status, over what the token reaches, as `alarms` are."""

    version: str
    ready: bool
    gateway_port: int
    partitions: int
    apps: int
    components: int
    running_operations: int
    checks: list[CheckView]
    alarms: list[AlarmView] = []


class HealthView(View):
    status: str
    checks: list[CheckView] = []
