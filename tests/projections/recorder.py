"""Recorded stories of every aggregate, as the records a log holds; a component's is made by `decide` and `apply`."""

import functools
from collections.abc import Sequence

from events.log.memory import MemoryEventLog
from events.log.records import EventRecord, partition_of
from events.model.app import AppCreated, AppState, AppStatus, ComponentRegistered, DestroyApp
from events.model.app import decide as decide_app
from events.model.base import Event, Meta, Refusal, partition_key, service_id_of
from events.model.build import Artifact, BuildFailed, BuildRequested, BuildStarted, BuildSucceeded, Source
from events.model.component_commands import (
    CancelOperation,
    ChangeSpec,
    CreateComponent,
    Deploy,
    DestroyComponent,
    RemoveCron,
    ReportExited,
    ResumeCron,
    Rollback,
    RunCron,
    RunTask,
    SetCron,
    SuspendCron,
)
from events.model.component_parts import RouteSpec, Spec
from events.model.cron import CronJob
from events.model.log_rules import LogRules
from events.model.node import NodeJoined, NodeLost
from events.model.registry import encode_event
from events.model.route import RouteClaimed, RouteReleased
from events.model.team import TeamCreated, TeamLogRulesChanged, TeamTokenIssued, TeamTokenRevoked
from tests.events.model.component_world import World, artifact

START = 1_000_000_000  # microseconds: where the World's clock begins
WEB = service_id_of("default", "shop", "web")
CLOCK = service_id_of("other", "clockwork", "clock")


class Recorder:
    """Keeps events as records, numbering each stream."""

    def __init__(self) -> None:
        self.records: list[EventRecord] = []
        self._versions: dict[str, int] = {}

    def add(
        self, stream: str, event: Event, *, at: int = START, actor: str = "tester", reason: str = "", command: str = ""
    ) -> EventRecord:
        version = self._versions.get(stream, 0) + 1
        self._versions[stream] = version
        record = EventRecord(
            stream=stream,
            version=version,
            type=type(event).__name__,
            schema_version=type(event).schema_version,
            event_id=f"{stream}@{version}",
            at=at,
            command_id=command or f"{stream}-{version}",
            correlation_id=str(getattr(event, "operation", "")),
            causation_id="",
            actor=actor,
            reason=reason,
            traceparent="",
            body=encode_event(event),
        )
        self.records.append(record)
        return record


class RecordedWorld(World):
    """A component's world whose every event becomes a record."""

    def __init__(self, recorder: Recorder, stream: str) -> None:
        super().__init__()
        self._recorder = recorder
        self._stream = stream
        self._saying = ""

    def send(self, command: object, reason: str = "") -> str:
        self._saying = reason
        return super().send(command, reason)

    def record(self, events: list[Event]) -> None:
        super().record(events)
        for event in events:
            command = f"c{self.commands}"
            self._recorder.add(self._stream, event, at=self.now, reason=self._saying, command=command)


def tell_component(recorder: Recorder, app: str = "shop", name: str = "web", *, team: str = "default") -> RecordedWorld:
    """A component's life: deploys that go well and badly, scale, config, crashes, a task, a cancelled deploy."""
    service_id = service_id_of(team, app, name)
    w = RecordedWorld(recorder, f"component/{service_id}")
    spec = Spec(http=name == "web", auto_host=f"{app}.localhost" if name == "web" else "")
    w.send(CreateComponent(service_id=service_id, team=team, app=app, name=name, process="web", spec=spec))
    w.send(ChangeSpec(config_set={"EARLY": "1"}))
    w.send(Deploy(source=Source(kind="upload", digest="d1")), reason="first")
    w.run()
    w.send(ChangeSpec(scale=3))
    w.run()
    w.send(ChangeSpec(config_set={"KEY": "value"}, routes_add=(RouteSpec(f"{app}.example.com", "/api"),)))
    w.run()
    w.send(Rollback(), reason="the new one is slow")
    w.run()
    w.send(ReportExited(instance=next(iter(w.state.instances)), exit_code=1, reason="exit code 1", lines=("boom\0",)))
    w.run()
    w.send(RunTask(command="migrate"))
    w.run()
    w.next_artifact = artifact("broken")
    w.start = lambda instance: "exit"
    w.send(Deploy(source=Source(kind="upload", digest="d2")))
    w.run()
    w.start = lambda instance: "nothing"
    w.next_artifact = artifact("slow")
    operation = w.send(Deploy(source=Source(kind="upload", digest="d3")))
    w.send(CancelOperation(operation=operation), reason="wrong branch")
    w.run()
    w.start = lambda instance: "ready"
    w.next_artifact = artifact("two", web="w", worker="k")
    w.send(Deploy(source=Source(kind="git", url="https://git.example.com/shop", ref="main")))
    w.run()
    return w


def tell_crons(recorder: Recorder) -> None:
    """A component with a job that runs, is skipped, missed, run by hand and then rests, and another that is removed."""
    w = RecordedWorld(recorder, f"component/{CLOCK}")
    create = CreateComponent(
        service_id=CLOCK, team="other", app="clockwork", name="clock", process="web", spec=Spec(scale=0)
    )
    w.send(create)
    w.send(Deploy(source=Source(kind="upload", digest="d1")))
    w.run()
    minute = 60 * 1_000_000
    for name in ("tidy", "gone"):
        job = CronJob(name=name, schedule="*/5 * * * *", command=f"{name} up", late_seconds=60, history=2)
        w.send(SetCron(job=job), reason="it piles up")
    w.send(RemoveCron(name="gone"))
    for _ in range(3):
        w.now += 5 * minute - w.now % (5 * minute)
        w.settle()
        w.now += 5 * minute
        w.settle()
        w.run()
    w.now += 64 * minute - w.now % (5 * minute)
    w.settle()
    w.run()
    w.send(SuspendCron(name="tidy"))
    w.send(RunCron(name="tidy"))
    w.run()
    w.send(ResumeCron(name="tidy"))
    w.send(SuspendCron(name="tidy"))


