"""How each effect is carried out, and how its outcome comes back as a command to the stream that owed it.

Every method may run twice, may be cut off on any line, and may be run by an owner that is none any more: effects are
named by their intent, and a stale owner's outcome is refused by the log's fence.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import msgspec

from actors.ports import CommandPort
from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from actors.supervisor.orders import BuilderPort, BuildOrder, GatewayPort, KeyPort, NodePort, StartOrder
from events.failpoints import failpoint
from events.model import app, build, component_commands, node, route, team
from events.model.base import Command, Envelope, Reply, service_id_of
from events.model.build import BuildState
from events.model.component_parts import ComponentState, Instance, Operation, RouteSpec, Spec
from events.model.component_progress import Effect, claim_of, surplus_claims, unclaimed_routes
from events.model.registry import encode_command
from events.secrets import is_sealed
from events.secrets.errors import SecretError

DRAIN_POLL_SECONDS = 0.05
DRAIN_QUIET_POLLS = 2  # polls in a row without a request before an endpoint counts as drained


class EffectFailed(Exception):
    """An effect's outcome could not be told; the effect will be run again."""


class Effects:
    """Carries out the effects of every aggregate through the ports it is given."""

    def __init__(
        self, *, commands: CommandPort, nodes: NodePort, builders: BuilderPort, gateways: GatewayPort, keys: KeyPort
    ) -> None:
        self._commands = commands
        self._nodes = nodes
        self._builders = builders
        self._gateways = gateways
        self._keys = keys
        self._by_kind: dict[str, Callable[[PartitionEngine, Entity, str], Awaitable[None]]] = {
            "start": self._start,
            "stop": self._stop,
            "await-build": self._await_build,
            "cancel-build": self._cancel_build,
            "abandon-build": self._abandon_build,
            "claim": self._claim,
            "free": self._free,
            "wait-applied": self._wait_applied,
            "wait-drained": self._wait_drained,
            "sibling": self._sibling,
            "tell-parent": self._tell_parent,
            "deregister": self._deregister,
            "run-build": self._run_build,
            "cancel-running-build": self._cancel_running_build,
            "destroy-component": self._destroy_component,
            "destroy-key": self._destroy_key,
            "tell-node": self._tell_node,
        }

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        """Carry out one effect; see `Effect` for the kinds. Raises when it must be tried again."""
        await self._by_kind[effect.kind](engine, entity, effect.key)

    # --- instances ----------------------------------------------------------------------------------------------------

    async def _start(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        instance = state.instances.get(key)
        if instance is None:
            return  # it ended while this effect waited for its turn
        order = start_order(state, instance)
        try:
            # Not a line earlier: what is opened here is in clear in this order and nowhere else.
            config = await self._keys.open_all(state.team, entity.stream, order.config)
        except SecretError as error:
            await self._cannot_start(engine, entity, instance, str(error))
            return
        failpoint("effects.before-start")
        started = await self._nodes.start(instance.node, msgspec.structs.replace(order, config=config))
        failpoint("effects.after-start")
        report = component_commands.ReportStarted(instance=key, host=started.host, port=started.port, pid=started.pid)
        await _tell(engine, entity.stream, report)

    async def _cannot_start(self, engine: PartitionEngine, entity: Entity, instance: Instance, reason: str) -> None:
        # An earlier owner may have started it and died before it could say so: it must not run on unseen.
        await self._nodes.stop(instance.node, instance.id, 0)
        failpoint("effects.cannot-start")
        report = component_commands.ReportExited(instance=instance.id, exit_code=-1, reason=reason)
        await _tell(engine, entity.stream, report)

    async def _stop(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        instance = state.instances.get(key)
        if instance is None:
            return  # it ended while this effect waited for its turn
        spec = state.releases[instance.release].spec
        failpoint("effects.before-stop")
        ended = await self._nodes.stop(instance.node, key, spec.grace_seconds)
        failpoint("effects.after-stop")
        report = component_commands.ReportExited(instance=key, exit_code=ended.exit_code, signal=ended.signal)
        await _tell(engine, entity.stream, report)

    # --- builds -------------------------------------------------------------------------------------------------------

    async def _await_build(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        operation = state.operation
        if operation is None or operation.source is None:
            return
        request = build.RequestBuild(
            build_id=key,
            service_id=state.service_id,
            team=state.team,
            app=state.app,
            component=state.name,
            operation=operation.id,
            source=operation.source,
            timeout_seconds=state.spec.build_timeout_seconds,
        )
        stream = f"build/{key}"
        await _tell(engine, stream, request, command_id=f"{key}.request", operation=operation.id)
        failpoint("effects.build-requested")
        begun = cast("BuildState", await engine.until(stream, _begun_or_ended))
        if not begun.ended:
            report = component_commands.ReportBuildBegun(build_id=key)
            await _tell(engine, entity.stream, report, command_id=f"{key}.begun", operation=operation.id)
            failpoint("effects.build-begun")
        ended = cast("BuildState", await engine.until(stream, lambda s: cast("BuildState", s).ended))
        failpoint("effects.build-ended")
        finish = component_commands.FinishDeployBuild(
            build_id=key,
            artifact=ended.artifact,
            status=ended.status.value,
            code=ended.code,
            reason=ended.reason,
            lines=ended.lines,
        )
        await _tell(engine, entity.stream, finish, command_id=f"{key}.finish", operation=operation.id)

    async def _cancel_build(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        reason = state.operation.cancel_reason if state.operation else "cancelled"
        await _tell(engine, f"build/{key}", build.CancelBuild(reason=reason), refusable=True)

    async def _abandon_build(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        # One that was never requested is not requested any more: the effect that would have is cut off, and its
        # successors do not owe it.
        reason = "nobody waits for it any more: its deploy ended before it"
        await _tell(engine, f"build/{key}", build.CancelBuild(reason=reason), refusable=True)
        failpoint("effects.build-abandoned")
        await _tell(engine, entity.stream, component_commands.ReportAbandonedTold(build_id=key))

    async def _run_build(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        # Asked for again by every owner: the queue has it, or a builder at work on it, or it begins anew.
        await self._builders.request(build_order(cast("BuildState", entity.state)))
        failpoint("effects.build-queued")
        await engine.until(entity.stream, lambda s: cast("BuildState", s).ended)

    async def _cancel_running_build(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("BuildState", entity.state)
        await self._builders.cancel(state.builder, key)
        failpoint("effects.build-cancelled")

    # --- routes and gateways ------------------------------------------------------------------------------------------

    async def _claim(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        claimed: list[RouteSpec] = []
        refused = ""
        for wanted in unclaimed_routes(state):
            reply = await self._send(route.route_stream(wanted.host, wanted.path), claim_of(state, wanted))
            if reply.refusal is not None:
                refused = reply.refusal.message
                break
            claimed.append(wanted)
        failpoint("effects.claimed")
        await _tell(engine, entity.stream, component_commands.ReportClaims(routes=tuple(claimed), refused=refused))

    async def _free(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        surplus = surplus_claims(state)
        for one in surplus:
            release = route.ReleaseRoute(service_id=state.service_id, as_of=state.version)
            await self._send(route.route_stream(one.host, one.path), release)
        failpoint("effects.freed")
        await _tell(engine, entity.stream, component_commands.ReportFreed(routes=surplus))

    async def _wait_applied(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        service_id = cast("ComponentState", entity.state).service_id
        gateways = await self._gateways.wait_applied(engine.partition, entity.last_offset, service_id)
        failpoint("effects.applied")
        await _tell(engine, entity.stream, component_commands.ReportApplied(version=int(key), gateways=gateways))

    async def _wait_drained(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        instances = key.split(",")
        await self._gateways.wait_applied(engine.partition, entity.last_offset, state.service_id)
        timed_out = not await self._drained(state.service_id, instances, state.spec.drain_seconds)
        failpoint("effects.drained")
        report = component_commands.ReportDrained(instances=tuple(instances), timed_out=timed_out)
        await _tell(engine, entity.stream, report)

    async def _drained(self, service_id: str, instances: Sequence[str], seconds: float) -> bool:
        until = time.monotonic() + seconds
        quiet = 0
        while time.monotonic() < until:
            quiet = quiet + 1 if await self._gateways.active_requests(service_id, instances) == 0 else 0
            if quiet >= DRAIN_QUIET_POLLS:
                return True
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        return False

    # --- other components ---------------------------------------------------------------------------------------------

    async def _sibling(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        operation = state.operation
        if operation is None:
            return
        artifact = state.releases[operation.release].artifact
        service_id = service_id_of(state.team, state.app, key)
        stream, sibling = f"component/{service_id}", f"{operation.id}-{key}"
        register = app.RegisterComponent(name=key, service_id=service_id)
        create = component_commands.CreateComponent(
            service_id=service_id, team=state.team, app=state.app, name=key, process=key, spec=Spec()
        )
        deploy = component_commands.DeployArtifact(artifact=artifact, parent=operation.id, parent_stream=entity.stream)
        for target, command, ident in (
            (f"app/{state.team}.{state.app}", register, f"{sibling}.reg"),
            (stream, create, f"{sibling}.create"),
            (stream, deploy, sibling),
        ):
            reply = await self._send(target, command, command_id=ident, operation=sibling, asked=operation)
            if reply.refusal is not None:
                reason = reply.refusal.message
                report = component_commands.ReportSibling(process=key, succeeded=False, reason=reason)
                await _tell(engine, entity.stream, report)
                return
            failpoint(f"effects.sibling-{type(command).__name__}")
        # The sibling tells us itself when it has ended (`tell-parent`); asking again is answered from the ledger.

    async def _tell_parent(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        ending = state.reports.get(key)
        if ending is None:
            return  # it was told while this effect waited for its turn
        report = component_commands.ReportSibling(
            process=state.process, succeeded=ending.succeeded, reason=ending.reason
        )
        await self._send(ending.stream, report, command_id=f"{key}.ended")
        failpoint("effects.parent-told")
        await _tell(engine, entity.stream, component_commands.ReportParentTold(operation=key), operation=key)

    async def _deregister(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("ComponentState", entity.state)
        # An id of its own, so that a late word of this does not take a later component of the same name away.
        ident = f"{entity.stream}@{state.version}.gone"
        await self._send(f"app/{state.team}.{state.app}", app.DeregisterComponent(name=state.name), command_id=ident)
        failpoint("effects.deregistered")
        await _tell(engine, entity.stream, component_commands.ReportDeregistered())

    async def _destroy_component(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("app.AppState", entity.state)
        service_id = state.components.get(key)
        if service_id is None:
            return  # it went while this effect waited for its turn
        reply = await self._send(f"component/{service_id}", component_commands.DestroyComponent())
        failpoint("effects.destroy-sent")
        if reply.refusal is not None and reply.refusal.code == "not_found":
            await _tell(engine, entity.stream, app.DeregisterComponent(name=key))

    async def _tell_node(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        name = cast("node.NodeState", entity.state).name
        await self._nodes.strike(name, gone=key == "gone")
        failpoint("effects.node-struck")
        if key != "gone":
            await self._nodes.tell(name, leaving=key == "drain")
        await _tell(engine, entity.stream, node.ReportNodeTold(wish=key))

    async def _destroy_key(self, engine: PartitionEngine, entity: Entity, key: str) -> None:
        state = cast("team.TeamState", entity.state)
        doomed = state.doomed_keys.get(key)
        if doomed is None:
            return  # it was destroyed while this effect waited for its turn
        await self._keys.destroy(state.name, key, by=doomed.by, reason=doomed.why)
        failpoint("effects.key-destroyed")
        await _tell(engine, entity.stream, team.ReportKeyDestroyed(key_id=key))

    async def _send(
        self,
        stream: str,
        command: Command,
        *,
        command_id: str = "",
        operation: str = "",
        asked: Operation | None = None,
    ) -> Reply:
        """Send to a stream of whatever partition; in the name of whoever asked for the operation `asked`."""
        envelope = _envelope(stream, command, command_id, operation)
        if asked is not None:
            envelope = msgspec.structs.replace(envelope, actor=asked.by or envelope.actor, reason=asked.why)
        [reply] = await self._commands.submit([envelope])
        if reply.error:
            raise EffectFailed(f"{stream}: {reply.error}: {reply.error_message}")
        return reply


def _begun_or_ended(state: msgspec.Struct) -> bool:
    found = cast("BuildState", state)
    return found.ended or found.status is build.BuildStatus.RUNNING


def start_order(state: ComponentState, instance: Instance) -> StartOrder:
    """The order that starts `instance` as its release says."""
    release = state.releases[instance.release]
    spec = release.spec
    return StartOrder(
        instance=instance.id,
        service_id=state.service_id,
        team=state.team,
        app=state.app,
        component=state.name,
        release=release.number,
        slot=instance.slot,
        kind=instance.kind.value,
        command=instance.command,
        artifact=release.artifact.digest,
        config=spec.config,
        secrets=tuple(name for name, value in spec.config.items() if is_sealed(value)),
        http=spec.http,
        probe_path=spec.probe_path,
        start_timeout_seconds=spec.start_timeout_seconds,
        grace_seconds=spec.grace_seconds,
        memory_bytes=spec.memory_bytes,
        open_files=spec.open_files,
        processes=spec.processes,
        operation=state.operation.id if state.operation else "",
    )


def build_order(state: BuildState) -> BuildOrder:
    """What waits in the queue for a builder."""
    assert state.source is not None  # noqa: S101 -- a build is requested with its source
    return BuildOrder(
        build_id=state.build_id,
        attempts=state.attempt,
        service_id=state.service_id,
        team=state.team,
        app=state.app,
        component=state.component,
        source=state.source,
        timeout_seconds=state.timeout_seconds,
        operation=state.operation,
    )


def _envelope(stream: str, command: Command, command_id: str, operation: str) -> Envelope:
    ident = command_id or f"{type(command).__name__}.{secrets.token_hex(8)}"
    return Envelope(stream=stream, command=encode_command(command), command_id=ident, correlation_id=operation)


async def _tell(
    engine: PartitionEngine,
    stream: str,
    command: Command,
    *,
    command_id: str = "",
    operation: str = "",
    refusable: bool = False,
) -> None:
    """Bring an outcome home to a stream of the same partition; raises EffectFailed when it did not arrive."""
    reply = await engine.handle(_envelope(stream, command, command_id, operation))
    if reply.error or (reply.refusal is not None and not refusable):
        why = reply.error_message or (reply.refusal.message if reply.refusal else "")
        raise EffectFailed(f"{stream}: {type(command).__name__} did not arrive: {why}")
