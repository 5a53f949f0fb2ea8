"""Node: a machine that runs instances, as its agent reports it. Knows nothing of what runs there."""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal


class NodeStatus(StrEnum):
    """absent → ready ⇄ lost; ready | lost → left; a node that left may join again."""

    ABSENT = "absent"
    READY = "ready"
    LOST = "lost"
    LEFT = "left"


class NodeState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    status: NodeStatus = NodeStatus.ABSENT
    name: str = ""
    address: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    runtime: str = ""
    reason: str = ""


class NodeJoined(Event, frozen=True):
    """The node's agent started. `address` is where its instances listen."""

    name: str
    address: str
    cpus: int
    memory_bytes: int
    runtime: str


class NodeLost(Event, frozen=True):
    reason: str


class NodeLeft(Event, frozen=True):
    reason: str


class JoinNode(Command, frozen=True):
    name: str
    address: str
    cpus: int
    memory_bytes: int
    runtime: str


class ReportNodeLost(Command, frozen=True):
    reason: str


class LeaveNode(Command, frozen=True):
    reason: str


NodeEvent = NodeJoined | NodeLost | NodeLeft
NodeCommand = JoinNode | ReportNodeLost | LeaveNode


def apply(state: NodeState, event: NodeEvent, at: int) -> NodeState:
    match event:
        case NodeJoined():
            return NodeState(
                status=NodeStatus.READY,
                name=event.name,
                address=event.address,
                cpus=event.cpus,
                memory_bytes=event.memory_bytes,
                runtime=event.runtime,
            )
        case NodeLost(reason=reason):
            return msgspec.structs.replace(state, status=NodeStatus.LOST, reason=reason)
        case NodeLeft(reason=reason):
            return msgspec.structs.replace(state, status=NodeStatus.LEFT, reason=reason)


def decide(state: NodeState, command: NodeCommand, meta: Meta) -> Decision:
    match command:
        case JoinNode():
            return [
                NodeJoined(
                    name=command.name,
                    address=command.address,
                    cpus=command.cpus,
                    memory_bytes=command.memory_bytes,
                    runtime=command.runtime,
                )
            ]
        case ReportNodeLost(reason=reason):
            return [NodeLost(reason=reason)] if state.status is NodeStatus.READY else []
        case LeaveNode(reason=reason):
            if state.status in (NodeStatus.ABSENT, NodeStatus.LEFT):
                return Refusal(code="not_found", message="no such node")
            return [NodeLeft(reason=reason)]
    raise TypeError(f"not a node command: {type(command).__name__}")
