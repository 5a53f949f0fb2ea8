"""What may be asked of a component, by users and by the platform that observes it. Shapes only; `component` decides."""

from events.model.base import Command
from events.model.build import Artifact, Source
from events.model.component_parts import RouteSpec, Spec
from events.model.cron import CronJob
from events.model.placement import Placement


class CreateComponent(Command, frozen=True):
    service_id: str
    team: str
    app: str
    name: str
    process: str
    spec: Spec


class Deploy(Command, frozen=True):
    source: Source


class ChangeSpec(Command, frozen=True):
    """Set what is given, leave the rest. `config_unset` wins over `config_set`."""

    config_set: dict[str, str] = {}
    config_unset: tuple[str, ...] = ()
    scale: int | None = None
    stopped: bool | None = None
    routes_add: tuple[RouteSpec, ...] = ()
    routes_remove: tuple[RouteSpec, ...] = ()
    settings: dict[str, str] = {}


class DeployArtifact(Command, frozen=True):
    """Release an artifact that is there already: another component's deploy has built it (one build, several process
    types), or a template holds it. `change`: what changes with it, in the same release. `release_step`: run the
    artifact's release command first."""

    artifact: Artifact
    parent: str = ""
    parent_stream: str = ""
    release_step: bool = False
    change: ChangeSpec | None = None


class SetPlacement(Command, frozen=True):
    placement: Placement


class PruneReleases(Command, frozen=True):
    """Give up all releases but the newest `keep` and those that something stands on."""

    keep: int


class SetRetention(Command, frozen=True):
    """Keep the newest `keep` releases from now on."""

    keep: int


class Restart(Command, frozen=True):
    pass


class Rollback(Command, frozen=True):
    """Back to release `to`, or to the one before the current when 0."""

    to: int = 0


class RunTask(Command, frozen=True):
    command: str


class SetCron(Command, frozen=True):
    """Have `job` from now on, in place of the one of that name."""

    job: CronJob


class RemoveCron(Command, frozen=True):
    name: str


class SuspendCron(Command, frozen=True):
    name: str


class ResumeCron(Command, frozen=True):
    name: str


class RunCron(Command, frozen=True):
    """Run a job now, whatever its schedule says; also one that is suspended."""

    name: str


class CancelOperation(Command, frozen=True):
    operation: str


class DestroyComponent(Command, frozen=True):
    pass


class ReportBuildBegun(Command, frozen=True):
    build_id: str


class ReportAbandonedTold(Command, frozen=True):
    build_id: str


class FinishDeployBuild(Command, frozen=True):
    build_id: str
    artifact: Artifact | None = None
    status: str = ""
    code: str = ""
    reason: str = ""
    lines: tuple[str, ...] = ()


class ReportClaims(Command, frozen=True):
    """`refused` names the first route that somebody else holds, with the reason."""

    routes: tuple[RouteSpec, ...]
    refused: str = ""


class ReportFreed(Command, frozen=True):
    routes: tuple[RouteSpec, ...]


class ReportStarted(Command, frozen=True):
    instance: str
    host: str
    port: int
    pid: int


class ReportReady(Command, frozen=True):
    """`host`, `port` and `pid` as in ReportStarted, which may still be on its way."""

    instance: str
    host: str = ""
    port: int = 0
    pid: int = 0


class ReportUnready(Command, frozen=True):
    instance: str
    reason: str
    lines: tuple[str, ...] = ()


class ReportExited(Command, frozen=True):
    """`exit_code` -1: not known."""

    instance: str
    exit_code: int
    signal: int = 0
    reason: str = ""
    lines: tuple[str, ...] = ()


class ReportApplied(Command, frozen=True):
    version: int
    gateways: tuple[str, ...]


class ReportDrained(Command, frozen=True):
    instances: tuple[str, ...]
    timed_out: bool = False


class ReportParentTold(Command, frozen=True):
    operation: str


class ReportDeregistered(Command, frozen=True):
    """The app no longer lists the component."""


class ReportSibling(Command, frozen=True):
    process: str
    succeeded: bool
    reason: str = ""


ComponentCommand = (
    CreateComponent
    | Deploy
    | DeployArtifact
    | ChangeSpec
    | SetPlacement
    | PruneReleases
    | SetRetention
    | Restart
    | Rollback
    | RunTask
    | SetCron
    | RemoveCron
    | SuspendCron
    | ResumeCron
    | RunCron
    | CancelOperation
    | DestroyComponent
    | ReportBuildBegun
    | ReportAbandonedTold
    | FinishDeployBuild
    | ReportClaims
    | ReportFreed
    | ReportStarted
    | ReportReady
    | ReportUnready
    | ReportExited
    | ReportApplied
    | ReportDrained
    | ReportSibling
    | ReportDeregistered
    | ReportParentTold
)
