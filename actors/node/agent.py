"""NodeAgent without Ray: starts and stops this node's instances, probes them, and reports until it was heard.

What runs is read from the runtime, what was ordered from files beside it, so an agent that starts again takes up every
instance where the last one left it. It decides nothing: whether an exit is a crash is the component's story.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from actors.builder.artifacts import ImageRun
from actors.ports import CommandPort
from actors.runtime.errors import InstanceNotFound
from actors.runtime.port import (
    ExitCause,
    ImageSpec,
    InstanceKind,
    InstanceSpec,
    InstanceState,
    InstanceStatus,
    Limits,
    Runtime,
    Statuses,
)
from actors.runtime.probe import AliveProbe, HttpProbe, Probe, TcpProbe, check, wait_ready
from actors.supervisor.orders import Ended, Known, Started, StartOrder
from events.failpoints import failpoint
from events.model import component_commands
from events.model.base import Command, Envelope
from events.model.registry import encode_command

log = structlog.get_logger("node")

LIVENESS_SECONDS = 2.0
LIVENESS_FAILURES = 3  # probes in a row before an instance counts as unready
ALIVE_SECONDS = 0.5  # a process without a port is ready when it has run this long
REPORT_RETRY_FIRST_SECONDS = 0.1
REPORT_RETRY_MAX_SECONDS = 2.0
LINES_THAT_MATTER = 20
REMEMBERED_SECONDS = 24 * 3600.0  # how long an order to start what was stopped already is known to be late
_OVER = (InstanceState.EXITED, InstanceState.LOST)


class AlreadyOver(Exception):
    """An order to start an instance that was stopped here before: it is late, and nothing will run."""


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact laid out on this node: where to run it and what its runtime needs in the environment.

    `image`: it is a container image, which is here now.
    """

    path: str
    env: dict[str, str]
    image: ImageRun | None = None


class Artifacts(Protocol):
    """Lays artifacts out on this node."""

    async def prepare(self, digest: str, team: str, app: str) -> Prepared:
        """Idempotent. Raises when the artifact is not to be had or is damaged."""
        ...


