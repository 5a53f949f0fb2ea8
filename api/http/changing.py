"""A change of a component that is one command to its stream: asked for by a request of its own, or in a list of them.

Knows how it is sent and answered; nothing of any particular one.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from api.http.answers import accepted
from api.http.call import Call
from api.http.context import accepted_view
from api.http.schema import Accepted
from events.model.base import Command, Reply, ServiceId, service_id_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What a call comes to. `lasts`: there is an operation to follow, unless all is done at once."""

    order: Command
    reason: str
    lasts: bool = True


Changer = Callable[[Call], Awaitable[Change]]
"""Makes the change that a call asks for; sends nothing. Raises HttpProblem."""


def service_of(call: Call) -> ServiceId:
    """The id of the call's component, whether or not there is one."""
    return service_id_of(call.name("team"), call.name("app"), call.name("component"))


async def changed(call: Call, change: Change, service_id: ServiceId, reply: Reply) -> Accepted:
    """What is told of an accepted change. Raises HttpProblem for one that was refused."""
    await call.context.accepted(reply, f"component/{service_id}", call.expected_version)
    operation = reply.operation if change.lasts else None
    return accepted_view(reply, call.name("team"), operation=operation, service_id=service_id)


def alone(changer: Changer) -> Callable[[Call], Awaitable[web.Response]]:
    """The handler of the request that asks for this change alone."""

    async def handle(call: Call) -> web.Response:
        change = await changer(call)
        service_id = service_of(call)
        reply = await call.context.submit(
            call,
            f"component/{service_id}",
            change.order,
            reason=change.reason,
            expected_version=call.expected_version,
        )
        return accepted(await changed(call, change, service_id, reply))

    return handle
