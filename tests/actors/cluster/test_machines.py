"""What Ray says of its nodes, as machines: names, labels, home, and what an agent away from home is told."""

from pathlib import Path

import pytest

from actors.cluster import machines
from actors.cluster.machines import Machine, live_machines, name_of, settings_on
from actors.cluster.pools import Pool, actor_names
from actors.cluster.settings import PlatformSettings
from events.log.etcd_connection import EtcdSettings

SETTINGS = PlatformSettings(
    data="/data", run="/data/run", node_root="/data/node", node="here", etcd=EtcdSettings(endpoints=("e:1",)),
    database_url="sqlite://", ray_address="10.0.0.1:6379",
)  # fmt: skip
HOME = Machine(name="here", ray_node="r0", address="10.0.0.1", home=True)
AWAY = Machine(name="m1", ray_node="r1", address="10.0.0.2", labels={"zone": "b"})
NODE = Pool(name="node", actor="x:Y", per_node=True)


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
    home = settings_on(HOME, SETTINGS)
    assert home == SETTINGS
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
