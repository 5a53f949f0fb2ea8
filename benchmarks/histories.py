"""Recorded histories as the platform writes them, made by driving the real aggregates through whole lifecycles.

Every event comes out of `decide` or `progress`, every effect that a state owes is answered; no clock and no log is
involved, and the same seed gives the same history in every process. Must not know what is measured or tested with it.
"""

import random
from collections.abc import Sequence

import msgspec

from actors.supervisor.entity import Entity
from events.log.records import EventRecord
from events.model import app, build, component_commands, node, parked, pool, route, team, template
from events.model.base import Command, Envelope, Event, Meta, Refusal, service_id_of
from events.model.build import Artifact, BuildState, BuildStatus, Source
from events.model.component_parts import ComponentState, InstanceKind, InstanceStatus, RouteSpec, Spec
from events.model.component_progress import Effect, surplus_claims, unclaimed_routes
from events.model.cron import CronJob
from events.model.placement import Room
from events.model.template_parts import Document, TemplateComponent, Variable

SECOND = 1_000_000
STARTED_AT = 1_790_000_000 * SECOND
NODES = ("node-a", "node-b", "node-c")
ROOMS = tuple(Room(name=name) for name in NODES)
WHY = "roll out what was merged this morning"
_ROUNDS = 10_000  # more than any life takes; a life that never comes to rest is a defect and must not hang


