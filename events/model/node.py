"""Node: a machine that runs instances, as its agent reports it and as operators want it, whatever runs there."""

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
    draining: bool = False
    told: str = ""

    @property
    def wish(self) -> str:
        """What the world is to be told of this node: `gone`, `drain` or nothing; `told` is what it was told last."""
        if self.status is NodeStatus.LEFT:
            return "gone"
        return "drain" if self.draining else ""


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


class NodeDrained(Event, frozen=True):
    """What runs there is to run elsewhere, and nothing new is to start there."""

    reason: str = ""


class NodeUndrained(Event, frozen=True):
    reason: str = ""


class NodeTold(Event, frozen=True):
    """The agent, or whoever asks about nodes, knows what is wanted of this one: `gone`, `drain` or nothing."""

    wish: str


class JoinNode(Command, frozen=True):
    name: str
    address: str
    cpus: int
    memory_bytes: int
    runtime: str


class ReportNodeLost(Command, frozen=True):
    reason: str


class DrainNode(Command, frozen=True):
    reason: str = ""


class UndrainNode(Command, frozen=True):
    reason: str = ""


class ReportNodeTold(Command, frozen=True):
    wish: str


class LeaveNode(Command, frozen=True):
    reason: str


NodeEvent = NodeJoined | NodeLost | NodeLeft | NodeDrained | NodeUndrained | NodeTold
NodeCommand = JoinNode | ReportNodeLost | DrainNode | UndrainNode | ReportNodeTold | LeaveNode


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
                draining=state.draining and state.status is not NodeStatus.LEFT,
                # An agent that starts knows nothing of a drain; that the node was gone is known elsewhere.
                told="gone" if state.told == "gone" else "",
            )
        case NodeDrained():
            return msgspec.structs.replace(state, draining=True)
        case NodeUndrained():
            return msgspec.structs.replace(state, draining=False)
        case NodeTold(wish=wish):
            return msgspec.structs.replace(state, told=wish)
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
        case ReportNodeTold(wish=wish):
            return [NodeTold(wish=wish)] if wish == state.wish != state.told else []
    if state.status in (NodeStatus.ABSENT, NodeStatus.LEFT):
        return Refusal(code="not_found", message="no such node", hint="rayfold nodes")
    match command:
        case DrainNode(reason=reason):
            return [] if state.draining else [NodeDrained(reason=reason)]
        case UndrainNode(reason=reason):
            return [NodeUndrained(reason=reason)] if state.draining else []
        case LeaveNode(reason=reason):
            return [NodeLeft(reason=reason)]
    raise TypeError(f"not a node command: {type(command).__name__}")
