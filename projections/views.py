"""What a query gives back: one frozen struct for each read model, fields named as the columns they come from.

Must not know SQL nor HTTP. Times are microseconds UTC, 0 for "not yet"; `version` is the number of the row's last event
in its stream (what If-Match compares for components and apps), `partition` and `offset` its place in the log.
"""

from typing import Generic, TypeVar

import msgspec

from events.model.build import Artifact, Source
from events.model.component_parts import Endpoint, Release, Sibling, Spec
from events.model.template_parts import Document
from projections.operations import Step

V = TypeVar("V")


class Page(msgspec.Struct, Generic[V], frozen=True, kw_only=True):
    """A part of a list. `next_cursor` asks for the part after it; empty at the end."""

    items: tuple[V, ...]
    next_cursor: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What every row carries: where its last event stands."""

    stream: str
    partition: int
    offset: int
    version: int
    updated_at: int


class TeamView(View, frozen=True, kw_only=True):
    name: str
    status: str
    created_at: int
    created_by: str


class TokenView(View, frozen=True, kw_only=True):
    """A token without its secret's hash, which nobody needs to see."""

    team: str
    name: str
    issued_at: int


class AppView(View, frozen=True, kw_only=True):
    """`components`: name → service_id."""

    team: str
    name: str
    status: str
    components: dict[str, str]
    operation: str
    created_at: int
    created_by: str


class ComponentView(View, frozen=True, kw_only=True):
    """`hosts`: the addresses it answers at, host first, path only where it is not `/`. `current`: the release that
    serves (0: none). `operation…`: the work under way, empty when there is none. `born_after`: the last release of an
    earlier life of the same name."""

    service_id: str
    team: str
    app: str
    name: str
    process: str
    status: str
    spec: Spec
    scale: int
    stopped: bool
    http: bool
    hosts: tuple[str, ...]
    current: int
    born_after: int
    last_release: int
    operation: str
    operation_kind: str
    operation_phase: str
    build_id: str
    cancel_reason: str
    routing_release: int
    endpoints: tuple[Endpoint, ...]
    routing_version: int
    applied_version: int
    created_at: int
    created_by: str


class ReleaseView(View, frozen=True, kw_only=True):
    """`status`: created, current, succeeded (served once) or failed, then `failure` says why. `reason`: the user's."""

    service_id: str
    number: int
    team: str
    app: str
    component: str
    operation: str
    status: str
    digest: str
    commit_id: str
    detected: str
    language: str
    command: str
    rollback_of: int
    created_by: str
    reason: str
    created_at: int
    ended_at: int
    failure: str
    release: Release


class BuildView(View, frozen=True, kw_only=True):
    """`status`: queued, running, succeeded, failed, cancelled or timed_out. `seconds`: of a success."""

    build_id: str
    service_id: str
    team: str
    app: str
    component: str
    operation: str
    source: Source
    timeout_seconds: int
    status: str
    builder: str
    attempt: int
    cancel_requested: bool
    code: str
    reason: str
    lines: tuple[str, ...]
    artifact: Artifact | None
    seconds: float
    cache_hit: bool
    requested_by: str
    requested_at: int
    started_at: int
    ended_at: int


class RolloutView(View, frozen=True, kw_only=True):
    """`status`: running, succeeded or failed. `phase`: claiming, starting, switched, done or failed."""

    service_id: str
    release: int
    team: str
    app: str
    component: str
    operation: str
    phase: str
    status: str
    reason: str
    deadline_at: int
    created_at: int
    started_at: int
    switched_at: int
    ended_at: int


class InstanceView(View, frozen=True, kw_only=True):
    """`status`: see `instances.ShownStatus`. `exit_code` means something once it is not `alive`; -1: not known."""

    id: str
    service_id: str
    team: str
    app: str
    component: str
    slot: int
    kind: str
    node: str
    release: int
    command: str
    task: str
    status: str
    alive: bool
    draining: bool
    host: str
    port: int
    pid: int
    exit_code: int
    signal: int
    reason: str
    lines: tuple[str, ...]
    restart_at: int
    starting_at: int
    started_at: int
    ready_at: int
    ended_at: int


class RouteView(View, frozen=True, kw_only=True):
    """One address. `applied`: every live gateway has applied the last change of it."""

    service_id: str
    host: str
    path: str
    team: str
    app: str
    component: str
    release: int
    ready_endpoints: int
    draining_endpoints: int
    routing_version: int
    applied: bool
    created_at: int


class ClaimView(View, frozen=True, kw_only=True):
    """Who holds a host and path. Not to be shown to another team but as "taken"."""

    host: str
    path: str
    service_id: str
    team: str
    app: str
    claimed_at: int


class OperationView(View, frozen=True, kw_only=True):
    """`status`: running, succeeded, failed, cancelled or timed_out. `reason`, `code` and `lines`: why it did not
    succeed; `result`: what it came to when it did; `message`: the user's words;
    `still_serving`: the release that goes on."""

    id: str
    kind: str
    detail: str
    status: str
    phase: str
    steps: tuple[Step, ...]
    code: str
    reason: str
    lines: tuple[str, ...]
    still_serving: int
    result: str
    parent: str
    siblings: tuple[Sibling, ...]
    team: str
    app: str
    component: str
    service_id: str
    build_id: str
    instance: str
    release: int
    rollback_of: int
    cancel_reason: str
    actor: str
    message: str
    started_at: int
    deadline_at: int
    ended_at: int


class TemplateView(View, frozen=True, kw_only=True):
    """A version of a template that may be installed."""

    team: str
    name: str
    label: str
    digest: str
    document: Document
    source: str
    published_at: int
    published_by: str


class CronView(View, frozen=True, kw_only=True):
    """A cron job. `next_at` 0: suspended, or its schedule has no tick left; `last_skip`: why one was skipped last."""

    service_id: str
    name: str
    team: str
    app: str
    component: str
    schedule: str
    zone: str
    command: str
    policy: str
    late_seconds: int
    run_seconds: int
    history: int
    suspended: bool
    next_at: int
    last_tick: int
    missed: int
    skipped: int
    last_skip: str
    created_at: int


class CronRunView(View, frozen=True, kw_only=True):
    """A run of a job. `tick` 0: asked for by hand; `status` as an operation's."""

    service_id: str
    operation: str
    cron: str
    team: str
    app: str
    component: str
    tick: int
    status: str
    reason: str
    began_at: int
    ended_at: int


class NodeView(View, frozen=True, kw_only=True):
    name: str
    status: str
    address: str
    cpus: int
    memory_bytes: int
    runtime: str
    reason: str
    joined_at: int


class ParkedView(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that a projection could not fold. `behind`: later events of it that wait. Mended by a rebuild."""

    projection: str
    stream: str
    partition: int
    offset: int
    event_id: str
    event_type: str
    error: str
    attempts: int
    behind: int
    parked_at: int


class ProjectionView(msgspec.Struct, frozen=True, kw_only=True):
    """How far a projection is in one partition. `next`: the next offset it will fold; `last_at`: its last event's."""

    projection: str
    version: int
    partition: int
    next: int
    last_at: int


class PartitionLag(msgspec.Struct, frozen=True, kw_only=True):
    """`events`: how many events of the partition its slowest projection has not folded yet."""

    partition: int
    tail: int
    next: int
    events: int
    last_at: int
