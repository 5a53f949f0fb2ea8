"""Records how events look and fold now: `python -m tests.events.model.record vN`, after an event changed its shape.

`--states vN` only notes anew what the recorded histories fold to, for a change of a state that was meant. Drives the
real aggregates; the same history in every process.
"""

import sys

from benchmarks.histories import NODES, ComponentLife, World
from events.log.records import EventRecord
from events.model import app, build, component_commands, node, parked, pool, team, template
from events.model.base import Command, Event, service_id_of
from events.model.build import Artifact, BuildStatus, Source
from events.model.component_parts import ComponentState, Spec
from events.model.component_progress import Effect
from events.model.cron import CronJob
from events.model.log_rules import LogRules
from events.model.placement import Placement
from events.model.team_credentials import Credential, CredentialKind
from events.model.template_parts import Document, TemplateComponent, Variable
from tests.events.model.recorded import HISTORIES, write_history, write_states
from tests.events.model.shapes import write_shapes

DAY = 24 * 3600 * 1_000_000  # microseconds
SEALED = "sealed:1:default:0123456789abcdef:fedcba9876543210:AAECAwQFBgcICQoLDA0ODw"
KEY = "0123456789abcdef"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


class Scribe(World):
    """A world in which things also go wrong, end late, or are cut off."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.starts_fail = False
        self.tasks_end = True
        self.processes: tuple[str, ...] = ("web",)

    def tell(self, stream: str, command: Command, reason: str = "") -> None:
        """Decide one command, and leave it at that."""
        assert self._decide(stream, command, reason) is None, command

    def rest(self, stream: str) -> None:
        """Let everything follow that follows by itself."""
        self._settle(stream)

    def note(self, stream: str, event: Event) -> None:
        """An event that no command leads to."""
        self._record(self._entity(stream), [event], "0" * 32, "platform", "")

    def operation(self, stream: str) -> str:
        """The operation under way in a component."""
        state = self.entities[stream].state
        assert isinstance(state, ComponentState) and state.operation is not None
        return state.operation.id

    def _outcome(self, stream: str, state: ComponentState, effect: Effect) -> Command | None:
        if not self.tasks_end and effect.kind == "start":
            return None  # it runs, and nobody has said so yet
        return super()._outcome(stream, state, effect)

    def _started(self, state: ComponentState, key: str) -> Command:
        if self.starts_fail:
            return component_commands.ReportExited(instance=key, exit_code=1, reason="exit code 1", lines=("boom",))
        return super()._started(state, key)

    def _artifact(self) -> Artifact:
        made = super()._artifact()
        return Artifact(
            digest=made.digest,
            size_bytes=made.size_bytes,
            processes={name: f"run {name}" for name in self.processes},
            release_command=made.release_command,
            settings={"grace_seconds": "5"},
            language=made.language,
            detected=made.detected,
            commit=made.commit,
            author=made.author,
        )


def history() -> list[EventRecord]:
    """Every kind of stream through its whole life, and every event there is at least once."""
    world = Scribe()
    _teams_and_nodes(world)
    _pools(world)
    world.send("app/default.shop", app.CreateApp(team="default", name="shop"))
    for name in ("web", "worker"):
        register = app.RegisterComponent(name=name, service_id=service_id_of("default", "shop", name))
        world.send("app/default.shop", register)
    _before_the_first_deploy(world)
    life = ComponentLife(world, name="web", seed=1)
    _a_good_life(life)
    _what_goes_wrong(world, life)
    _siblings(world, life)
    _retention(world, life)
    _crons(world, life)
    _builds(world)
    _templates(world)
    world.send("app/default.shop", app.DestroyApp(), reason="no longer needed")
    return world.records


def _teams_and_nodes(world: Scribe) -> None:
    world.send("team/default", team.CreateTeam(name="default"))
    world.send("team/default", team.IssueTeamToken(name="ci", sha256="0" * 64))
    world.send("team/default", team.RevokeTeamToken(name="ci"))
    world.send("team/default", team.DestroyTeamKey(key_id=KEY), reason="ann has left")
    rules = LogRules(keep_days=7.5, component_mib=64, team_gib=2.0, kib_per_second=512, redact=(r"card=\d+",))
    world.send("team/default", team.ChangeLogRules(rules=rules), reason="audit")
    of_web = LogRules(keep_days=0.0, component_mib=8)
    world.send("team/default", team.ChangeLogRules(scope="shop/web", rules=of_web))
    world.send("team/default", team.ChangeLogRules(scope="shop/web", unset=("keep_days", "component_mib")))
    world.send("team/default", team.ReportKeyDestroyed(key_id=KEY))
    _credentials(world)
    world.send("team/old", team.CreateTeam(name="old"))
    world.note("team/old", team.TeamDeleted())
    for name in NODES:
        join = node.JoinNode(name=name, address="10.1.2.3", cpus=8, memory_bytes=1 << 34, runtime="process")
        world.send(f"node/{name}", join)
    world.send(f"node/{NODES[1]}", node.ReportNodeLost(reason="no heartbeat for 15 s"))
    world.send(f"node/{NODES[0]}", node.DrainNode(reason="a new disk"))
    world.send(f"node/{NODES[0]}", node.UndrainNode(reason="it is in"))
    world.send(f"node/{NODES[2]}", node.LeaveNode(reason="drained"))


def _credentials(world: Scribe) -> None:
    token = Credential(kind=CredentialKind.PASSWORD, prefix="https://git.example.com/acme", secret=SEALED, user="git")
    pair = Credential(
        kind=CredentialKind.SSH_KEY, prefix="git@git.example.com:acme", secret=SEALED, public=HOST_KEY, made_here=True
    )
    world.send("team/default", team.AddCredential(name="ci", credential=token), reason="private packages")
    world.send("team/default", team.AddCredential(name="deploy", credential=pair))
    world.send("team/default", team.PinHostKeys(host="git.example.com", keys=(HOST_KEY,)))
    world.send("team/default", team.PinHostKeys(host="[git.example.com]:2222", keys=(HOST_KEY,)))
    world.send("team/default", team.RemoveCredential(name="ci"))
    world.send("team/default", team.UnpinHostKeys(host="[git.example.com]:2222"))


def _pools(world: Scribe) -> None:
    stream = pool.pool_stream("builder")
    world.send(stream, pool.ScalePool(name="builder", size=2), reason="many builds tonight")
    world.send(stream, pool.AutoscalePool(name="builder", least=1, most=4), reason="let it follow the queue")
    world.send(stream, pool.FollowWork(size=3, before=2))
    about = "node/node-a"
    stream = parked.parked_stream(about)
    world.send(stream, parked.NoteTry(stream=about, handler="progress", version=1, number=2, error="KeyError: 'x'"))
    world.send(stream, parked.NoteSuccess())
    retry, skip = parked.RetryParked(), parked.SkipParked()
    for handler, end in (("progress", retry), ("progress", skip), (parked.FOLD, skip)):
        park = parked.Park(stream=about, handler=handler, version=1, tries=3, error="KeyError: 'x'")
        world.send(stream, park)
        world.send(stream, end, reason="looked at it")


def _templates(world: Scribe) -> None:
    artifact = Artifact(digest="ab" * 32, size_bytes=9, processes={"web": "run", "db": "serve"})
    password = Variable(secret=True, generated=True)
    database = TemplateComponent(
        name="db", process="db", http=True, artifact=artifact, variables={"PASSWORD": password},
        settings={"memory_bytes": str(1 << 28)}, crons=(CronJob(name="tidy", schedule="@daily", command="tidy"),),
    )  # fmt: skip
    variables = {
        "DATABASE": Variable(value="http://${rayfold:address:db}/"), "MAIL": Variable(required=True),
        "PASSWORD": Variable(secret=True, same_as="db.PASSWORD"),
    }  # fmt: skip
    web = TemplateComponent(
        name="web", process="web", http=True, artifact=artifact, variables=variables, scale=2, needs=("db",)
    )
    document = Document(components=(database, web), description="a shop")
    stream = template.template_stream("default", "shop")
    publish = template.PublishTemplate(
        team="default", name="shop", label="1.0.0", document=document, source="default/shop"
    )
    world.send(stream, publish, reason="for the branch")
    world.send(stream, template.RemoveTemplate(label="1.0.0"), reason="a mistake")
    world.send("app/default.branch", app.CreateApp(team="default", name="branch"))
    world.send("app/default.branch", app.InstallTemplate(template="shop", label="1.0.0", document=document))


def _before_the_first_deploy(world: Scribe) -> None:
    service = service_id_of("default", "shop", "worker")
    create = component_commands.CreateComponent(
        service_id=service, team="default", app="shop", name="worker", process="worker", spec=Spec()
    )
    world.send(f"component/{service}", create)
    change = component_commands.ChangeSpec(config_set={"PASSWORD": SEALED, "GREETING": "grüß Gott"})
    world.send(f"component/{service}", change, reason="before anything runs")
    placement = Placement(require={"disk": "ssd"}, spread="zone", stateful=True)
    world.send(f"component/{service}", component_commands.SetPlacement(placement=placement))


def _a_good_life(life: ComponentLife) -> None:
    for step in (life.configure, life.scale, life.crash, life.flap, life.restart, life.route, life.run_task,
                 life.rollback, life.stop_and_start, life.route, life.fail_build):  # fmt: skip
        life.world.now += DAY
        step()


def _what_goes_wrong(world: Scribe, life: ComponentLife) -> None:
    world.starts_fail = True
    world.send(life.stream, component_commands.ChangeSpec(config_set={"BROKEN": "1"}), reason="a mistake")
    world.starts_fail = False
    deploy = component_commands.Deploy(source=Source(kind="upload", digest="d" * 64, subdir="services/web"))
    world.tell(life.stream, deploy, "too early")
    world.tell(life.stream, component_commands.CancelOperation(operation=world.operation(life.stream)), "not yet")
    world.rest(life.stream)
    world.tell(life.stream, deploy, "too slow")
    world.now += DAY
    world.rest(life.stream)
    world.tell(life.stream, deploy, "the first of two")
    world.tell(life.stream, deploy, "the second, before a builder had begun with the first")
    world.rest(life.stream)


def _retention(world: Scribe, life: ComponentLife) -> None:
    world.send(life.stream, component_commands.SetRetention(keep=9), reason="the disk is small")
    world.send(life.stream, component_commands.PruneReleases(keep=1), reason="the disk is full")


def _siblings(world: Scribe, life: ComponentLife) -> None:
    """One build, two process types: the other one's end is told to the one that waits for it."""
    world.processes = ("web", "worker")
    life.deploy()
    waiting = world.operation(life.stream)
    artifact = life.state.releases[max(life.state.releases)].artifact
    sibling = f"component/{service_id_of('default', 'shop', 'worker')}"
    world.send(sibling, component_commands.DeployArtifact(artifact=artifact, parent=waiting, parent_stream=life.stream))
    state = world.entities[sibling].state
    assert isinstance(state, ComponentState)
    for operation in list(state.reports):
        world.send(sibling, component_commands.ReportParentTold(operation=operation))
    world.send(life.stream, component_commands.ReportSibling(process="worker", succeeded=True))


