"""What the API's tests run on in the place of machines, builders and gateways: it does at once what is asked of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from actors.archiver import LogReport
from actors.builder.orders import BUILDS, build_task
from actors.builder.retention import Swept
from actors.cluster.shell import Health
from actors.cluster.sizes import PoolReport
from actors.supervisor.orders import BuildOrder, Ended, Known, Started, StartOrder
from actors.supervisor.supervisor import Supervisor
from api.http.identity import fresh_id
from api.http.schema_platform import CheckView
from events.log.archive.keeper import KeeperStatus
from events.log.archive.manifest import SegmentManifest
from events.log.archive.meter import PartitionUse
from events.log.archive.space import Budget, Space
from events.log.records import partition_of
from events.model.base import Envelope, partition_key
from events.model.build import Artifact, BuildStatus, FinishBuild
from events.model.component_commands import ReportExited, ReportReady
from events.model.component_parts import InstanceStatus
from events.model.parked import ParkedState
from events.model.placement import Room
from events.model.pool import PoolState
from events.model.registry import encode_command
from events.queue.memory import MemoryTaskQueue, MemoryTopics

PARTITIONS = 4


class World:
    """Nodes whose instances get ready at once, builders that build when they may, gateways that have applied all."""

    def __init__(self) -> None:
        self.supervisor: Supervisor
        self.may_build = asyncio.Event()
        self.may_build.set()
        self.cancelled: set[str] = set()
        self.wake = asyncio.Event()
        self.fails = ""
        self.makes = ""
        self.tasks: set[asyncio.Task[None]] = set()
        self.queue = MemoryTaskQueue(MemoryTopics())
        self.ordered: list[StartOrder] = []
        self.stopped: list[str] = []

    def nodes(self) -> Sequence[Room]:
        return [Room(name="n1")]

    def gone(self) -> Sequence[str]:
        return ()

    async def start(self, node: str, order: StartOrder) -> Started:
        self.ordered.append(order)
        task = asyncio.create_task(self._go_on(f"component/{order.service_id}", order))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return Started(host="127.0.0.1", port=20000, pid=1)

    async def _go_on(self, stream: str, order: StartOrder) -> None:
        """A service gets ready; a task ends at once."""
        instance = order.instance
        engine = self.supervisor.engines[partition_of(partition_key(stream), PARTITIONS)]

        def started(state: Any) -> bool:
            found = state.instances.get(instance)
            return found is None or found.status is not InstanceStatus.STARTING

        await engine.until(stream, started)
        ended = ReportExited(instance=instance, exit_code=0)
        report = encode_command(ReportReady(instance=instance) if order.kind == "service" else ended)
        await self.supervisor.submit([Envelope(stream=stream, command=report, command_id=fresh_id())])

    async def stop(self, node: str, instance: str, grace_seconds: int) -> Ended:
        self.stopped.append(instance)
        return Ended(exit_code=0)

    async def settle(self, node: str, known: Sequence[Known]) -> list[str]:
        return []

    async def tell(self, node: str, *, leaving: bool) -> None:
        self.leaving = leaving

    async def strike(self, node: str, *, gone: bool) -> None:
        self.struck = gone

    async def unknown(self, node: str, instances: Sequence[str]) -> list[str]:
        return []

    async def request(self, order: BuildOrder) -> None:
        await self.queue.publish(BUILDS, [build_task(order)])

    async def build(self, order: BuildOrder, attempt: int) -> FinishBuild:
        while not self.may_build.is_set() and order.build_id not in self.cancelled:
            self.wake.clear()
            await self.wake.wait()
        if order.build_id in self.cancelled:
            return FinishBuild(attempt=attempt, status=BuildStatus.CANCELLED, reason="cancelled by user")
        if self.fails:
            return FinishBuild(
                attempt=attempt, status=BuildStatus.FAILED, code="step_failed", reason=self.fails, lines=("boom",)
            )
        artifact = Artifact(
            digest=self.makes or f"sha256:{order.source.digest or order.source.ref}",
            size_bytes=1,
            processes={"web": "run", "worker": "work"} if order.source.ref == "two" else {"web": "run"},
            detected="Python because of requirements.txt",
        )
        return FinishBuild(attempt=attempt, status=BuildStatus.SUCCEEDED, artifact=artifact, seconds=0.1)

    def release_builds(self) -> None:
        self.may_build.set()
        self.wake.set()

    async def cancel(self, builder: str, build_id: str) -> None:
        self.cancelled.add(build_id)
        self.wake.set()

    async def wait_applied(self, partition: int, offset: int, service_id: str) -> tuple[str, ...]:
        return ("gateway-0",)

    async def active_requests(self, service_id: str, instances: Sequence[str]) -> int:
        return 0


def report_of(name: str, *, most: int = 1, measured: bool = False, per_node: bool = False) -> PoolReport:
    """A pool of one actor that runs."""
    return PoolReport(
        name=name, size=1, most=most, why_most="one is enough", measured=measured, per_node=per_node,
        state=PoolState(name=name), actors=[Health(name=f"{name}-0", pid=1, ready=True)], draining=[],
        partitions={}, moving=0, work=0.5,
    )  # fmt: skip


class Parts:
    """What the API asks of the platform beyond the log."""

    def __init__(self) -> None:
        self.ok = True
        self.rebuilt: list[str] = []
        self.retried: list[tuple[str, str]] = []
        self.retry_answer: str | None = ""
        self.swept = 0
        self.set_aside: list[ParkedState] = []
        self.archived: list[tuple[tuple[int, ...], bool]] = []

    async def checks(self) -> Sequence[CheckView]:
        return [CheckView(name="reconciler", ok=self.ok, found="here" if self.ok else "away")]

    async def pools(self) -> Sequence[PoolReport]:
        named = {"builder": {"most": 8, "measured": True}, "node": {"per_node": True}, "gateway": {"most": 2}}
        return [report_of(name, **what) for name, what in named.items()]

    async def parked(self) -> Sequence[ParkedState]:
        return self.set_aside

    async def log_report(self) -> LogReport:
        space = Space(quota_bytes=1 << 31, in_use=1 << 30, file=1 << 30, no_space=False)
        use = PartitionUse(
            partition=0, tail=900, first_hot=800, hot_batches=10, hot_bytes=5000, hot_events=100, segments=2,
            segment_bytes=40_000, snapshot_offset=850,
        )  # fmt: skip
        return LogReport(
            budget=Budget(quota_bytes=1 << 31),
            status=KeeperStatus(space=space, refusing=False, warned=False, last_archived_at=1_700_000_000_000_000),
            members=[],
            uses=[use],
            owners=[("supervisor-0", 3)],
            archive="/archive",
        )

    async def archive_log(self, partitions: Sequence[int], *, everything: bool) -> list[tuple[int, SegmentManifest]]:
        self.archived.append((tuple(partitions), everything))
        manifest = SegmentManifest(
            base=0, end=800, location="segments/00/x", sha256="ab" * 32, bytes=40_000, events=800, t_min=1, t_max=2,
            first_previous="", last_hash="cd" * 32,
        )  # fmt: skip
        return [(partition, manifest) for partition in partitions]

    async def sweep_artifacts(self) -> Swept:
        self.swept += 1
        return Swept(removed=1, removed_bytes=5)

    async def retry_projection(self, name: str, stream: str) -> str | None:
        self.retried.append((name, stream))
        return self.retry_answer

    async def rebuild_projection(self, name: str) -> bool:
        self.rebuilt.append(name)
        return name in ("all", "teams")
