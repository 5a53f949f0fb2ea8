"""The parts a component is made of: its specification, releases, instances, endpoints and the operation under way.

Only shapes, legal states and the small pure rules that belong to one part; what happens to them is in `component`.
"""

import re
from enum import StrEnum
from operator import attrgetter

import msgspec
import xxhash

from events.model.base import Refusal
from events.model.build import Artifact, Source
from events.model.cron import Cron
from events.model.placement import Placement
from events.secrets import is_sealed

SECOND = 1_000_000  # microseconds
MAX_TASKS = 30  # of one component at once, those that wait for a node with them
STABLE_SECONDS = 60  # an instance that was ready this long starts its crash count anew
MAX_SCALE = 100
MAX_CONFIG_VALUE = 64 * 1024  # characters
MAX_SEALED_VALUE = 6 * MAX_CONFIG_VALUE  # characters: four bytes for each in base64, and what says who can open it
BACKOFF_FREE_RESTARTS = 3  # restarts at once, before the back-off begins
BACKOFF_CAP_SECONDS = 300.0
RELEASES_KEPT = 50  # where a component does not say it otherwise
_CONFIG_KEY = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_RESERVED = ("PORT", "RAYFOLD_")


class ComponentStatus(StrEnum):
    """absent → active → destroying → destroyed → active (the same name again)."""

    ABSENT = "absent"
    ACTIVE = "active"
    DESTROYING = "destroying"
    DESTROYED = "destroyed"


class Phase(StrEnum):
    """Where an operation stands: accepted → building → claiming → starting → switched → siblings → done; an operation
    enters at the first phase it needs, and may end as failed from every phase before switched."""

    ACCEPTED = "accepted"
    BUILDING = "building"
    CLAIMING = "claiming"
    STARTING = "starting"
    SWITCHED = "switched"
    SIBLINGS = "siblings"
    DONE = "done"
    FAILED = "failed"


class InstanceKind(StrEnum):
    """service: kept running in a slot; release_step: the Procfile's `release:`, once a deploy; task: a command that
    runs once, by `rayfold run` or as a run of a cron job."""

    SERVICE = "service"
    RELEASE_STEP = "release_step"
    TASK = "task"


class InstanceStatus(StrEnum):
    """starting → started → ready ⇄ unready; any of them → stopping → gone, or → exited."""

    STARTING = "starting"
    STARTED = "started"
    READY = "ready"
    UNREADY = "unready"
    STOPPING = "stopping"
    EXITED = "exited"


ALIVE = (
    InstanceStatus.STARTING,
    InstanceStatus.STARTED,
    InstanceStatus.READY,
    InstanceStatus.UNREADY,
    InstanceStatus.STOPPING,
)


class RouteSpec(msgspec.Struct, frozen=True, order=True, gc=False):
    """One address: a host and a path prefix that ends on a segment boundary."""

    host: str
    path: str = "/"


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where an instance listens. A draining one finishes its requests and gets no new ones."""

    instance: str
    host: str
    port: int
    draining: bool = False


class Spec(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the user wants of a component, apart from the artifact. Sizes in bytes, times in seconds."""

    config: dict[str, str] = {}
    scale: int = 1
    stopped: bool = False
    http: bool = False
    auto_host: str = ""
    routes: tuple[RouteSpec, ...] = ()
    probe_path: str = ""
    start_timeout_seconds: int = 60
    grace_seconds: int = 10
    drain_seconds: int = 30
    build_timeout_seconds: int = 900
    memory_bytes: int = 512 * 1024 * 1024
    open_files: int = 4096
    processes: int = 256
    restart_nonce: str = ""

    @property
    def wanted(self) -> int:
        """How many instances should run."""
        return 0 if self.stopped else self.scale

    def all_routes(self) -> tuple[RouteSpec, ...]:
        """The addresses it answers at: its own host name first, then what the user added."""
        if not self.http:
            return ()
        own = (RouteSpec(self.auto_host),) if self.auto_host else ()
        return own + self.routes

    def with_settings(self, settings: dict[str, str]) -> "Spec | Refusal":
        """The spec with settings by name, as the API and rayfold.toml give them."""
        changed = self
        for key, text in settings.items():
            limits = SETTINGS.get(key)
            if key == "probe_path" and (text == "" or (text.startswith("/") and text.isascii() and text.isprintable())):
                changed = msgspec.structs.replace(changed, probe_path=text)
            elif limits is not None and text.isdecimal() and limits[0] <= int(text) <= limits[1]:
                changed = msgspec.structs.replace(changed, **{key: int(text)})
            else:
                expected = f"a whole number from {limits[0]} to {limits[1]}" if limits else "one of " + _setting_names()
                return Refusal(
                    code="invalid", message=f"setting {key[:60]!r}: expected {expected}, found {text[:60]!r}"
                )
        return changed


