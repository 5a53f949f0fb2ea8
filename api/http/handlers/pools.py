"""The pools of actors: how large each is, what it does, and how large it should be.

A wanted size is a decision like any other: a command to the pool's own stream, with its reason, which the log keeps.
"""

from aiohttp import web

from actors.cluster.sizes import PoolReport
from api.http import schema as s
from api.http import schema_platform as p
from api.http.answers import answer
from api.http.call import Call, to_time
from api.http.problems import HttpProblem, invalid, not_found
from events.model.pool import AutoscalePool, ScalePool, pool_stream


async def list_pools(call: Call) -> web.Response:
    return answer(s.Page(items=[_view(report) for report in await call.context.services.platform.pools()]))


async def get_pool(call: Call) -> web.Response:
    return answer(_view(await _report(call)))


async def scale_pool(call: Call) -> web.Response:
    """Answers when the decision is durable; the reconciler brings it about."""
    report, body = await _report(call), call.body_as(s.ScalePool)
    command = _command(report, body)
    stream = pool_stream(report.name)
    reply = await call.context.submit(call, stream, command, reason=body.reason, expected_version=call.expected_version)
    await call.context.accepted(reply, stream, call.expected_version)
    view = _view(report)
    if body.size is not None:
        changed = {"size": body.size, "auto_least": None, "auto_most": None}
    else:
        assert body.auto is not None  # noqa: S101 -- one of the two is given, or the command was refused
        changed = {"auto_least": body.auto.least, "auto_most": body.auto.most}
    return answer(view.model_copy(update={**changed, "reason": body.reason, "scaled_by": call.principal.name}), 202)


def _command(report: PoolReport, body: s.ScalePool) -> ScalePool | AutoscalePool:
    if (body.size is None) == (body.auto is None):
        raise invalid("expected size or auto, found " + ("neither" if body.size is None else "both"))
    if report.per_node:
        raise HttpProblem(409, "conflict", f"pool {report.name} has one actor on each machine", hint="rayfold nodes")
    if body.auto is not None and not report.measured:
        raise invalid(f"pool {report.name} has no measure of its work to follow", hint="give it a size")
    most = body.size if body.auto is None else body.auto.most
    assert most is not None  # noqa: S101 -- as above
    if most > report.most:
        detail = f"pool {report.name}: expected at most {report.most}, found {most}: {report.why_most}"
        raise invalid(detail, hint="rayfold pool list")
    if body.auto is None:
        return ScalePool(name=report.name, size=most)
    return AutoscalePool(name=report.name, least=body.auto.least, most=most)


async def _report(call: Call) -> PoolReport:
    name = call.name("pool")
    for report in await call.context.services.platform.pools():
        if report.name == name:
            return report
    raise not_found(f"there is no pool {name}", hint="rayfold pool list")


def _view(report: PoolReport) -> p.PoolView:
    state, draining = report.state, set(report.draining)
    return p.PoolView(
        name=report.name,
        size=report.size,
        running=sum(actor.ready for actor in report.actors if actor.name not in draining),
        most=report.most,
        auto_least=state.least or None,
        auto_most=state.most or None,
        work=round(report.work, 3),
        moving=report.moving,
        draining=len(draining),
        before=state.before or None,
        scaled_at=to_time(state.scaled_at),
        scaled_by=state.by,
        reason=state.why,
        actors=[
            p.PoolActorView(
                name=actor.name,
                ready=actor.ready,
                draining=actor.name in draining,
                detail=actor.detail,
                gauges=actor.gauges,
                partitions=report.partitions.get(actor.name, []),
            )
            for actor in report.actors
        ],
    )


HANDLERS = {"listPools": list_pools, "getPool": get_pool, "scalePool": scale_pool}