class World:
    """Streams without a log: commands are decided and folded at once, and all that they owe is answered."""

    def __init__(self, *, seed: int) -> None:
        self.records: list[EventRecord] = []
        self.entities: dict[str, Entity] = {}
        self.now = STARTED_AT + seed * SECOND
        self._random = random.Random(seed)
        self._sequence = 0
        self.builds_fail = False

    def send(self, stream: str, command: Command, *, reason: str = "") -> Refusal | None:
        """Decide one command; its events, and what follows until nothing is owed any more, join `records`."""
        refusal = self._decide(stream, command, reason)
        if refusal is None:
            self._settle(stream)
        return refusal

    def _decide(self, stream: str, command: Command, reason: str = "") -> Refusal | None:
        entity = self._entity(stream)
        self._sequence += 1
        self.now += self._random.randrange(200, 40_000)
        ident = f"{self._random.getrandbits(128):032x}"
        actor = "ops@example.com" if reason else "platform"
        meta = Meta(command_id=ident, at=self.now, actor=actor, reason=reason)
        decision = entity.aggregate.decide(entity.state, command, meta)
        if isinstance(decision, Refusal):
            return decision
        self._record(entity, decision, ident, actor, reason)
        return None

    def _entity(self, stream: str) -> Entity:
        return self.entities.setdefault(stream, Entity(stream))

    def _record(self, entity: Entity, events: Sequence[Event], ident: str, actor: str, reason: str) -> None:
        running = getattr(entity.state, "operation", None)
        envelope = Envelope(
            stream=entity.stream,
            command=msgspec.Raw(),
            command_id=ident,
            correlation_id=str(getattr(running, "id", "") or ident),
            actor=actor,
            reason=reason,
            traceparent=f"00-{self._random.getrandbits(128):032x}-{self._random.getrandbits(64):016x}-01",
        )
        for record, event in zip(entity.records(events, envelope, self.now), events, strict=True):
            entity.state = entity.aggregate.apply(entity.state, event, record.at)
            entity.version = record.version
            self.records.append(record)

    def _settle(self, stream: str) -> None:
        entity = self._entity(stream)
        for _ in range(_ROUNDS):
            self.now += 1_000
            events = entity.aggregate.progress(entity.state, self.now, ROOMS)
            if events:
                self._record(entity, events, f"{stream}@{entity.version + 1}", "platform", "")
            elif not any(self._answer(entity, effect) for effect in entity.effects()):
                return
        raise AssertionError(f"{stream} never came to rest: {entity.effects()}")

    def _answer(self, entity: Entity, effect: Effect) -> bool:
        before = entity.version
        if entity.stream.startswith("build/"):
            self._answer_build(entity, effect)
        elif isinstance(entity.state, ComponentState):
            outcome = self._outcome(entity.stream, entity.state, effect)
            if outcome is not None:
                self._decide(entity.stream, outcome)
        elif effect.kind == "tell-node":
            self._decide(entity.stream, node.ReportNodeTold(wish=effect.key))
        elif isinstance(entity.state, app.AppState) and effect.key in entity.state.components:
            self.send(f"component/{entity.state.components[effect.key]}", component_commands.DestroyComponent())
        return entity.version != before

    def _answer_build(self, entity: Entity, effect: Effect) -> None:
        state = entity.state
        if not isinstance(state, BuildState) or effect.kind != "run-build":
            return
        if state.status is BuildStatus.QUEUED:
            self._decide(entity.stream, build.StartBuild(builder="builder-0"))
            return
        self.now += self._random.randrange(3, 90) * SECOND
        status = BuildStatus.FAILED if self.builds_fail else BuildStatus.SUCCEEDED
        artifact = None if self.builds_fail else self._artifact()
        lines = tuple(f"error: line {n} of the build's output" for n in range(6)) if self.builds_fail else ()
        self._decide(
            entity.stream,
            build.FinishBuild(
                attempt=state.attempt, status=status, artifact=artifact, reason="exit code 1", lines=lines, seconds=12.5
            ),
        )

    def _artifact(self) -> Artifact:
        return Artifact(
            digest=f"sha256:{self._random.getrandbits(256):064x}",
            size_bytes=self._random.randrange(1 << 20, 1 << 28),
            processes={"web": "gunicorn shop.wsgi --bind 0.0.0.0:$PORT --workers 2"},
            release_command="python manage.py migrate",
            language="python",
            detected="requirements.txt, Procfile",
            commit=f"{self._random.getrandbits(160):040x}",
            author="Dev <dev@example.com>",
            lock_hash=f"{self._random.getrandbits(128):032x}",
        )

    def _outcome(self, stream: str, state: ComponentState, effect: Effect) -> Command | None:
        match effect.kind:
            case "start":
                return self._started(state, effect.key)
            case "stop":
                return component_commands.ReportExited(instance=effect.key, exit_code=0, signal=15)
            case "await-build":
                return self._build(stream, state, effect.key)
            case "abandon-build":
                self.send(f"build/{effect.key}", build.CancelBuild())
                return component_commands.ReportAbandonedTold(build_id=effect.key)
            case "claim":
                return self._claim(state)
            case "free":
                surplus = surplus_claims(state)
                for one in surplus:
                    release = route.ReleaseRoute(service_id=state.service_id, as_of=state.version)
                    self._decide(route.route_stream(one.host, one.path), release)
                return component_commands.ReportFreed(routes=surplus)
            case "wait-applied":
                return component_commands.ReportApplied(version=int(effect.key), gateways=("gateway-a", "gateway-b"))
            case "wait-drained":
                return component_commands.ReportDrained(instances=tuple(effect.key.split(",")))
            case "deregister":
                self.send(f"app/{state.team}.{state.app}", app.DeregisterComponent(name=state.name))
                return component_commands.ReportDeregistered()
        return None

    def _started(self, state: ComponentState, key: str) -> Command:
        instance = state.instances[key]
        if instance.kind is not InstanceKind.SERVICE:
            return component_commands.ReportExited(instance=key, exit_code=0)
        self.now += self._random.randrange(200_000, 3 * SECOND)
        port = self._random.randrange(20_000, 60_000)
        return component_commands.ReportReady(instance=key, host="10.1.2.3", port=port, pid=port + 7)

    def _build(self, stream: str, state: ComponentState, build_id: str) -> Command | None:
        operation = state.operation
        if operation is None or operation.source is None:
            return None
        request = build.RequestBuild(
            build_id=build_id,
            service_id=state.service_id,
            team=state.team,
            app=state.app,
            component=state.name,
            operation=operation.id,
            source=operation.source,
        )
        self.send(f"build/{build_id}", request)
        self._decide(stream, component_commands.ReportBuildBegun(build_id=build_id))
        ended = self.entities[f"build/{build_id}"].state
        if not isinstance(ended, BuildState) or not ended.ended:
            return None
        return component_commands.FinishDeployBuild(
            build_id=build_id,
            artifact=ended.artifact,
            status=ended.status.value,
            code=ended.code,
            reason=ended.reason,
            lines=ended.lines,
        )

    def _claim(self, state: ComponentState) -> Command:
        claimed: list[RouteSpec] = []
        for wanted in unclaimed_routes(state):
            claim = route.ClaimRoute(
                host=wanted.host,
                path=wanted.path,
                service_id=state.service_id,
                team=state.team,
                app=state.app,
                as_of=state.version,
            )
            refusal = self._decide(route.route_stream(wanted.host, wanted.path), claim)
            if refusal is not None:
                return component_commands.ReportClaims(routes=tuple(claimed), refused=refusal.message)
            claimed.append(wanted)
        return component_commands.ReportClaims(routes=tuple(claimed))


