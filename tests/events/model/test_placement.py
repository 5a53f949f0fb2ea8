"""Where instances are started: by room, by labels, spread over nodes, and away from nodes that are drained."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.model.build import Source
from events.model.component_commands import ChangeSpec, Deploy, ReportExited, SetPlacement
from events.model.component_events import EndpointsChanged, InstanceStarting, InstanceStopping, PlacementSet
from events.model.component_parts import InstanceStatus
from events.model.placement import Placement, Room, choose
from tests.events.model.component_world import World, artifact, created, deployed

MIB = 1 << 20
HALF_GIB = 512 * MIB
A, B, C = (Room(name=name, free_bytes=8 * HALF_GIB) for name in ("a", "b", "c"))


def chosen(*rooms: Room, placement: Placement | None = None, taken: dict[str, int] | None = None) -> str:
    return choose(rooms, placement or Placement(), HALF_GIB, taken or {}, {})


def test_the_node_with_the_most_free_memory_is_chosen() -> None:
    assert chosen(Room(name="small", free_bytes=HALF_GIB), Room(name="large", free_bytes=3 * HALF_GIB)) == "large"


def test_spreading_a_component_comes_before_free_memory() -> None:
    assert chosen(Room(name="a", free_bytes=3 * HALF_GIB), Room(name="b", free_bytes=HALF_GIB), taken={"a": 1}) == "b"


def test_a_node_without_room_is_the_last_choice_and_still_one() -> None:
    full = Room(name="full", free_bytes=MIB)
    assert chosen(full, A, taken={"a": 5}) == "a"
    assert chosen(full) == "full"


def test_only_nodes_with_the_required_labels_come_into_question() -> None:
    ssd = Room(name="ssd", labels={"disk": "ssd", "zone": "1"})
    asks = Placement(require={"disk": "ssd"})
    assert chosen(A, ssd, placement=asks, taken={"ssd": 9}) == "ssd"
    assert chosen(A, B, placement=asks) == ""


def test_instances_are_spread_over_the_values_of_a_label_first() -> None:
    rooms = [Room(name=name, labels={"zone": zone}) for name, zone in (("a", "1"), ("b", "1"), ("c", "2"))]
    asks = Placement(spread="zone")
    assert choose(rooms, asks, 1, {"a": 1}, {}) == "c"
    assert choose(rooms, asks, 1, {"a": 1, "c": 1}, {}) == "b"


def test_nothing_is_started_on_a_node_that_is_being_drained() -> None:
    assert chosen(Room(name="a", free_bytes=9 * HALF_GIB, leaving=True), B) == "b"


@given(st.integers(1, 40), st.integers(1, 6))
def test_no_node_has_two_instances_more_than_another(instances: int, nodes: int) -> None:
    w = created()
    w.nodes = [Room(name=f"n{i}", free_bytes=64 * HALF_GIB) for i in range(nodes)]
    w.send(ChangeSpec(scale=instances))
    w.send(Deploy(source=Source(kind="upload", digest="d1")))
    load = Counter(i.node for i in w.state.instances.values())
    assert load.total() == instances
    assert max(load.values()) - min(load[n.name] for n in w.nodes) <= 1


def at(w: World) -> dict[str, list[int]]:
    """Node → the slots that are ready there."""
    found: dict[str, list[int]] = {}
    for i in w.state.instances.values():
        if i.status is InstanceStatus.READY:
            found.setdefault(i.node, []).append(i.slot)
    return {node: sorted(slots) for node, slots in found.items()}


def spread_over_two(placement: Placement | None = None) -> World:
    w = deployed()
    w.nodes = [A, B]
    if placement:
        w.send(SetPlacement(placement=placement))
    w.send(ChangeSpec(scale=2))
    w.run()
    # The first one was on node1, which is not there any more.
    [old] = [i for i in w.state.instances.values() if i.node == "node1"]
    w.send(ReportExited(instance=old.id, exit_code=-1, reason="node node1 is lost"))
    w.run()
    assert sorted(at(w)) == ["a", "b"]
    return w


def drain(w: World, room: Room) -> None:
    w.nodes = [Room(name=n.name, free_bytes=n.free_bytes, leaving=n == room) for n in w.nodes]
    w.events.clear()
    w.run()


def test_a_drained_nodes_instances_run_elsewhere_before_they_stop() -> None:
    w = spread_over_two()
    drain(w, A)
    assert at(w) == {"b": [1, 2]}
    names = [type(e).__name__ for e in w.events]
    assert names.index("InstanceStarting") < names.index("InstanceReady") < names.index("EndpointsChanged")
    assert names.index("EndpointsDrained") < names.index("InstanceStopping")
    [stopping] = w.of(InstanceStopping)
    assert stopping.reason == "node a is being drained"  # type: ignore[attr-defined]
    assert all(e.endpoints for e in w.of(EndpointsChanged)), "there is somebody to route to all the time"  # type: ignore[attr-defined]


def test_with_nowhere_to_go_a_drained_nodes_instances_stay() -> None:
    w = deployed()
    drain(w, w.nodes[0])
    assert at(w) == {"node1": [1]}
    assert not w.events


def test_a_drain_that_is_called_off_leaves_one_instance_in_each_place() -> None:
    w = spread_over_two()
    w.start = lambda instance: "nothing"
    w.nodes = [Room(name="a", leaving=True), B]
    w.run()  # another was started in its place, and is not ready yet
    w.nodes = [A, B]
    w.start = lambda instance: "ready"
    w.run()
    assert sorted(slot for slots in at(w).values() for slot in slots) == [1, 2]
    assert len(w.state.instances) == 2


STATEFUL = Placement(stateful=True)


def never_two_in_one_place(w: World) -> None:
    """Folds nothing: replays the recorded starts and ends."""
    running: dict[str, int] = {}
    for event in w.events:
        match type(event).__name__:
            case "InstanceStarting":
                assert event.slot not in running.values(), event  # type: ignore[attr-defined]
                running[event.instance] = event.slot  # type: ignore[attr-defined]
            case "InstanceStopped" | "InstanceExited":
                running.pop(event.instance, None)  # type: ignore[attr-defined]


def test_what_has_state_stops_on_a_drained_node_before_it_starts_elsewhere() -> None:
    w = spread_over_two(STATEFUL)
    w.events.clear()
    before = {i.id: i.slot for i in w.state.instances.values()}
    drain(w, A)
    assert at(w) == {"b": [1, 2]}
    [stopping] = w.of(InstanceStopping)
    [starting] = w.of(InstanceStarting)
    assert before[stopping.instance] == starting.slot  # type: ignore[attr-defined]
    names = [type(e).__name__ for e in w.events]
    assert names.index("InstanceStopped") < names.index("InstanceStarting")


def test_a_rollout_of_what_has_state_replaces_each_instance_in_its_place() -> None:
    w = deployed()
    w.send(SetPlacement(placement=STATEFUL))
    w.send(ChangeSpec(scale=2))
    w.run()
    w.next_artifact = artifact("two")
    w.send(Deploy(source=Source(kind="upload", digest="d2")))
    w.run()
    assert w.state.operation is None
    assert w.state.current == max(w.state.releases)
    assert {i.release for i in w.state.instances.values()} == {w.state.current}
    never_two_in_one_place(w)


def test_a_failed_rollout_of_what_has_state_brings_the_old_release_back() -> None:
    w = deployed()
    w.send(SetPlacement(placement=STATEFUL))
    w.start = lambda instance: "exit" if instance.endswith("-2") else "ready"
    w.next_artifact = artifact("two")
    w.send(Deploy(source=Source(kind="upload", digest="d2")))
    w.run()
    assert [(i.release, i.status) for i in w.state.instances.values()] == [(1, InstanceStatus.READY)]
    assert len(w.state.endpoints) == 1
    never_two_in_one_place(w)


def test_a_placement_is_set_once_and_is_no_part_of_a_release() -> None:
    w = deployed()
    w.send(SetPlacement(placement=STATEFUL))
    w.send(SetPlacement(placement=STATEFUL))
    assert len(w.of(PlacementSet)) == 1
    assert w.state.placement == STATEFUL
    assert list(w.state.releases) == [1]


@pytest.mark.parametrize(
    "placement", [Placement(require={"": "x"}), Placement(require={"a": "b c"}), Placement(spread="-x")]
)
def test_what_cannot_be_a_label_is_refused(placement: Placement) -> None:
    assert deployed().send(SetPlacement(placement=placement)) == "invalid"
