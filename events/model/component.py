"""Component: one running thing of an app: its configuration, releases, rollout and instances, told as events.

Here is what may happen to a component in which state. What is reported of it is in `component_reports`, its cron jobs
are in `component_crons`, its events in `component_events`, what can be asked of it in `component_commands`, the state
after an event in `component_fold`, what follows by itself in `component_progress`, the words for its parts in
`component_parts`. Pure: no clock, no randomness, no I/O.
"""

from collections.abc import Callable
from typing import Any, cast

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal, host_problem, name_problem
from events.model.component_commands import (
    CancelOperation,
    ChangeSpec,
    ComponentCommand,
    CreateComponent,
    Deploy,
    DeployArtifact,
    DestroyComponent,
    PruneReleases,
    Restart,
    Rollback,
    RunTask,
    SetPlacement,
    SetRetention,
)
from events.model.component_crons import ASKED_OF_CRONS, NOTHING_RELEASED, TOO_MANY_TASKS
from events.model.component_events import (
    BuildAbandoned,
    CancelRequested,
    ComponentCreated,
    ComponentDestroyRequested,
    DeployRequested,
    PlacementSet,
    SpecChanged,
    TaskRequested,
)
from events.model.component_parts import (
    MAX_SCALE,
    MAX_TASKS,
    SECOND,
    ComponentState,
    ComponentStatus,
    Operation,
    Phase,
    RouteSpec,
    Spec,
    config_problem,
)
from events.model.component_reports import REPORTED, new_release
from events.model.component_retention import not_there, prune, set_retention
from events.model.cron import command_problem
from events.model.hosts import reserved_problem
from events.model.operation import (
    RUN,
    OperationCancelled,
    OperationStarted,
    OperationSucceeded,
)
from events.model.placement import label_problem
from events.model.route import path_problem, plain_path
from events.secrets import is_sealed

_replace = msgspec.structs.replace


TASK_SECONDS = 24 * 3600  # a command that runs once is stopped after so long
OPERATION_SECONDS = 300  # beyond build and start time-outs: what an operation may take before it ends as timed out


def decide(state: ComponentState, command: ComponentCommand, meta: Meta) -> Decision:
    """What `command` comes to in `state`: the events to append, nothing, or a refusal."""
    if isinstance(command, CreateComponent):
        return _create(state, command)
    observed = REPORTED.get(type(command))
    if observed is not None:
        return observed(state, command, meta)
    if state.status is ComponentStatus.DESTROYING and isinstance(command, DestroyComponent):
        return []
    if state.status is not ComponentStatus.ACTIVE:
        return Refusal(code="not_found", message="no such component", hint="rayfold components")
    if isinstance(command, CancelOperation):
        return _cancel(state, command, meta)
    if isinstance(command, RunTask):
        return _run_task(state, command, meta)
    of_crons = ASKED_OF_CRONS.get(type(command))
    if of_crons is not None:
        return of_crons(state, command, meta)
    if state.operation is not None and not (isinstance(command, Deploy) and _may_be_superseded(state.operation)):
        busy = state.operation
        return Refusal(
            code="conflict",
            message=f"component {state.name} is busy with operation {busy.id} ({busy.kind}, {busy.phase})",
            hint=f"wait for it (rayfold operations {busy.id}) or cancel it (rayfold operations {busy.id} --cancel)",
        )
    handler = _ASKED.get(type(command))
    if handler is None:
        raise TypeError(f"not a component command: {type(command).__name__}")
    return handler(state, command, meta)


def _create(state: ComponentState, command: CreateComponent) -> Decision:
    if state.status is ComponentStatus.ACTIVE:
        return []
    if state.status is ComponentStatus.DESTROYING:
        return Refusal(
            code="conflict", message=f"component {state.name} is being destroyed", hint="wait until it ended"
        )
    problem = name_problem("a component name", command.name)
    return problem or [ComponentCreated(**msgspec.structs.asdict(command))]


def _begin(meta: Meta, kind: str, detail: str, seconds: int = OPERATION_SECONDS) -> OperationStarted:
    deadline = meta.at + seconds * SECOND
    return OperationStarted(
        operation=meta.command_id, kind=kind, detail=detail, deadline_at=deadline, by=meta.actor, why=meta.reason
    )


