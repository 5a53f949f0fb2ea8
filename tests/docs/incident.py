"""The history that docs/debugging.md tells of: an app that went down at 14:02, told by the real `decide`, `apply`."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from events.log.records import EventRecord
from events.model.app import AppCreated, ComponentRegistered
from events.model.base import Event, service_id_of
from events.model.build import Source
from events.model.component_commands import ChangeSpec, CreateComponent, Deploy, ReportExited
from events.model.component_parts import Spec
from events.model.node import NodeJoined
from events.model.registry import encode_event
from events.replay.export import export
from tests.events.model.component_world import World, artifact
from tests.projections.recorder import log_of

SERVICE = service_id_of("default", "shop", "web")
STREAM = f"component/{SERVICE}"
OLD, NEW = "postgres://db-1:5432/shop", "postgres://db-2:5432/shop"


def moment(clock: str) -> int:
    """Microseconds UTC of a time of that day."""
    return int(datetime.fromisoformat(f"2026-11-20T{clock}+00:00").astimezone(UTC).timestamp()) * 1_000_000


class Incident(World):
    """A component's world whose events carry what the supervisor would have written around them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[EventRecord] = []
        self._said: tuple[str, str, str] | None = None

    def tell(self, stream: str, version: int, event: Event, *, actor: str, reason: str = "") -> None:
        command, operation = f"{stream}-{version}", str(getattr(event, "operation", ""))
        self._keep(stream, version, event, (command, actor, reason), command, operation)

    def ask(self, command: object, clock: str, actor: str, reason: str = "") -> None:
        """Somebody gives a command, and the world does what follows."""
        self.now = max(self.now + 1000, moment(clock))
        self._said = (f"c{self.commands + 1}", actor, reason)
        self.send(command, reason)
        self.run()

    def record(self, events: list[Event]) -> None:
        said, self._said = self._said, None
        running = self.state.operation
        operation = next(
            (str(e.operation) for e in events if getattr(e, "operation", "")), running.id if running else ""
        )  # type: ignore[attr-defined]
        cause = f"{STREAM}@{self.state.version}"
        for event in events:
            super().record([event])
            version = self.state.version
            command, actor, reason = said or (f"{STREAM}@{version}", "platform", "")
            self._keep(STREAM, version, event, (command, actor, reason), command if said else cause, operation)

    def _keep(
        self, stream: str, version: int, event: Event, said: tuple[str, str, str], cause: str, operation: str
    ) -> None:
        record = EventRecord(
            stream=stream, version=version, type=type(event).__name__, schema_version=type(event).schema_version,
            event_id=f"{stream}@{version}", at=self.now, command_id=said[0], correlation_id=operation or said[0],
            causation_id=cause, actor=said[1], reason=said[2], traceparent="", body=encode_event(event),
        )  # fmt: skip
        self.records.append(record)


def told() -> list[EventRecord]:
    """13:00 a first release; 13:55 a variable is set; 14:02 the new instances crash, one after the other."""
    w = Incident()
    w.now = moment("09:00:00")
    joined = NodeJoined(name="node1", address="127.0.0.1", cpus=2, memory_bytes=1 << 33, runtime="processes")
    w.tell("node/node1", 1, joined, actor="node:node1")
    w.tell("app/default.shop", 1, AppCreated(team="default", name="shop"), actor="ada")
    w.tell("app/default.shop", 2, ComponentRegistered(name="web", service_id=SERVICE), actor="ada")
    w.next_artifact = artifact("sha256:0badc0de")
    spec = Spec(http=True, auto_host="shop.localhost", config={"DATABASE_URL": OLD})
    create = CreateComponent(service_id=SERVICE, team="default", app="shop", name="web", process="web", spec=spec)
    w.ask(create, "12:59:00", "ada")
    w.ask(
        Deploy(source=Source(kind="git", url="https://git.example.com/shop", ref="main")), "13:00:00", "ada", "go live"
    )
    w.ask(ChangeSpec(scale=2), "13:20:00", "ada", "more visitors")
    w.ask(ChangeSpec(config_set={"DATABASE_URL": NEW}), "13:55:00", "bob", "move to the new database")
    for clock in ("14:02:11", "14:02:12"):
        instance = next(i for i in w.state.instances.values() if i.release == 3)
        lost = ReportExited(
            instance=instance.id,
            exit_code=1,
            reason="exit code 1",
            lines=("could not connect to db-2:5432: timed out",),
        )
        w.start = lambda instance: "nothing"
        w.ask(lost, clock, "node:node1")
    return w.records


def write(path: Path) -> None:
    """The history as a file of rayfold export."""

    async def blocks() -> bytes:
        log = await log_of(told(), partitions=4)
        return b"".join([b async for b in export(log, None, rayfold="0.1.0", now=moment("14:10:00"))])

    path.write_bytes(asyncio.run(blocks()))
