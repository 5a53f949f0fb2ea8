"""Read model: the machines that run instances, as their agents reported them. Must not know what runs there."""

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.node import NodeDrained, NodeJoined, NodeLeft, NodeLost, NodeStatus, NodeUndrained
from projections.model import Projection, ident_of
from projections.rows import Rows
from projections.schema import model_table, number, text

DRAINING = "draining"

NODES = model_table(
    "nodes",
    text("name", key=True),
    text("status"),
    text("address"),
    number("cpus"),
    number("memory_bytes"),
    text("runtime"),
    text("reason"),
    number("joined_at"),
)


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One node event."""
    name = ident_of(stored.record.stream)
    match event:
        case NodeJoined():
            before = rows.get(NODES, name)
            draining = before is not None and before["status"] == DRAINING
            rows.new(
                NODES,
                stored,
                name=name,
                status=DRAINING if draining else NodeStatus.READY.value,
                address=event.address,
                cpus=event.cpus,
                memory_bytes=event.memory_bytes,
                runtime=event.runtime,
                joined_at=stored.record.at,
            )
        case NodeLost(reason=reason):
            rows.change(NODES, (name,), stored, status=NodeStatus.LOST.value, reason=reason)
        case NodeDrained(reason=reason):
            rows.change(NODES, (name,), stored, status=DRAINING, reason=reason)
        case NodeUndrained(reason=reason):
            rows.change(NODES, (name,), stored, status=NodeStatus.READY.value, reason=reason)
        case NodeLeft(reason=reason):
            rows.change(NODES, (name,), stored, status=NodeStatus.LEFT.value, reason=reason)


PROJECTION = Projection(name="nodes", version=1, kinds=frozenset({"node"}), tables=(NODES,), fold=fold)