def _deploy(state: ComponentState, command: Deploy, meta: Meta) -> Decision:
    what = command.source.url or command.source.digest[:12]
    build_id = f"{state.service_id}-{meta.command_id}"
    seconds = state.spec.build_timeout_seconds * 3 + state.spec.start_timeout_seconds + OPERATION_SECONDS
    return [
        *_superseded(state, meta),
        _begin(meta, "deploy", what, seconds),
        DeployRequested(operation=meta.command_id, build_id=build_id, source=command.source),
    ]


def _may_be_superseded(operation: Operation) -> bool:
    """While its build waits for a builder nothing was done yet that a newer deploy would not do anew."""
    return operation.phase is Phase.BUILDING and not operation.build_begun


def _superseded(state: ComponentState, meta: Meta) -> list[Event]:
    """The end of the deploy that still waits for a builder, in favour of the newer one."""
    older = state.operation
    if older is None:
        return []
    reason = f"superseded by the newer deploy {meta.command_id}: its build had not begun"
    return [BuildAbandoned(build_id=older.build_id), OperationCancelled(operation=older.id, reason=reason)]


def _deploy_artifact(state: ComponentState, command: DeployArtifact, meta: Meta) -> Decision:
    spec = _changed_spec(state, command.change) if command.change else state.spec
    if isinstance(spec, Refusal):
        return spec
    seconds = spec.start_timeout_seconds + OPERATION_SECONDS
    started = _begin(meta, "deploy", command.artifact.digest[:12], seconds)
    return [
        _replace(
            started,
            parent=command.parent,
            parent_stream=command.parent_stream,
            release_step=command.release_step and bool(command.artifact.release_command),
        ),
        new_release(state, meta.command_id, command.artifact, spec, meta),
    ]


def _change_spec(state: ComponentState, command: ChangeSpec, meta: Meta) -> Decision:
    changed = _changed_spec(state, command)
    if isinstance(changed, Refusal):
        return changed
    if changed == state.spec:
        return []
    kind, detail = _kind_of_change(command)
    live = state.releases.get(state.current)
    if live is None:
        started = _begin(meta, kind, detail)
        done = OperationSucceeded(operation=meta.command_id, detail="takes effect with the first deploy")
        return [started, SpecChanged(spec=changed), done]
    seconds = state.spec.start_timeout_seconds + OPERATION_SECONDS
    return [
        _begin(meta, kind, detail, seconds),
        new_release(state, meta.command_id, live.artifact, changed, meta),
    ]


def _changed_spec(state: ComponentState, command: ChangeSpec) -> Spec | Refusal:
    spec = state.spec
    for key, value in command.config_set.items():
        if problem := config_problem(key, value) or _unsealing(spec, key, value):
            return problem
    config = {k: v for k, v in {**spec.config, **command.config_set}.items() if k not in command.config_unset}
    scale = spec.scale if command.scale is None else command.scale
    if not 0 <= scale <= MAX_SCALE:
        return Refusal(code="invalid", message=f"expected a scale from 0 to {MAX_SCALE}, found {scale}")
    routes = _changed_routes(state, command)
    if isinstance(routes, Refusal):
        return routes
    stopped = spec.stopped if command.stopped is None else command.stopped
    changed = _replace(spec, config=config, scale=scale, routes=routes, stopped=stopped)
    return changed.with_settings(command.settings)


def _changed_routes(state: ComponentState, command: ChangeSpec) -> tuple[RouteSpec, ...] | Refusal:
    had = {*state.spec.routes}
    # What it has it keeps, also a host that an older version let it have.
    fresh = [r for r in command.routes_add if r not in had]
    for route in fresh:
        problem = host_problem(route.host) or path_problem(route.path)
        if problem := problem or reserved_problem(route.host, team=state.team, app=state.app):
            return problem
    removed = {r if r in had else _plain(r) for r in command.routes_remove}
    if unknown := sorted(removed - had):
        return Refusal(code="not_found", message=f"no route {unknown[0].host}{unknown[0].path} on this component")
    # Its automatic host it has by itself.
    added = {_plain(r) for r in fresh} - {*state.spec.all_routes()}
    return tuple(sorted((had | added) - removed))


def _plain(route: RouteSpec) -> RouteSpec:
    """Spelled as the gateway has it: spelled otherwise, an address that is taken would be free to claim."""
    return _replace(route, path=plain_path(route.path))


def _unsealing(spec: Spec, key: str, value: str) -> Refusal | None:
    """What was once a secret must not get into the log readable because a flag was forgotten."""
    if is_sealed(value) or not is_sealed(spec.config.get(key, "")):
        return None
    hint = f"set it as a secret (config set --secret {key}=…), or unset it first to make it readable"
    return Refusal(code="conflict", message=f"{key} is a secret, and this value was not given as one", hint=hint)


