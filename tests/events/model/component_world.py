"""A world that does what a component asks for: its effects at once, its instances as told. Keeps every event."""

from collections.abc import Callable

from events.model.base import Event, Meta, Refusal, service_id_of
from events.model.build import Artifact, Source
from events.model.component import decide
from events.model.component_commands import (
    CreateComponent,
    Deploy,
    FinishDeployBuild,
    ReportAbandonedTold,
    ReportApplied,
    ReportBuildBegun,
    ReportClaims,
    ReportDeregistered,
    ReportDrained,
    ReportExited,
    ReportFreed,
    ReportReady,
    ReportSibling,
    ReportStarted,
    ReportUnready,
)
from events.model.component_fold import apply
from events.model.component_parts import ComponentState, InstanceKind, InstanceStatus, Spec
from events.model.component_progress import (
    Effect,
    effects,
    progress,
    surplus_claims,
    unclaimed_routes,
)
from events.model.placement import Room

SECOND = 1_000_000
SERVICE = service_id_of("default", "shop", "web")


class World:
    """Folds a component, does its effects at once, and keeps every event."""

    def __init__(self, *, start: Callable[[str], str] | None = None) -> None:
        self.state = ComponentState()
        self.events: list[Event] = []
        self.now = 1_000 * SECOND
        self.commands = 0
        self.start = start or (lambda instance: "ready")
        self.artifacts: dict[str, Artifact] = {}
        self.next_artifact = artifact("one")
        self.gateways_answer = True
        self.refuse_claims = ""
        self.builds = True
        self.builds_end = True
        self.abandoned: list[str] = []
        self.nodes = [Room(name="node1")]

    def send(self, command: object, reason: str = "") -> str:
        self.commands += 1
        meta = Meta(command_id=f"c{self.commands}", at=self.now, actor="tester", reason=reason)
        decision = decide(self.state, command, meta)  # type: ignore[arg-type]
        if isinstance(decision, Refusal):
            return decision.code
        self.record(list(decision))
        self.settle()
        return meta.command_id

    def record(self, events: list[Event]) -> None:
        for event in events:
            self.state = apply(self.state, event, self.now)  # type: ignore[arg-type]
            self.events.append(event)

    def settle(self) -> None:
        for _ in range(500):
            self.now += 1000
            more = progress(self.state, self.now, self.nodes)
            if more:
                self.record(more)
                continue
            if not any(self.do(effect) for effect in effects(self.state)):
                return
        raise AssertionError(f"never settled: {effects(self.state)}")

    def do(self, effect: Effect) -> bool:
        outcome = self.outcome(effect)
        if outcome is None:
            return False
        decision = decide(self.state, outcome, Meta(command_id=f"{effect.kind}:{effect.key}", at=self.now))  # type: ignore[arg-type]
        assert not isinstance(decision, Refusal)
        self.record(list(decision))
        return bool(decision)

    def outcome(self, effect: Effect) -> object | None:
        match effect.kind:
            case "start":
                return ReportStarted(instance=effect.key, host="127.0.0.1", port=20000 + self.commands, pid=42)
            case "stop":
                return ReportExited(instance=effect.key, exit_code=0)
            case "await-build" if not self.builds:
                return None
            case "await-build" if not (self.state.operation and self.state.operation.build_begun):
                return ReportBuildBegun(build_id=effect.key)
            case "await-build" if not self.builds_end:
                return None
            case "await-build":
                return FinishDeployBuild(build_id=effect.key, status="succeeded", artifact=self.next_artifact)
            case "abandon-build":
                self.abandoned.append(effect.key)
                return ReportAbandonedTold(build_id=effect.key)
            case "claim":
                return ReportClaims(
                    routes=() if self.refuse_claims else unclaimed_routes(self.state), refused=self.refuse_claims
                )
            case "free":
                return ReportFreed(routes=surplus_claims(self.state))
            case "wait-applied" if self.gateways_answer:
                return ReportApplied(version=int(effect.key), gateways=("gw1",))
            case "wait-drained" if self.state.routing_version <= self.state.applied_version:
                return ReportDrained(instances=tuple(effect.key.split(",")))
            case "sibling":
                return ReportSibling(process=effect.key, succeeded=True)
            case "deregister":
                return ReportDeregistered()
        return None

    def probe(self) -> None:
        """Every started instance comes to what `start` says: ready, unready, exit or nothing."""
        for instance in list(self.state.instances.values()):
            if instance.status is not InstanceStatus.STARTED:
                continue
            if instance.kind is not InstanceKind.SERVICE:
                self.send(ReportExited(instance=instance.id, exit_code=0))
                continue
            match self.start(instance.id):
                case "ready":
                    self.send(ReportReady(instance=instance.id))
                case "unready":
                    self.send(ReportUnready(instance=instance.id, reason="port not open", lines=("waiting",)))
                case "exit":
                    self.send(ReportExited(instance=instance.id, exit_code=3, reason="exit code 3", lines=("boom",)))

    def run(self) -> None:
        for _ in range(50):
            before = len(self.events)
            self.settle()
            self.probe()
            if len(self.events) == before:
                return

    def of(self, kind: type[Event]) -> list[Event]:
        return [e for e in self.events if isinstance(e, kind)]


def artifact(name: str, **processes: str) -> Artifact:
    return Artifact(digest=name, size_bytes=1, processes=processes or {"web": f"run {name}"})


def created(**world: object) -> World:
    w = World(**world)  # type: ignore[arg-type]
    spec = Spec(http=True, auto_host="shop.localhost")
    w.send(CreateComponent(service_id=SERVICE, team="default", app="shop", name="web", process="web", spec=spec))
    return w


def deployed(**world: object) -> World:
    w = created(**world)
    w.send(Deploy(source=Source(kind="upload", digest="d1")))
    w.run()
    return w
