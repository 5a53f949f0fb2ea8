"""Which function serves which operation id. Knows the rooms of this package and nothing of what they do."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from api.http.call import Call
from api.http.handlers import (
    apps,
    builds,
    changes,
    commands,
    components,
    credentials,
    crons,
    debugger,
    deploys,
    events,
    hooks,
    line_rules,
    log,
    logs,
    operations,
    parked,
    past,
    platform,
    pools,
    queue,
    secrets,
    stored,
    teams,
    template_installs,
    templates,
    uploads,
)

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

HANDLERS: dict[str, Handler] = {
    **platform.HANDLERS,
    **pools.HANDLERS,
    **parked.HANDLERS,
    **teams.HANDLERS,
    **secrets.HANDLERS,
    **uploads.HANDLERS,
    **apps.HANDLERS,
    **components.HANDLERS,
    **changes.HANDLERS,
    **commands.HANDLERS,
    **crons.HANDLERS,
    **templates.HANDLERS,
    **credentials.HANDLERS,
    **template_installs.HANDLERS,
    **builds.HANDLERS,
    **deploys.HANDLERS,
    **hooks.HANDLERS,
    **queue.HANDLERS,
    **log.HANDLERS,
    **logs.HANDLERS,
    **line_rules.HANDLERS,
    **operations.HANDLERS,
    **events.HANDLERS,
    **past.HANDLERS,
    **debugger.HANDLERS,
    **stored.HANDLERS,
}
