"""A node that fell silent loses what it was given; one that returns stops what was started elsewhere meanwhile."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import pytest

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from actors.supervisor.orders import Known
from actors.supervisor.supervisor import Supervisor
from events.log.memory import MemoryEventLog
from events.model.base import Command, Envelope, service_id_of
from events.model.build import Artifact
from events.model.component_commands import CreateComponent, DeployArtifact, ReportReady, SetPlacement
from events.model.component_parts import ComponentState, Spec
from events.model.component_progress import Effect
from events.model.node import JoinNode, NodeState, NodeStatus
from events.model.placement import Placement, Room
from events.model.registry import encode_command

SERVICE = service_id_of("default", "shop", "web")
STREAM = f"component/{SERVICE}"
SECONDS = 30.0


class Nodes:
    """Two nodes that do at once what they are told; `live` and `removed` are the test's to say."""

    def __init__(self) -> None:
        self.live = ["a", "b"]
        self.removed: set[str] = set()
        self.settled: list[tuple[str, Sequence[Known]]] = []

    def nodes(self) -> list[Room]:
        return [Room(name=name) for name in self.live]

    def gone(self) -> set[str]:
        return self.removed

    async def unknown(self, node: str, instances: Sequence[str]) -> list[str]:
        return []

    async def settle(self, node: str, known: Sequence[Known]) -> list[str]:
        self.settled.append((node, known))
        return []

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        """Of the effects only starts."""
        state = cast("ComponentState", entity.state)
        if effect.kind == "start" and state.instances[effect.key].node in self.live:
            await engine.handle(envelope(ReportReady(instance=effect.key, host="127.0.0.1", port=1, pid=1)))


def envelope(command: Command, stream: str = STREAM) -> Envelope:
    return Envelope(stream=stream, command=encode_command(command), command_id=secrets.token_hex(8))


class World:
    def __init__(self, supervisor: Supervisor, nodes: Nodes) -> None:
        self.supervisor = supervisor
        self.nodes = nodes

    @property
    def state(self) -> ComponentState:
        return cast("ComponentState", self.supervisor.engines[0].entities[STREAM].state)

    def node(self, name: str) -> NodeState:
        return cast("NodeState", self.supervisor.engines[0].entities[f"node/{name}"].state)

    async def send(self, command: Command, stream: str = STREAM) -> None:
        [reply] = await self.supervisor.submit([envelope(command, stream)])
        assert not reply.error and reply.refusal is None, reply

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                await asyncio.sleep(0.01)
        assert holds(), what

    def on(self) -> list[str]:
        """The nodes of the ready instances."""
        return [i.node for i in self.state.instances.values() if i.status.value == "ready"]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("actors.supervisor.supervisor.TEND_SECONDS", 0.01)
    monkeypatch.setattr("actors.supervisor.supervisor.SWEEP_SECONDS", 0.02)
    event_log, nodes = MemoryEventLog(partitions=1), Nodes()
    await event_log.open()
    supervisor = Supervisor(name="s1", event_log=event_log, nodes=nodes, lost_seconds=0.2)  # type: ignore[arg-type]
    supervisor.use(nodes)
    await supervisor.assign([0])
    tending = asyncio.create_task(supervisor.tend())
    found = World(supervisor, nodes)
    create = CreateComponent(service_id=SERVICE, team="default", app="shop", name="web", process="web", spec=Spec())
    await found.send(create)
    yield found
    tending.cancel()
    await asyncio.gather(tending, return_exceptions=True)
    await supervisor.close()
    await event_log.close()


async def deployed(world: World, placement: Placement | None = None) -> str:
    """The node of the one instance."""
    if placement:
        await world.send(SetPlacement(placement=placement))
    artifact = Artifact(digest="d", size_bytes=1, processes={"web": "run"})
    await world.send(DeployArtifact(artifact=artifact, parent="", parent_stream=""))
    await world.until("one ready instance", lambda: len(world.on()) == 1)
    return world.on()[0]


async def test_a_silent_nodes_instances_are_started_elsewhere(world: World) -> None:
    node = await deployed(world)
    world.nodes.live.remove(node)
    await world.until("it to run elsewhere", lambda: world.on() not in ([], [node]))
    assert world.state.started_instances == 2
    [slot] = world.state.slots.values()
    assert slot.reason == f"node {node} is lost: nothing was heard of it for 0 s"


async def test_a_silent_node_is_lost_and_says_itself_that_it_is_back(world: World) -> None:
    join = JoinNode(name="a", address="10.0.0.1", cpus=2, memory_bytes=1, runtime="processes")
    await world.send(join, "node/a")
    world.nodes.live.remove("a")
    await world.until("it to be lost", lambda: world.node("a").status is NodeStatus.LOST)
    assert world.node("a").reason == "nothing was heard of it for 0 s"
    world.nodes.live.append("a")
    await world.send(join, "node/a")
    assert world.node("a").status is NodeStatus.READY


async def test_a_node_that_comes_back_in_time_keeps_what_it_has(world: World) -> None:
    node = await deployed(world)
    world.supervisor._lost_seconds = SECONDS  # so long that the test cannot miss it
    world.nodes.live.remove(node)
    await world.until("the silence to be noticed", lambda: node in world.supervisor._silent_since)
    world.nodes.live.append(node)
    await world.until("the return to be noticed", lambda: node not in world.supervisor._silent_since)
    assert world.on() == [node]
    assert world.state.started_instances == 1


async def test_what_has_state_waits_until_the_node_was_removed(world: World) -> None:
    node = await deployed(world, Placement(stateful=True))
    world.supervisor._lost_seconds = 0.0
    world.nodes.live.remove(node)
    await world.until("the silence to be noticed", lambda: node in world.supervisor._silent_since)
    for _ in range(10):  # rounds in which it could have been given up
        await world.supervisor._sweep(world.nodes.live)
    assert world.on() == [node]
    world.nodes.removed.add(node)
    await world.until("it to run elsewhere", lambda: world.on() not in ([], [node]))


async def test_a_node_that_returns_is_told_what_is_over(world: World) -> None:
    node = await deployed(world)
    world.nodes.live.remove(node)
    await world.until("it to run elsewhere", lambda: world.on() not in ([], [node]))
    world.nodes.settled.clear()
    world.nodes.live.append(node)
    await world.until("the node to be told", lambda: any(name == node for name, _ in world.nodes.settled))
    [known] = world.nodes.settled[0][1]
    assert known == Known(SERVICE, 2, (f"{SERVICE}-2",))