def _set_placement(state: ComponentState, command: SetPlacement, meta: Meta) -> Decision:
    asked = command.placement
    for key, value in asked.require.items():
        if problem := label_problem(key, value):
            return problem
    if asked.spread and (problem := label_problem(asked.spread, "")):
        return problem
    return [] if asked == state.placement else [PlacementSet(placement=asked)]


def _kind_of_change(command: ChangeSpec) -> tuple[str, str]:
    if command.scale is not None:
        return "scale", f"to {command.scale}"
    if command.stopped is not None:
        return ("stop", "") if command.stopped else ("start", "")
    if command.routes_add or command.routes_remove:
        names = [f"+{r.host}{r.path}" for r in command.routes_add]
        return "routes", " ".join(names + [f"-{r.host}{r.path}" for r in command.routes_remove])
    if command.settings:
        return "settings", " ".join(sorted(command.settings))
    keys = [*sorted(command.config_set), *(f"-{k}" for k in sorted(command.config_unset))]
    return "config", " ".join(keys)


def _restart(state: ComponentState, command: Restart, meta: Meta) -> Decision:
    live = state.releases.get(state.current)
    if live is None:
        return Refusal(code="conflict", message="nothing is released yet", hint="rayfold deploy")
    seconds = state.spec.start_timeout_seconds + OPERATION_SECONDS
    spec = _replace(state.spec, restart_nonce=meta.command_id)
    return [
        _begin(meta, "restart", f"v{live.number}", seconds),
        new_release(state, meta.command_id, live.artifact, spec, meta),
    ]


def _rollback(state: ComponentState, command: Rollback, meta: Meta) -> Decision:
    born_here = [n for n in state.releases if n > state.born_after]
    to = command.to or state.previous_release()
    if to == 0:
        return Refusal(code="conflict", message="there is no earlier release to go back to", hint="rayfold releases")
    if to not in born_here:
        return not_there(state, to)
    if to == state.current:
        return Refusal(code="conflict", message=f"v{to} is the current release already", hint="rayfold releases")
    target = state.releases[to]
    seconds = state.spec.start_timeout_seconds + OPERATION_SECONDS
    return [
        _begin(meta, "rollback", f"to v{to}", seconds),
        new_release(state, meta.command_id, target.artifact, target.spec, meta, rollback_of=to),
    ]


def _run_task(state: ComponentState, command: RunTask, meta: Meta) -> Decision:
    if state.current == 0:
        return NOTHING_RELEASED
    if problem := command_problem(command.command):
        return problem
    if len(state.tasks) >= MAX_TASKS:
        return TOO_MANY_TASKS
    started = _begin(meta, RUN, command.command[:200], TASK_SECONDS)
    asked = TaskRequested(operation=meta.command_id, command=command.command, end_by=started.deadline_at)
    return [started, asked]


def _cancel(state: ComponentState, command: CancelOperation, meta: Meta) -> Decision:
    operation = state.operation
    if command.operation in state.tasks:
        return [OperationCancelled(operation=command.operation, reason=meta.reason or "cancelled by user")]
    if operation is None or operation.id != command.operation:
        return Refusal(code="conflict", message=f"operation {command.operation[:60]} is not running here",
                       hint="rayfold operations")  # fmt: skip
    if operation.phase in (Phase.SWITCHED, Phase.SIBLINGS, Phase.DONE) or operation.kind == "destroy":
        return Refusal(code="conflict", message="too late to cancel: the new release takes the traffic already",
                       hint="rayfold rollback")  # fmt: skip
    if operation.cancel_reason:
        return []
    return [CancelRequested(operation=operation.id, reason=meta.reason or "cancelled by user")]


def _destroy(state: ComponentState, command: DestroyComponent, meta: Meta) -> Decision:
    return [_begin(meta, "destroy", state.name), ComponentDestroyRequested(operation=meta.command_id)]


_Decider = Callable[[ComponentState, Any, Meta], Decision]


_ASKED = cast(
    "dict[type[Command], _Decider]",
    {
        Deploy: _deploy,
        DeployArtifact: _deploy_artifact,
        ChangeSpec: _change_spec,
        SetPlacement: _set_placement,
        PruneReleases: prune,
        SetRetention: set_retention,
        Restart: _restart,
        Rollback: _rollback,
        DestroyComponent: _destroy,
    },
)
