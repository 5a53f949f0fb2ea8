"""What Ray says of its nodes, as machines: names, labels, home, and what an agent away from home is told."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.cluster import machines
from actors.cluster.machines import NAME_LENGTH, Machine, live_machines, name_of, settings_on
from actors.cluster.pools import Pool, actor_names
from actors.cluster.settings import PlatformSettings
from actors.cluster.sizes import Sizes
from actors.gateway.rundir import check_socket_path
from api.place import LONGEST_RUN_PATH
from events.log.etcd_connection import EtcdSettings

SETTINGS = PlatformSettings(
    data="/data", run="/data/run", node_root="/data/node", node="here", etcd=EtcdSettings(endpoints=("e:1",)),
    database_url="sqlite://", ray_address="10.0.0.1:6379",
)  # fmt: skip
HOME = Machine(name="here", ray_node="r0", address="10.0.0.1", home=True)
AWAY = Machine(name="m1", ray_node="r1", address="10.0.0.2", labels={"zone": "b"})
NODE = Pool(name="node", actor="x:Y", per_node=True)
GATEWAY = Pool(name="gateway", actor="x:Y", most=8, why_most="a machine has one gateway", one_a_machine=True)


def machines_called(*names: str) -> list[Machine]:
    """The home machine, then these."""
    return [HOME, *(Machine(name=name, ray_node=f"r-{name}", address=f"10.0.1.{n}") for n, name in enumerate(names))]


def gateways(size: int, machines: list[Machine], present: tuple[str, ...] = ()) -> list[str]:
    return actor_names(GATEWAY, SETTINGS, size, machines, present)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Rack 1/A", "rack-1-a"),
        ("10.0.0.7", "10-0-0-7"),
        ("", "10-9-9-9"),
        ("ä" * 9, "node"),
        ("x" * 80, "x" * 40),
    ],
)
def test_a_machine_has_a_name_that_can_be_part_of_a_stream(given: str, name: str) -> None:
    assert name_of(given, "10.9.9.9") == name


def test_live_nodes_are_machines_the_home_machine_first(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {"NodeID": "r1", "Alive": True, "NodeManagerAddress": "10.0.0.2", "NodeName": "m1",
         "Labels": {"zone": "b", "ray.io/node-id": "r1"}},
        {"NodeID": "r2", "Alive": False, "NodeManagerAddress": "10.0.0.3", "NodeName": "m2", "Labels": {}},
        {"NodeID": "r0", "Alive": True, "NodeManagerAddress": "10.0.0.1", "NodeName": "10.0.0.1", "Labels": {}},
    ]  # fmt: skip
    monkeypatch.setattr(machines.ray, "nodes", lambda: listed)
    assert live_machines(SETTINGS) == [HOME, AWAY]


def test_an_agent_away_from_home_keeps_its_own_things_and_listens_where_others_reach_it() -> None:
    away = settings_on(AWAY, SETTINGS)
    assert (away.node, away.bind, away.node_labels) == ("m1", "10.0.0.2", {"zone": "b"})
    assert away.node_home_dir == Path("/data/nodes/m1")
    assert away.node_run_dir == Path("/data/nodes/m1/run")
    assert away.node_root_dir == Path("/data/nodes/m1/node")
    assert away.data_dir == SETTINGS.data_dir
    for path in (away.gateway_dir / "admin.sock", away.envoy_log, away.access_log):
        assert path.is_relative_to("/data/nodes/m1/gateway"), "a directory of the platform's user alone"
    home = settings_on(HOME, SETTINGS)
    assert home == SETTINGS
    assert (home.gateway_dir, home.envoy_log) == (Path("/data/run/gateway"), Path("/data/platform/envoy.log"))
    assert home.access_log == Path("/data/logs/access/gateway.log")
    assert home.node_run_dir == Path("/data/run/node")


def test_each_machine_has_an_agent_which_runs_there_and_nowhere_else() -> None:
    both = [HOME, AWAY]
    assert actor_names(NODE, SETTINGS, machines=both) == ["node-here", "node-m1"]
    assert actor_names(NODE, SETTINGS) == ["node-here"]
    assert NODE.machine_of("node-m1", both) == AWAY
    assert NODE.machine_of("node-m2", both) is None


def test_a_pool_at_home_runs_there_and_others_anywhere() -> None:
    assert Pool(name="api", actor="x:Y", home=True).machine_of("api-3", [AWAY, HOME]) == HOME
    assert Pool(name="supervisor", actor="x:Y").machine_of("supervisor-0", [AWAY, HOME]) is None


def test_a_socket_of_a_gateway_away_from_home_is_short_enough_whatever_its_machine_is_called() -> None:
    data = "/" + "d" * (LONGEST_RUN_PATH - len("/run") - 1)  # with longer ones sockets are under /tmp, of one machine
    settings = msgspec.structs.replace(SETTINGS, data=data)
    machine = msgspec.structs.replace(AWAY, name="m" * NAME_LENGTH)
    check_socket_path(settings_on(machine, settings).gateway_dir / "admin.sock")


def test_gateways_are_at_home_first_then_on_machines_by_name() -> None:
    there = machines_called("m2", "m1")
    assert gateways(1, there) == ["gateway-0"]
    assert gateways(2, there) == ["gateway-0", "gateway-at-m1"]
    assert gateways(3, there) == ["gateway-0", "gateway-at-m1", "gateway-at-m2"]
    assert gateways(9, there) == gateways(3, there), "a machine has one at most"
    assert gateways(2, []) == ["gateway-0"]


@given(size=st.integers(1, 6), there=st.sets(st.sampled_from("abcdef")), join=st.sets(st.sampled_from("abcdef")))
def test_a_machine_that_joins_moves_no_gateway(size: int, there: set[str], join: set[str]) -> None:
    before = gateways(size, machines_called(*there))
    after = gateways(size, machines_called(*(there | join)), tuple(before))
    assert after[: len(before)] == before
    assert len(after) == min(size, 1 + len(there | join))


@given(size=st.integers(1, 6), there=st.sets(st.sampled_from("abcdef")), left=st.sets(st.sampled_from("abcdef")))
def test_a_machine_that_leaves_moves_no_gateway_but_its_own(size: int, there: set[str], left: set[str]) -> None:
    before = gateways(size, machines_called(*there))
    after = gateways(size, machines_called(*(there - left)), tuple(before))
    assert {name for name in before if name.removeprefix("gateway-at-") not in left} <= set(after)


def test_a_machine_called_0_has_a_gateway_of_its_own() -> None:
    there = machines_called("0", "at-0")
    names = gateways(3, there)
    assert names == ["gateway-0", "gateway-at-0", "gateway-at-at-0"]
    assert [GATEWAY.machine_of(name, there) for name in names] == there


def test_a_pool_knows_its_actors_by_their_names() -> None:
    builder = Pool(name="builder", actor="x:Y", most=8)
    names = (
        "gateway-0",
        "gateway-7",
        "gateway-at-m1",
        "builder-1",
        "node-0",
        "builder-at-m1",
        "gateway",
        "gatewayat-0",
    )
    assert [name for name in names if GATEWAY.has(name)] == ["gateway-0", "gateway-7", "gateway-at-m1"]
    assert [name for name in names if NODE.has(name)] == ["node-0"]
    assert [name for name in names if builder.has(name)] == ["builder-1"]


def test_two_nodes_of_one_name_are_one_machine() -> None:
    assert gateways(3, machines_called("m1", "m1", "m2")) == ["gateway-0", "gateway-at-m1", "gateway-at-m2"]


def test_one_whose_machine_has_left_belongs_nowhere() -> None:
    assert GATEWAY.machine_of("gateway-at-m1", [HOME]) is None
    assert GATEWAY.machine_of("gateway-7", [HOME]) is None


def test_more_gateways_than_machines_are_of_no_use_and_the_report_says_why() -> None:
    sizes = Sizes([GATEWAY])
    for there, words in (([HOME], "there is 1 machine"), ([HOME, AWAY], "there are 2 machines")):
        report = sizes.report(
            GATEWAY, size=1, machines=there, actors=[], draining=[], partitions={}, moving=0
        )  # fmt: skip
        assert (report.most, report.why_most) == (len(there), f"a machine has one gateway, and {words}")