class ComponentLife:
    """One component from its creation on; each `step` is one thing that users or the world do to it."""

    def __init__(self, world: World, *, name: str, seed: int, team: str = "default", app: str = "shop") -> None:
        self.world = world
        self.service_id = service_id_of(team, app, name)
        self.stream = f"component/{self.service_id}"
        self._random = random.Random(seed)
        self._host = f"{self.service_id}.example.com"
        spec = Spec(
            http=True,
            auto_host=f"{self.service_id}.localhost",
            config={"DATABASE_URL": "postgres://db.internal:5432/shop", "LOG_LEVEL": "info", "WORKERS": "4"},
            probe_path="/healthz",
        )
        create = component_commands.CreateComponent(
            service_id=self.service_id, team=team, app=app, name=name, process="web", spec=spec
        )
        world.send(self.stream, create, reason=WHY)
        self.deploy()

    @property
    def state(self) -> ComponentState:
        """The component as folded so far."""
        state = self.world.entities[self.stream].state
        assert isinstance(state, ComponentState)
        return state

    def step(self) -> None:
        """Whatever happens next: mostly crashes, new probes and changes of configuration, now and then a deploy."""
        self.world.now += self._random.randrange(1, 600) * SECOND
        steps = (self.deploy, self.configure, self.scale, self.crash, self.flap, self.restart, self.rollback,
                 self.route, self.run_task, self.fail_build, self.cancel, self.stop_and_start)  # fmt: skip
        self._random.choices(steps, weights=(2, 12, 10, 30, 30, 3, 3, 3, 3, 1, 1, 2))[0]()

    def deploy(self) -> None:
        """A new commit, built and rolled out."""
        source = Source(kind="git", url="https://git.example.com/shop.git", ref="main")
        self.world.send(self.stream, component_commands.Deploy(source=source), reason=WHY)

    def fail_build(self) -> None:
        """A commit that does not build."""
        self.world.builds_fail = True
        self.deploy()
        self.world.builds_fail = False

    def configure(self) -> None:
        """One variable changes: a new release, rolled out."""
        key = f"FEATURE_{self._random.randrange(8)}"
        change = component_commands.ChangeSpec(config_set={key: f"value-{self._random.randrange(1000)}"})
        self.world.send(self.stream, change, reason=WHY)

    def scale(self) -> None:
        """To 1, 2 or 3 instances."""
        change = component_commands.ChangeSpec(scale=self._random.randrange(1, 4))
        self.world.send(self.stream, change, reason=WHY)

    def stop_and_start(self) -> None:
        """Stopped by its user, and started again."""
        self.world.send(self.stream, component_commands.ChangeSpec(stopped=True), reason=WHY)
        self.world.send(self.stream, component_commands.ChangeSpec(stopped=False), reason=WHY)

    def crash(self) -> None:
        """An instance ends by itself; its slot is filled again."""
        for key in self._ready()[:1]:
            lines = ("Traceback (most recent call last):", "MemoryError", "worker exited")
            exited = component_commands.ReportExited(
                instance=key, exit_code=137, signal=9, reason="killed by signal 9 (out of memory)", lines=lines
            )
            self.world.send(self.stream, exited)
            self.world.now += 400 * SECOND  # past any back-off: the next command finds the slot due again
            self.world.send(self.stream, component_commands.ReportApplied(version=0, gateways=()))

    def flap(self) -> None:
        """An instance fails its probe, and recovers."""
        for key in self._ready()[:1]:
            reason = "GET /healthz: expected a status below 400, found 503"
            self.world.send(self.stream, component_commands.ReportUnready(instance=key, reason=reason))
            self.world.now += 5 * SECOND
            self.world.send(self.stream, component_commands.ReportReady(instance=key))

    def restart(self) -> None:
        """The same release again in new processes."""
        self.world.send(self.stream, component_commands.Restart(), reason=WHY)

    def rollback(self) -> None:
        """Back to the release before."""
        self.world.send(self.stream, component_commands.Rollback(), reason="the new one is slow")

    def route(self) -> None:
        """A host name of its own is added, or taken away."""
        one = RouteSpec(self._host, "/")
        has = one in self.state.spec.routes
        change = component_commands.ChangeSpec(routes_remove=(one,) if has else (), routes_add=() if has else (one,))
        self.world.send(self.stream, change, reason=WHY)

    def run_task(self) -> None:
        """A one-off command."""
        self.world.send(self.stream, component_commands.RunTask(command="python manage.py report"), reason=WHY)

    def keep_time(self) -> None:
        """A job that runs by the clock and by hand, is missed for hours, suspended, resumed and removed."""
        job = CronJob(name="tidy", schedule="0 * * * *", command="tidy --all", zone="Europe/Berlin", late_seconds=600)
        self.world.send(self.stream, component_commands.SetCron(job=job), reason=WHY)
        for seconds in (3600, 5 * 3600 + 1800):
            self.world.now += seconds * SECOND
            self.world.now -= self.world.now % (600 * SECOND)
            self.world.send(self.stream, component_commands.ReportApplied(version=0, gateways=()))
        for command in (
            component_commands.SuspendCron(name="tidy"),
            component_commands.RunCron(name="tidy"),
            component_commands.ResumeCron(name="tidy"),
            component_commands.RemoveCron(name="tidy"),
        ):
            self.world.send(self.stream, command, reason=WHY)

    def cancel(self) -> None:
        """An operation that nobody can cancel any more."""
        self.world.send(self.stream, component_commands.CancelOperation(operation="gone"))

    def destroy(self) -> None:
        """Stop everything, give the routes back, be gone."""
        self.world.send(self.stream, component_commands.DestroyComponent(), reason=WHY)

    def _ready(self) -> list[str]:
        return [i.id for i in self.state.instances.values() if i.status is InstanceStatus.READY]


