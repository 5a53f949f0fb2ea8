"""Rows of the read models as the interface shows them: names of its own, ISO times, absent for "not yet".

Pure; it knows the two shapes and nothing of SQL or of requests.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from pydantic import BaseModel, JsonValue

from api.http import schema as s
from api.http import schema_story as story
from api.http.call import at_time, to_time
from api.http.schema_platform import NodeView
from events.model.component_parts import SETTINGS, Spec
from events.secrets import mask
from projections import views as v

Row = TypeVar("Row")
Shown = TypeVar("Shown", bound=BaseModel)


def page(found: v.Page[Row], show: Callable[[Row], Shown]) -> s.Page[Shown]:
    """A page, row by row."""
    return s.Page(items=[show(row) for row in found.items], next_cursor=found.next_cursor or None)


def changes(before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> list[s.Change]:
    """What differs, by path."""
    return [
        s.Change(path=path, before=before.get(path), after=after.get(path))
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def url_of(host: str, path: str, gateway_port: int) -> str:
    """Where a browser on this machine reaches an address through the gateway."""
    port = "" if gateway_port in (0, 80) else f":{gateway_port}"
    return f"http://{host}{port}{path}"


def settings_of(spec: Spec) -> dict[str, str]:
    """The settings by name, as ChangeComponent takes them."""
    return {"probe_path": spec.probe_path, **{name: str(getattr(spec, name)) for name in sorted(SETTINGS)}}


def team(row: v.TeamView, tokens: Sequence[str]) -> s.TeamView:
    return s.TeamView(team=row.name, status=row.status, tokens=list(tokens), created_at=to_time(row.created_at))


def app(row: v.AppView) -> s.AppView:
    return s.AppView(
        team=row.team,
        app=row.name,
        status=row.status,
        components=sorted(row.components),
        version=row.version,
        created_at=to_time(row.created_at),
    )


def component(row: v.ComponentView, gateway_port: int, ready: int) -> s.ComponentView:
    return s.ComponentView(
        team=row.team,
        app=row.app,
        component=row.name,
        service_id=row.service_id,
        process=row.process,
        status=row.status,
        version=row.version,
        release=row.current,
        scale=row.scale,
        stopped=row.stopped,
        ready=ready,
        http=row.http,
        urls=[url_of(r.host, r.path, gateway_port) for r in row.spec.all_routes()],
        settings=settings_of(row.spec),
        operation=row.operation or None,
        created_at=to_time(row.created_at),
        updated_at=to_time(row.updated_at),
    )


def routes(row: v.ComponentView, gateway_port: int) -> list[s.RouteView]:
    """The addresses a component answers at, its own first."""
    return [
        s.RouteView(
            team=row.team,
            app=row.app,
            component=row.name,
            host=r.host,
            path=r.path,
            own=r.host == row.spec.auto_host and r.path == "/",
            url=url_of(r.host, r.path, gateway_port),
        )
        for r in row.spec.all_routes()
    ]


def build(row: v.BuildView) -> story.BuildView:
    artifact = row.artifact
    commit, author = row.source.said_of_upload()  # of a build that made nothing, too
    source: dict[str, JsonValue] = msgspec.to_builtins(row.source)
    return story.BuildView(
        team=row.team,
        app=row.app,
        component=row.component,
        build=row.build_id,
        operation=row.operation,
        status=row.status,
        source=source,
        detected=artifact.detected if artifact else "",
        artifact=artifact.digest if artifact else None,
        commit=(artifact.commit if artifact else "") or commit,
        author=(artifact.author if artifact else "") or author,
        code=row.code,
        reason=row.reason,
        lines=list(row.lines),
        attempt=row.attempt,
        cache_hit=row.cache_hit,
        requested_at=to_time(row.requested_at),
        started_at=to_time(row.started_at),
        ended_at=to_time(row.ended_at),
    )


def release(row: v.ReleaseView, *, config: bool = False) -> story.ReleaseView:
    """`config` true: with the configuration, secrets masked."""
    spec = row.release.spec
    return story.ReleaseView(
        team=row.team,
        app=row.app,
        component=row.component,
        number=row.number,
        current=row.status == "current",
        status=row.status,
        operation=row.operation,
        artifact=row.digest,
        detected=row.detected,
        commit=row.commit_id,
        command=row.command,
        scale=spec.scale,
        rollback_of=row.rollback_of,
        config=mask(dict(spec.config)) if config else None,
        routes=[f"{r.host}{r.path}" for r in spec.all_routes()],
        settings=settings_of(spec),
        created_at=to_time(row.created_at),
        created_by=row.created_by,
        reason=row.reason,
    )


def rollout(row: v.RolloutView) -> story.RolloutView:
    return story.RolloutView(
        team=row.team,
        app=row.app,
        component=row.component,
        release=row.release,
        operation=row.operation,
        status=row.status,
        reason=row.reason,
        started_at=to_time(row.started_at),
        switched_at=to_time(row.switched_at),
        ended_at=to_time(row.ended_at),
    )


def instance(row: v.InstanceView) -> s.InstanceView:
    return s.InstanceView(
        team=row.team,
        app=row.app,
        component=row.component,
        instance=row.id,
        kind=row.kind,
        status=row.status,
        release=row.release,
        node=row.node,
        slot=row.slot,
        host=row.host,
        port=row.port,
        pid=row.pid,
        exit_code=None if row.alive else row.exit_code,
        alive=row.alive,
        draining=row.draining,
        reason=row.reason,
        lines=list(row.lines),
        starting_at=to_time(row.starting_at),
        ready_at=to_time(row.ready_at),
        ended_at=to_time(row.ended_at),
        restart_at=to_time(row.restart_at),
    )


def operation(row: v.OperationView, children: Sequence[v.OperationView] = ()) -> s.OperationView:
    steps = [
        s.OperationStep(phase=step.phase, at=at_time(step.at), seconds=round((step.at - row.started_at) / 1e6, 6))
        for step in row.steps
    ]
    return s.OperationView(
        team=row.team,
        app=row.app,
        component=row.component or None,
        operation=row.id,
        kind=row.kind,
        status=row.status,
        phase=row.phase,
        detail=row.detail,
        result=row.result,
        code=row.code,
        reason=row.reason,
        lines=list(row.lines),
        still_serving=row.still_serving,
        release=row.release,
        build=row.build_id or None,
        parent=row.parent or None,
        actor=row.actor,
        message=row.message,
        stream=row.stream,
        position=f"{row.partition}:{row.offset}",
        started_at=to_time(row.started_at),
        ended_at=to_time(row.ended_at),
        steps=steps,
        children=[operation(child) for child in children],
    )


def node(row: v.NodeView) -> NodeView:
    return NodeView(
        name=row.name,
        status=row.status,
        address=row.address,
        cpus=row.cpus,
        memory_bytes=row.memory_bytes,
        runtime=row.runtime,
        reason=row.reason,
        joined_at=to_time(row.joined_at),
    )