def _crons(world: Scribe, life: ComponentLife) -> None:
    """A job that runs, is skipped, missed, suspended, run by hand, and removed."""
    hours = CronJob(name="tidy", schedule="0 * * * *", command="tidy --all", zone="Europe/Berlin", late_seconds=600)
    world.send(life.stream, component_commands.SetCron(job=hours), reason="what piles up must go")
    nothing = component_commands.ReportApplied(version=0, gateways=())  # wakes the owner
    hour = 3600 * 1_000_000
    world.now += hour - world.now % hour + 1
    world.tasks_end = False
    world.send(life.stream, nothing)
    world.now += hour
    world.send(life.stream, nothing)
    world.tasks_end = True
    world.rest(life.stream)
    world.now += 5 * hour + 1_000_000_000
    world.send(life.stream, nothing)
    world.send(life.stream, component_commands.SuspendCron(name="tidy"))
    world.send(life.stream, component_commands.RunCron(name="tidy"), reason="at once")
    world.send(life.stream, component_commands.ResumeCron(name="tidy"))
    world.send(life.stream, component_commands.RemoveCron(name="tidy"))


def _builds(world: Scribe) -> None:
    """Builds that nobody waits for, cut off in every way."""
    service = service_id_of("default", "shop", "web")
    ends = ((BuildStatus.CANCELLED, "cancelled by user"), (BuildStatus.TIMED_OUT, "took longer than 900 s"))
    for number, (status, reason) in enumerate(ends):
        stream = f"build/{service}-extra{number}"
        request = build.RequestBuild(
            build_id=f"{service}-extra{number}", service_id=service, team="default", app="shop", component="web",
            operation=f"extra{number}", source=Source(kind="git", url="https://git.example.com/shop.git", ref="main"),
        )  # fmt: skip
        world.tell(stream, request)
        world.tell(stream, build.StartBuild(builder="builder-0"))
        if status is BuildStatus.CANCELLED:
            world.tell(stream, build.CancelBuild(reason=reason))
        world.tell(stream, build.FinishBuild(attempt=1, status=status, reason=reason, seconds=3.5))


def main(arguments: list[str]) -> int:
    """Record; returns an exit code."""
    name = arguments[-1] if arguments else ""
    directory = HISTORIES / name
    if not name.removeprefix("v").isdecimal() or name[:1] != "v":
        print("expected: python -m tests.events.model.record [--states] vN", file=sys.stderr)
        return 2
    if arguments[0] == "--states":
        write_states(directory)
        return 0
    if directory.exists():
        print(
            f"{name} is recorded already, and what is recorded is never changed: take the next number", file=sys.stderr
        )
        return 1
    write_history(directory, history())
    write_shapes()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