def crash(w: RecordedWorld, times: int) -> None:
    """Crash a component's first instance, again and again."""
    for _ in range(times):
        instance = next(iter(w.state.instances))
        w.send(ReportExited(instance=instance, exit_code=1, reason="exit code 1", lines=("boom",)))
        w.now = max([w.now, *(slot.restart_at for slot in w.state.slots.values())])
        w.run()


def rebirth(w: RecordedWorld) -> None:
    """Destroy a component, and create it anew under the same name."""
    w.send(DestroyComponent())
    w.run()
    spec = Spec(http=True, auto_host="shop.localhost")
    w.send(CreateComponent(service_id=WEB, team="default", app="shop", name="web", process="web", spec=spec))
    w.send(Deploy(source=Source(kind="upload", digest="d9")))
    w.run()


@functools.cache
def tell_everything() -> tuple[EventRecord, ...]:
    """One story that every read model has a part in."""
    r = Recorder()
    r.add("team/default", TeamCreated(name="default"))
    r.add("team/default", TeamTokenIssued(name="first", sha256="a" * 64))
    rules = LogRules(keep_days=7.0, redact=("a=.",))
    r.add("team/default", TeamLogRulesChanged(rules=rules))
    r.add("team/default", TeamLogRulesChanged(scope="shop/web", rules=LogRules(component_mib=4)))
    r.add("team/default", TeamLogRulesChanged(scope="shop/api", rules=LogRules(component_mib=4)))
    r.add("team/default", TeamLogRulesChanged(scope="shop/api"))
    r.add("team/default", TeamTokenIssued(name="second", sha256="b" * 64))
    r.add("team/default", TeamTokenRevoked(name="first"))
    r.add("team/other", TeamCreated(name="other"))
    r.add("team/other", TeamTokenIssued(name="theirs", sha256="c" * 64))
    r.add("node/node1", NodeJoined(name="node1", address="127.0.0.1", cpus=2, memory_bytes=1 << 33, runtime="process"))
    r.add("node/node2", NodeJoined(name="node2", address="127.0.0.2", cpus=2, memory_bytes=1 << 33, runtime="process"))
    r.add("node/node2", NodeLost(reason="no word for 30 s"))
    r.add("app/default.shop", AppCreated(team="default", name="shop"))
    r.add("app/default.shop", ComponentRegistered(name="web", service_id=WEB))
    r.add("app/default.old", AppCreated(team="default", name="old"))
    old = AppState(status=AppStatus.ACTIVE, team="default", name="old")
    destroy = decide_app(old, DestroyApp(), Meta(command_id="gone", at=START))
    assert not isinstance(destroy, Refusal)
    for event in destroy:
        r.add("app/default.old", event)
    _tell_builds(r)
    r.add("route/a.example.com/", _claim("a.example.com", "/"))
    r.add("route/shop.example.com/api", _claim("shop.example.com", "/api"))
    r.add("route/a.example.com/", RouteReleased(service_id=WEB))
    w = tell_component(r)
    tell_component(r, "theirs", team="other")
    tell_crons(r)
    rebirth(w)
    crash(w, 60)
    return tuple(r.records)


def _claim(host: str, path: str) -> RouteClaimed:
    return RouteClaimed(host=host, path=path, service_id=WEB, team="default", app="shop")


def _tell_builds(r: Recorder) -> None:
    for number in (1, 2):
        stream = f"build/{WEB}-op{number}"
        request = BuildRequested(
            build_id=f"{WEB}-op{number}", service_id=WEB, team="default", app="shop", component="web",
            operation=f"op{number}", source=Source(kind="upload", digest="d"), timeout_seconds=60,
        )  # fmt: skip
        r.add(stream, request, at=START + number)
        r.add(stream, BuildStarted(builder="b1", attempt=1), at=START + number)
    made = Artifact(digest="sha", size_bytes=5, processes={"web": "run"}, detected="Python because of setup.py")
    r.add(f"build/{WEB}-op1", BuildSucceeded(artifact=made, seconds=1.5, cache_hit=True), at=START + 10)
    r.add(f"build/{WEB}-op2", BuildFailed(code="no_lock", reason="no lock file", lines=("x", "y")), at=START + 11)


async def append(log: MemoryEventLog, records: Sequence[EventRecord]) -> None:
    """Put records into a log, each stream's in its partition, in order."""
    by_partition: dict[int, list[EventRecord]] = {}
    for record in records:
        home = partition_of(partition_key(record.stream), log.partitions)
        by_partition.setdefault(home, []).append(record)
    for partition, wanted in by_partition.items():
        writer = await log.claim(partition, "recorder")
        for start in range(0, len(wanted), 100):
            await writer.append(f"append-{wanted[start].event_id}", wanted[start : start + 100])
        await writer.release()


async def log_of(records: Sequence[EventRecord], *, partitions: int = 4) -> MemoryEventLog:
    """A new log that holds `records`."""
    log = MemoryEventLog(partitions=partitions)
    await log.open()
    await append(log, records)
    return log