SETTINGS: dict[str, tuple[int, int]] = {
    "start_timeout_seconds": (1, 3600),
    "grace_seconds": (0, 3600),
    "drain_seconds": (0, 3600),
    "build_timeout_seconds": (1, 24 * 3600),
    "memory_bytes": (16 * 1024 * 1024, 1 << 44),
    "open_files": (64, 1 << 20),
    "processes": (4, 1 << 16),
}


def _setting_names() -> str:
    return ", ".join(["probe_path", *sorted(SETTINGS)])


class Release(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The whole desired state of a component, immutable and numbered. `created_at`: microseconds UTC."""

    number: int
    operation: str
    artifact: Artifact
    spec: Spec
    command: str
    rollback_of: int = 0
    created_at: int = 0
    created_by: str = ""
    reason: str = ""


class Instance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One process (tree) as the log knows it. Times in microseconds UTC; `slot` counts from 1; `cron`: the job that
    it is a run of."""

    id: str
    release: int
    fingerprint: str
    node: str
    slot: int
    kind: InstanceKind = InstanceKind.SERVICE
    command: str = ""
    status: InstanceStatus = InstanceStatus.STARTING
    host: str = ""
    port: int = 0
    pid: int = 0
    starting_at: int = 0
    ready_at: int = 0
    exit_code: int = 0
    reason: str = ""
    lines: tuple[str, ...] = ()
    cron: str = ""


class Slot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of a slot's last instance. `failures`: crashes in a row."""

    failures: int = 0
    restart_at: int = 0
    exit_code: int = 0
    reason: str = ""
    lines: tuple[str, ...] = ()
    was_ready: bool = False


class Sibling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Another process type of the same build, and how its own operation went."""

    process: str
    operation: str
    ended: bool = False
    succeeded: bool = False
    reason: str = ""


class Operation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The piece of work under way. Times in microseconds UTC; a deadline of 0 is none.

    `has_release_step`: it runs its artifact's release command, whoever built that; `release_step`: the instance
    that does.
    """

    id: str
    kind: str
    phase: Phase
    started_at: int
    deadline_at: int = 0
    rollout_deadline_at: int = 0
    parent: str = ""
    parent_stream: str = ""
    by: str = ""
    why: str = ""
    build_id: str = ""
    build_begun: bool = False
    source: Source | None = None
    release: int = 0
    has_release_step: bool = False
    release_step: str = ""
    cancel_reason: str = ""
    siblings: tuple[Sibling, ...] = ()


class ParentReport(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The ending of an operation that another stream's operation waits for, until that stream was told."""

    stream: str
    succeeded: bool
    reason: str = ""


class Task(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A one-off command; its instance once it has one. The other fields as in TaskRequested, and when that was."""

    command: str
    instance: str = ""
    cron: str = ""
    tick: int = 0
    start_by: int = 0
    end_by: int = 0
    began_at: int = 0


class ComponentDraft(msgspec.Struct, gc=False):
    """Everything the log says of a component, while a fold works on it: it may be changed in place, for nobody else
    has it or any of its mappings. What others see is a `ComponentState` with the same fields.

    `version` counts its events. `routing_version` is the version of the last EndpointsChanged, `applied_version` the
    highest that every gateway has applied; `slots` is keyed by `fingerprint:slot`; `born_after` is the last release of
    an earlier life of this name; `doubtful` are routes that an operation may have claimed which ended before it knew;
    `abandoned` are builds whose operation ended before them and that were not told yet;
    `last_release` is the highest number ever given, though that release may be pruned;
    `ticked_until` is the newest tick that any of its jobs has had, in microseconds UTC.
    """

    status: ComponentStatus = ComponentStatus.ABSENT
    version: int = 0
    service_id: str = ""
    team: str = ""
    app: str = ""
    name: str = ""
    process: str = "web"
    spec: Spec = Spec()
    releases: dict[int, Release] = {}
    born_after: int = 0
    current: int = 0
    operation: Operation | None = None
    tasks: dict[str, Task] = {}
    ended_tasks: dict[str, Instance] = {}
    instances: dict[str, Instance] = {}
    started_instances: int = 0
    slots: dict[str, Slot] = {}
    endpoints: tuple[Endpoint, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    routing_version: int = 0
    applied_version: int = 0
    drained: tuple[str, ...] = ()
    claims: tuple[RouteSpec, ...] = ()
    doubtful: tuple[RouteSpec, ...] = ()
    succeeded: tuple[int, ...] = ()
    reports: dict[str, ParentReport] = {}
    placement: Placement = Placement()
    abandoned: tuple[str, ...] = ()
    last_release: int = 0
    releases_kept: int = RELEASES_KEPT
    crons: dict[str, Cron] = {}
    ticked_until: int = 0


# The same fields in the same order, so that one becomes the other without naming them (`component_fold`). To mypy a
# frozen child of what is not breaks its parent's promise; nothing takes a draft and is given a state.
class ComponentState(ComponentDraft, frozen=True, gc=False):  # type: ignore[misc]
    """Everything the log says of a component; a value, never changed."""

    def previous_release(self) -> int:
        """The release that served before the current one; 0 when there was none."""
        earlier = [n for n in self.succeeded if n != self.current and n > self.born_after]
        return earlier[-1] if earlier else 0


_ordered_encoder = msgspec.msgpack.Encoder(order="deterministic")
"""Writes mappings by their keys: in which order variables were set makes no other process."""

_NO_OTHER_PROCESS = ("scale", "stopped", "routes", "grace_seconds", "drain_seconds")
_stable = attrgetter(*(field for field in Spec.__struct_fields__ if field not in _NO_OTHER_PROCESS))

_FINGERPRINTS_KEPT = 16_384
_fingerprints: dict[int, tuple[Release, str]] = {}
"""By the identity of a release, which is immutable; it is held here too, so that its identity is not given away."""


def fingerprint(release: Release) -> str:
    """What makes two releases run the same process: 16 hex digits over all but scale, routes and timing of the end.

    No event holds one: it stands in states alone, and those of another fold are never read (`fold_fingerprint`).
    """
    known = _fingerprints.get(id(release))
    if known is not None:
        return known[1]
    digest = _digest(release)
    if len(_fingerprints) >= _FINGERPRINTS_KEPT:
        _fingerprints.clear()
    _fingerprints[id(release)] = (release, digest)
    return digest


def _digest(release: Release) -> str:
    body = _ordered_encoder.encode((release.artifact.digest, release.command, _stable(release.spec)))
    return xxhash.xxh3_64_hexdigest(body)


def backoff_seconds(doublings: int) -> float:
    """How long a crashed slot waits: none for the first restarts, then 1 s doubling to 5 min."""
    if doublings <= 0:
        return 0.0
    return min(BACKOFF_CAP_SECONDS, 2.0 ** min(doublings - 1, 20))


def config_problem(key: str, value: str) -> Refusal | None:
    """None when `key=value` may be configuration; else what is wrong with it."""
    if not _CONFIG_KEY.match(key):
        message = f"expected a variable name of letters, digits and _, found {key[:60]!r}"
        return Refusal(code="invalid", message=message, hint="for example: DATABASE_URL")
    if key == _RESERVED[0] or key.startswith(_RESERVED[1]):
        return Refusal(code="invalid", message=f"{key} is set by the platform", hint="choose another name")
    if len(value) > (MAX_SEALED_VALUE if is_sealed(value) else MAX_CONFIG_VALUE) or "\0" in value:
        message = f"expected a value of at most {MAX_CONFIG_VALUE} characters without NUL for {key}"
        return Refusal(code="invalid", message=message, hint="put large data into a file of the application")
    return None