class Agent:
    """One per node. `open` first, then `run` as one long task."""

    def __init__(
        self, *, name: str, runtime: Runtime, artifacts: Artifacts, commands: CommandPort, orders: Path
    ) -> None:
        self.name = name
        self._runtime = runtime
        self._artifacts = artifacts
        self._commands = commands
        self._orders = orders
        self._known: dict[str, StartOrder] = {}
        self._tending: dict[str, asyncio.Task[None]] = {}
        self._over: dict[str, asyncio.Event] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._changes: AsyncIterator[Statuses] | None = None
        self.finished: asyncio.Queue[str] = asyncio.Queue()
        """Instances whose end was reported: their output may be collected to the end and their directory removed."""

    async def open(self) -> None:
        """Adopt what runs here and go on watching it."""
        self._orders.mkdir(parents=True, exist_ok=True)
        # Before the first look: what ends between that look and `run` must be heard of too.
        self._changes = self._runtime.watch()
        statuses = await self._runtime.open()
        await asyncio.to_thread(self._tidy, {status.instance_id for status in statuses})
        for status in statuses:
            order = await asyncio.to_thread(self._read_order, status.instance_id)
            if order is not None:
                self._adopt(order, status)
        log.info("agent is open", node=self.name, adopted=len(self._known))

    async def run(self) -> None:
        """Tell the watchers of instances that ended. For ever."""
        assert self._changes is not None  # noqa: S101 -- opened
        async for statuses in self._changes:
            for status in statuses:
                if status.state in _OVER and status.instance_id in self._over:
                    self._over[status.instance_id].set()

    async def close(self) -> None:
        """Stop watching; instances go on."""
        for task in self._tending.values():
            task.cancel()
        await asyncio.gather(*self._tending.values(), return_exceptions=True)
        await self._runtime.close()

    # --- orders -------------------------------------------------------------------------------------------------------

    async def start(self, order: StartOrder) -> Started:
        """Start an instance, or say where the one that runs listens. Idempotent by `order.instance`.

        Raises AlreadyOver for one that was stopped: an owner that is none any more may send its order very late.
        """
        async with self._start_of(order.instance):
            await asyncio.to_thread(self._refuse_if_over, order.instance)
            await asyncio.to_thread(self._write_order, order)
            failpoint("node.order-written")
        prepared = await self._artifacts.prepare(order.artifact, order.team, order.app)
        async with self._start_of(order.instance):
            # Again, for it may have been stopped while its artifact was laid out.
            await asyncio.to_thread(self._refuse_if_over, order.instance)
            status = await self._runtime.start(_spec(order, prepared))
            failpoint("node.started")
            self._adopt(order, status)
        return Started(host=status.host, port=status.port or 0, pid=status.pid or 0)

    async def stop(self, instance: str, grace_seconds: float) -> Ended:
        """Stop an instance; one that is not here is stopped."""
        await asyncio.to_thread(self._mark_over, instance)
        failpoint("node.marked-over")
        async with self._start_of(instance):
            pass  # what began to start before the mark has started, and is stopped now
        try:
            status = await self._runtime.stop(instance, grace_seconds)
        except InstanceNotFound:
            self._starting.pop(instance, None)
            await asyncio.to_thread(self._order_path(instance).unlink, missing_ok=True)
            return Ended(exit_code=-1)
        failpoint("node.stopped")
        return Ended(exit_code=_exit_code(status), signal=status.signal or 0)

    async def settle(self, known: Sequence[Known]) -> list[str]:
        """Stop what the log holds for over: it was started elsewhere while this node was cut off. Returns which."""
        by_service = {each.service_id: each for each in known}
        strays = [order for order in self.running() if _is_over(order, by_service.get(order.service_id))]
        for order in strays:
            await self.stop(order.instance, order.grace_seconds)
        return [order.instance for order in strays]

    async def unknown(self, instances: Sequence[str]) -> list[str]:
        """Those of `instances` that this node knows nothing of."""
        here = {status.instance_id for status in await self._runtime.list()}
        return [i for i in instances if i not in here]

    async def forget(self, instance: str) -> None:
        """Remove what an ended instance left, once its output has been collected."""
        await asyncio.to_thread(self._mark_over, instance)
        self._known.pop(instance, None)
        self._over.pop(instance, None)
        self._starting.pop(instance, None)
        await self._runtime.remove(instance)
        failpoint("node.removed")
        await asyncio.to_thread(self._order_path(instance).unlink, missing_ok=True)

    def running(self) -> list[StartOrder]:
        """The orders of the instances that are here now."""
        return list(self._known.values())

    def _start_of(self, instance: str) -> asyncio.Lock:
        return self._starting.setdefault(instance, asyncio.Lock())

    def _over_path(self, instance: str) -> Path:
        return self._orders / f"{instance}.over"

    def _mark_over(self, instance: str) -> None:
        self._over_path(instance).touch(mode=0o600)

    def _refuse_if_over(self, instance: str) -> None:
        if self._over_path(instance).exists():
            raise AlreadyOver(f"expected an order for an instance to come, found {instance}, which is over already")

    def _tidy(self, here: set[str]) -> None:
        """Orders of what never started will be sent again; marks of what is long over are of no use."""
        for path in self._orders.glob("*.order"):
            if path.stem not in here:
                path.unlink()
        forgotten = time.time() - REMEMBERED_SECONDS
        for path in self._orders.glob("*.over"):
            if path.stat().st_mtime < forgotten:
                path.unlink()

    def _order_path(self, instance: str) -> Path:
        return self._orders / f"{instance}.order"

    def _write_order(self, order: StartOrder) -> None:
        path = self._order_path(order.instance)
        draft = path.with_suffix(".draft")
        draft.touch(mode=0o600)
        # Without the configuration: an adopted instance has it already, and secrets are in clear in it.
        draft.write_bytes(msgspec.msgpack.encode(msgspec.structs.replace(order, config={})))
        draft.replace(path)

    def _read_order(self, instance: str) -> StartOrder | None:
        try:
            return msgspec.msgpack.decode(self._order_path(instance).read_bytes(), type=StartOrder)
        except FileNotFoundError:
            return None

    # --- watching -----------------------------------------------------------------------------------------------------

    def _adopt(self, order: StartOrder, status: InstanceStatus) -> None:
        self._known[order.instance] = order
        over = self._over.setdefault(order.instance, asyncio.Event())
        if status.state in _OVER:
            over.set()
        self._begin_to_tend(order)

    def _begin_to_tend(self, order: StartOrder) -> None:
        if order.instance in self._known and order.instance not in self._tending:
            task = asyncio.get_running_loop().create_task(self._tend(order))
            self._tending[order.instance] = task
            task.add_done_callback(lambda done: self._tended(order.instance, done))

    def _tended(self, instance: str, done: asyncio.Task[None]) -> None:
        self._tending.pop(instance, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("watching an instance failed", instance=instance, error=f"{type(error).__name__}: {error}")
            order = self._known.get(instance)
            if order is not None:
                asyncio.get_running_loop().call_later(REPORT_RETRY_MAX_SECONDS, self._begin_to_tend, order)

    async def _tend(self, order: StartOrder) -> None:
        """Probe until the end, then report the end. Everything is reported again until a supervisor took it."""
        over = self._over[order.instance]
        watching = asyncio.create_task(self._keep_watching(order)) if order.kind == "service" else None
        try:
            await over.wait()
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        status = await self._runtime.status(order.instance)
        lines = await self._runtime.last_lines(order.instance, LINES_THAT_MATTER)
        report = component_commands.ReportExited(
            instance=order.instance,
            exit_code=_exit_code(status),
            signal=status.signal or 0,
            reason=_reason(status),
            lines=tuple(lines),
        )
        failpoint("node.exit-seen")
        await self._report(order, report, command_id=f"{order.instance}.exited")
        failpoint("node.exit-told")
        self.finished.put_nowait(order.instance)

    async def _keep_watching(self, order: StartOrder) -> None:
        """An instance whose watch broke off would never be ready, or unready, again."""
        while True:
            try:
                return await self._watch_health(order)
            except Exception as error:
                log.error("watching an instance's health failed, will be tried again", instance=order.instance,
                          error=f"{type(error).__name__}: {error}")  # fmt: skip
                await asyncio.sleep(REPORT_RETRY_MAX_SECONDS)

    async def _watch_health(self, order: StartOrder) -> None:
        probe = _probe(order)
        first = await wait_ready(
            self._runtime, order.instance, probe, timeout_seconds=float(order.start_timeout_seconds)
        )
        if first.over:
            return
        ready = first.ready
        failpoint("node.ready-seen")
        await self._report_health(order, ready, first.detail)
        if isinstance(probe, AliveProbe):
            return
        failures = 0
        while True:
            await asyncio.sleep(LIVENESS_SECONDS)
            status = await self._runtime.status(order.instance)
            result = await check(probe, host=status.host, port=status.port or 0)
            failures = 0 if result.ready else failures + 1
            if result.ready != ready and (result.ready or failures >= LIVENESS_FAILURES):
                ready = result.ready
                await self._report_health(order, ready, result.detail)

    async def _report_health(self, order: StartOrder, ready: bool, detail: str) -> None:
        if ready:
            status = await self._runtime.status(order.instance)
            report: Command = component_commands.ReportReady(
                instance=order.instance, host=status.host, port=status.port or 0, pid=status.pid or 0
            )
        else:
            lines = await self._runtime.last_lines(order.instance, LINES_THAT_MATTER)
            report = component_commands.ReportUnready(instance=order.instance, reason=detail, lines=tuple(lines))
        await self._report(order, report, command_id=f"{order.instance}.health.{secrets.token_hex(6)}")

    async def _report(self, order: StartOrder, report: Command, *, command_id: str) -> None:
        envelope = Envelope(
            stream=f"component/{order.service_id}",
            command=encode_command(report),
            command_id=command_id,
            actor=f"node:{self.name}",
        )
        wait = REPORT_RETRY_FIRST_SECONDS
        while True:
            [reply] = await self._commands.submit([envelope])
            if not reply.error:
                return
            log.info("report not taken yet", instance=order.instance, error=reply.error_message)
            await asyncio.sleep(wait)
            wait = min(wait * 2, REPORT_RETRY_MAX_SECONDS)


def _is_over(order: StartOrder, known: Known | None) -> bool:
    """Only of instances that whoever asks knows of: it may be an owner that is none any more."""
    if known is None or order.instance in known.alive:
        return False
    return int(order.instance.rpartition("-")[2]) <= known.started


def _spec(order: StartOrder, prepared: Prepared) -> InstanceSpec:
    own = {
        "RAYFOLD_APP": order.app,
        "RAYFOLD_TEAM": order.team,
        "RAYFOLD_COMPONENT": order.component,
        "RAYFOLD_SERVICE_ID": order.service_id,
        "RAYFOLD_INSTANCE": f"{order.component}.{order.slot}" if order.slot else order.kind,
        "RAYFOLD_INSTANCE_ID": order.instance,
        "RAYFOLD_RELEASE": str(order.release),
        "RAYFOLD_MEMORY_BYTES": str(order.memory_bytes),
    }
    service = order.kind == "service"
    return InstanceSpec(
        instance_id=order.instance,
        service_id=order.service_id,
        team=order.team,
        app=order.app,
        component=order.component,
        release=order.release,
        kind=InstanceKind.SERVICE if service else InstanceKind.TASK,
        command=order.command,
        artifact_path=prepared.path,
        image=_image(order, prepared.image) if prepared.image else None,
        env={**prepared.env, **order.config, **own},
        secrets=order.secrets,
        wants_port=order.http and service,
        limits=Limits(memory_bytes=order.memory_bytes, open_files=order.open_files, processes=order.processes),
        grace_seconds=float(order.grace_seconds),
        correlation_id=order.operation,
    )


def _image(order: StartOrder, image: ImageRun) -> ImageSpec:
    return ImageSpec(reference=image.reference, port=image.port, as_is=order.command == image.command)


def _probe(order: StartOrder) -> Probe:
    if not order.http:
        return AliveProbe(seconds=ALIVE_SECONDS)
    return HttpProbe(path=order.probe_path) if order.probe_path else TcpProbe()


def _exit_code(status: InstanceStatus) -> int:
    if status.exit_code is not None:
        return status.exit_code
    return 128 + status.signal if status.signal is not None else -1


def _reason(status: InstanceStatus) -> str:
    if status.reason:
        return status.reason
    if status.cause is ExitCause.LOST:
        return "it is gone and nobody saw how"
    return f"exit code {_exit_code(status)}"
