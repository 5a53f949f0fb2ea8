"""What may happen to a component: every event of its stream.

Shapes only; what they mean for the state is in `component_fold`, which states allow them in `component`.
"""

from events.model.base import Event
from events.model.build import Source
from events.model.component_parts import Endpoint, InstanceKind, Release, RouteSpec, Sibling, Spec
from events.model.cron import CronJob
from events.model.operation import (
    OperationCancelled,
    OperationFailed,
    OperationStarted,
    OperationSucceeded,
    OperationTimedOut,
)
from events.model.placement import Placement


class ComponentCreated(Event, frozen=True):
    service_id: str
    team: str
    app: str
    name: str
    process: str
    spec: Spec


class SpecChanged(Event, frozen=True):
    """The configuration changed while nothing was released yet; from then on it changes by releases only."""

    spec: Spec


class PlacementSet(Event, frozen=True):
    """What the component asks of nodes from now on. No part of a release: a rollback leaves it as it is."""

    placement: Placement


class DeployRequested(Event, frozen=True):
    operation: str
    build_id: str
    source: Source


class DeployBuildBegun(Event, frozen=True):
    """A builder has begun with the deploy's build: from here on a newer deploy does not take its place."""

    operation: str


class BuildAbandoned(Event, frozen=True):
    """Nobody waits for this build any more: the intent to end it, durable before it is told."""

    build_id: str


class AbandonedBuildTold(Event, frozen=True):
    """The abandoned build has been told that it is to end, or has ended by itself."""

    build_id: str


class ReleaseCreated(Event, frozen=True):
    """The whole desired state of the component, immutable. `rollback_of`: the release whose content it repeats."""

    operation: str
    release: Release


class RetentionSet(Event, frozen=True):
    """How many releases are kept from now on. No part of a release: a rollback leaves it as it is."""

    keep: int


class ReleasesPruned(Event, frozen=True):
    """These releases are gone for good; `artifacts`: digests that no release of the component refers to any more."""

    releases: tuple[int, ...]
    artifacts: tuple[str, ...] = ()


class RoutesClaimed(Event, frozen=True):
    routes: tuple[RouteSpec, ...]


class RoutesFreed(Event, frozen=True):
    routes: tuple[RouteSpec, ...]


class RolloutStarted(Event, frozen=True):
    operation: str
    release: int
    deadline_at: int


class InstanceStarting(Event, frozen=True):
    """The intent to start an instance, durable before any process exists."""

    instance: str
    release: int
    node: str
    slot: int
    kind: InstanceKind = InstanceKind.SERVICE
    command: str = ""
    task: str = ""


class InstanceStarted(Event, frozen=True):
    instance: str
    host: str
    port: int
    pid: int


class InstanceReady(Event, frozen=True):
    instance: str


class InstanceUnready(Event, frozen=True):
    instance: str
    reason: str
    lines: tuple[str, ...] = ()


class InstanceExited(Event, frozen=True):
    """It ended without having been asked to. `crashed` is false only for a task. `restart_at`: when its slot is
    filled again (microseconds UTC); `exit_code` is -1 where it is not known."""

    instance: str
    exit_code: int
    signal: int = 0
    reason: str = ""
    lines: tuple[str, ...] = ()
    crashed: bool = True
    restart_at: int = 0


class InstanceStopping(Event, frozen=True):
    """The intent to stop an instance; only after it serves no more."""

    instance: str
    reason: str


class InstanceStopped(Event, frozen=True):
    instance: str
    exit_code: int = 0
    signal: int = 0


class EndpointsChanged(Event, frozen=True):
    """Everything a gateway must know of this component. `available`: some endpoint may take requests."""

    release: int
    routes: tuple[RouteSpec, ...]
    endpoints: tuple[Endpoint, ...]


class RoutingApplied(Event, frozen=True):
    """Every live gateway has applied the log up to `offset` of this partition, the last EndpointsChanged included."""

    version: int
    gateways: tuple[str, ...]


class EndpointsDrained(Event, frozen=True):
    """These draining instances have no request left. `timed_out`: they had, but the time was up."""

    instances: tuple[str, ...]
    timed_out: bool = False


class SiblingsRequested(Event, frozen=True):
    """The other process types of the artifact: each becomes, or updates, a component of its own."""

    siblings: tuple[Sibling, ...]


class SiblingEnded(Event, frozen=True):
    process: str
    succeeded: bool
    reason: str = ""


class CancelRequested(Event, frozen=True):
    operation: str
    reason: str


class RolloutSwitched(Event, frozen=True):
    """Every new instance is ready: from here on the new release takes the traffic."""

    operation: str
    release: int


class RolloutSucceeded(Event, frozen=True):
    operation: str
    release: int


class RolloutFailed(Event, frozen=True):
    operation: str
    release: int
    reason: str


class ParentTold(Event, frozen=True):
    """The stream that waited for `operation` knows how it ended."""

    operation: str


class TaskRequested(Event, frozen=True):
    """A command to run once. `cron` and `tick`: the job it is a run of and the time it was scheduled for (0: by hand).
    Times in microseconds UTC, 0 for none: it must have been started by `start_by`, and is stopped at `end_by`."""

    operation: str
    command: str
    cron: str = ""
    tick: int = 0
    start_by: int = 0
    end_by: int = 0


class CronSet(Event, frozen=True):
    """A job is new, or is another from now on. `next_at`: its first tick (microseconds UTC)."""

    job: CronJob
    next_at: int


class CronRemoved(Event, frozen=True):
    """Its runs that are not over go on to their end."""

    name: str


class CronSuspended(Event, frozen=True):
    name: str


class CronResumed(Event, frozen=True):
    """What would have been run meanwhile is not missed: nobody wanted it."""

    name: str
    next_at: int


class CronTicked(Event, frozen=True):
    """The time `tick` has come, and `operation`, which is named after it, runs the job: both in one append."""

    name: str
    tick: int
    operation: str
    next_at: int


class CronSkipped(Event, frozen=True):
    """The time `tick` has come, and nothing is run for it."""

    name: str
    tick: int
    reason: str
    next_at: int


class CronMissed(Event, frozen=True):
    """The `count` ticks from `first` to `last` came while nobody could run them, and are over. `more`: at least so
    many. `next_at` may have come as well: then that one is still run."""

    name: str
    first: int
    last: int
    count: int
    next_at: int
    more: bool = False


class ComponentDestroyRequested(Event, frozen=True):
    operation: str


class ComponentDestroyed(Event, frozen=True):
    pass


ComponentEvent = (
    ComponentCreated
    | SpecChanged
    | PlacementSet
    | DeployRequested
    | DeployBuildBegun
    | BuildAbandoned
    | AbandonedBuildTold
    | ReleaseCreated
    | RetentionSet
    | ReleasesPruned
    | RoutesClaimed
    | RoutesFreed
    | RolloutStarted
    | InstanceStarting
    | InstanceStarted
    | InstanceReady
    | InstanceUnready
    | InstanceExited
    | InstanceStopping
    | InstanceStopped
    | EndpointsChanged
    | RoutingApplied
    | EndpointsDrained
    | SiblingsRequested
    | SiblingEnded
    | CancelRequested
    | RolloutSwitched
    | RolloutSucceeded
    | RolloutFailed
    | ParentTold
    | TaskRequested
    | CronSet
    | CronRemoved
    | CronSuspended
    | CronResumed
    | CronTicked
    | CronSkipped
    | CronMissed
    | ComponentDestroyRequested
    | ComponentDestroyed
    | OperationStarted
    | OperationSucceeded
    | OperationFailed
    | OperationCancelled
    | OperationTimedOut
)
