"""Builds as tasks of the queue: the topic, and an order as the payload of a task and back.

Knows names and shapes; nothing of who publishes or builds.
"""

import msgspec

from actors.supervisor.orders import BuildOrder
from events.queue.task import NewTask

BUILDS = "builds"
VISIBLE_SECONDS = 60.0
"""A builder says three times as often that it is still at it."""
CLAIMS = 50
"""The build's own stream counts attempts and ends it; this is for an order that no builder can even begin."""


def build_task(order: BuildOrder) -> NewTask:
    """The task whose id is the build's: however often it is asked for, it is there once."""
    return NewTask(
        id=order.build_id,
        payload=msgspec.msgpack.encode(order),
        key=order.service_id,
        team=order.team,
        visible_seconds=VISIBLE_SECONDS,
        max_attempts=CLAIMS,
    )


def order_of(payload: bytes) -> BuildOrder:
    """Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(payload, type=BuildOrder)
