"""A component's cron jobs: what they are, when they come next, what became of their runs, and every change of them."""

from aiohttp import web

from api.http import schema as s
from api.http import schema_cron as cron
from api.http import shown
from api.http.answers import answer
from api.http.call import Call, at_time, reason_of, to_time
from api.http.changing import Change, Changer, alone
from api.http.problems import not_found
from api.http.queries import Destroy, PageOf
from events.model.component_commands import RemoveCron, ResumeCron, RunCron, SetCron, SuspendCron
from events.model.cron import CronJob, CronPolicy
from projections import queries
from projections.views import CronRunView, CronView


async def list_crons(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(PageOf)
    await reads.wait_for(call)
    row = await reads.component(call)
    found = await reads.ask(
        queries.list_crons, row.team, app=row.app, component=row.name, cursor=asked.cursor or "", limit=asked.limit
    )
    return answer(shown.page(found, _shown))


async def get_cron(call: Call) -> web.Response:
    await call.context.reads.wait_for(call)
    return answer(_shown(await _job(call)))


async def list_runs(call: Call) -> web.Response:
    reads, asked = call.context.reads, call.query_as(PageOf)
    await reads.wait_for(call)
    job = await _job(call)
    found = await reads.ask(
        queries.list_cron_runs,
        job.team,
        app=job.app,
        component=job.component,
        cron=job.name,
        cursor=asked.cursor or "",
        limit=asked.limit,
    )
    return answer(shown.page(found, _shown_run))


async def _job(call: Call) -> CronView:
    """The call's job. Raises HttpProblem 404."""
    reads, name = call.context.reads, call.name("cron")
    row = await reads.component(call)
    found = await reads.ask(queries.get_cron, row.team, row.app, row.name, name)
    if found is None:
        await reads.catch_up([f"component/{row.service_id}"])
        found = await reads.ask(queries.get_cron, row.team, row.app, row.name, name)
    if found is None:
        raise not_found(f"there is no cron job {name[:60]} on this component", hint="rayfold cron list")
    return found


def _shown(row: CronView) -> cron.CronView:
    return cron.CronView(
        team=row.team,
        app=row.app,
        component=row.component,
        name=row.name,
        schedule=row.schedule,
        zone=row.zone,
        command=row.command,
        policy=row.policy,
        late_seconds=row.late_seconds,
        run_seconds=row.run_seconds,
        history=row.history,
        suspended=row.suspended,
        next_at=to_time(row.next_at),
        last_tick=to_time(row.last_tick),
        missed=row.missed,
        skipped=row.skipped,
        last_skip=row.last_skip,
        created_at=at_time(row.created_at),
    )


def _shown_run(row: CronRunView) -> cron.CronRunView:
    return cron.CronRunView(
        team=row.team,
        app=row.app,
        component=row.component,
        cron=row.cron,
        operation=row.operation,
        tick=to_time(row.tick),
        status=row.status,
        reason=row.reason,
        began_at=at_time(row.began_at),
        ended_at=to_time(row.ended_at),
    )


async def set_cron(call: Call) -> Change:
    body = call.body_as(cron.SetCron)
    job = CronJob(
        name=body.name,
        schedule=body.schedule,
        command=body.command,
        zone=body.zone,
        policy=CronPolicy(body.policy),
        late_seconds=body.late_seconds,
        run_seconds=body.run_seconds,
        history=body.history,
    )
    return Change(order=SetCron(job=job), reason=body.reason, lasts=False)


async def change_cron(call: Call) -> Change:
    body, name = call.body_as(cron.ChangeCron), call.name("cron")
    order = SuspendCron(name=name) if body.suspended else ResumeCron(name=name)
    return Change(order=order, reason=body.reason, lasts=False)


async def remove_cron(call: Call) -> Change:
    reason = call.query_as(Destroy).reason or reason_of(call.request)
    return Change(order=RemoveCron(name=call.name("cron")), reason=reason, lasts=False)


async def run_cron(call: Call) -> Change:
    return Change(order=RunCron(name=call.name("cron")), reason=call.body_as(s.Because).reason)


CHANGES: dict[str, Changer] = {
    "setCron": set_cron,
    "changeCron": change_cron,
    "removeCron": remove_cron,
    "runCron": run_cron,
}

HANDLERS = {
    **{name: alone(changer) for name, changer in CHANGES.items()},
    "listCrons": list_crons,
    "getCron": get_cron,
    "listCronRuns": list_runs,
}