def component_life(seed: int, *, events: int = 200) -> list[EventRecord]:
    """One component with its builds and routes, at least `events` long, ending live and idle."""
    life = ComponentLife(World(seed=seed), name=f"web-{seed}", seed=seed)
    while len(life.world.records) < events:
        life.step()
    return life.world.records


def platform_life(seed: int) -> list[EventRecord]:
    """A little of everything: each kind of stream, tokens and nodes that come and go, an app that is destroyed."""
    world = World(seed=seed)
    stream = "app/default.shop"
    world.send("team/default", team.CreateTeam(name="default"))
    world.send("team/default", team.IssueTeamToken(name="ci", sha256="0" * 64))
    for name in NODES:
        join = node.JoinNode(name=name, address="10.1.2.3", cpus=8, memory_bytes=1 << 34, runtime="process")
        world.send(f"node/{name}", join)
    world.send(f"node/{NODES[1]}", node.ReportNodeLost(reason="no heartbeat for 15 s"))
    world.send(f"node/{NODES[0]}", node.DrainNode(reason="a new disk"))
    world.send(f"node/{NODES[0]}", node.UndrainNode())
    world.send(f"node/{NODES[2]}", node.LeaveNode(reason="drained"))
    world.send(
        "parked/node/node-a", parked.Park(stream="node/node-a", handler="progress", version=1, tries=3, error="x")
    )
    world.send("parked/node/node-a", parked.RetryParked())
    world.send("pool/builder", pool.ScalePool(name="builder", size=2))
    world.send("pool/builder", pool.AutoscalePool(name="builder", least=1, most=4))
    world.send(stream, app.CreateApp(team="default", name="shop"))
    for name in ("web", "worker"):
        service = service_id_of("default", "shop", name)
        world.send(stream, app.RegisterComponent(name=name, service_id=service))
        life = ComponentLife(world, name=name, seed=seed)
        for _ in range(25):
            life.step()
        life.keep_time()
    web = TemplateComponent(
        name="web",
        process="web",
        http=True,
        artifact=Artifact(digest="ab" * 32, size_bytes=9, processes={"web": "run"}),
        variables={"PASSWORD": Variable(secret=True, generated=True)},
    )
    document = Document(components=(web,), description="a shop")
    publish = template.PublishTemplate(team="default", name="shop", label="1.0", document=document)
    world.send("template/default.shop", publish)
    world.send("app/default.branch", app.CreateApp(team="default", name="branch"))
    world.send("app/default.branch", app.InstallTemplate(template="shop", label="1.0", document=document))
    world.send("template/default.shop", template.RemoveTemplate(label="1.0"))
    world.send(stream, app.DestroyApp(), reason="no longer needed")
    world.send("team/default", team.RevokeTeamToken(name="ci"))
    return world.records
