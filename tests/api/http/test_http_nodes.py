"""Nodes over HTTP: drained, taken back, removed; and what a component asks of nodes."""

import pytest

from events.model.base import Envelope
from events.model.node import JoinNode
from events.model.registry import encode_command
from tests.api.http.conftest import House

WEB = "/v1/teams/default/apps/shop/components/web"


async def joined(house: House, name: str) -> None:
    join = JoinNode(name=name, address="10.0.0.1", cpus=2, memory_bytes=1 << 30, runtime="processes")
    [reply] = await house.world.supervisor.submit(
        [Envelope(stream=f"node/{name}", command=encode_command(join), command_id=f"join.{name}")]
    )
    assert not reply.error


async def status_of(house: House, name: str, wanted: str) -> None:
    def holds(found: object) -> bool:
        assert isinstance(found, dict)
        return [n["status"] for n in found["items"] if n["name"] == name] == [wanted]

    await house.until("/v1/nodes", holds)


async def test_a_node_is_drained_taken_back_and_removed(house: House) -> None:
    await joined(house, "n1")
    assert (await house.call("PATCH", "/v1/nodes/n1", {"draining": True, "reason": "a new disk"})).status == 200
    await status_of(house, "n1", "draining")
    assert (await house.call("PATCH", "/v1/nodes/n1", {"draining": False})).status == 200
    await status_of(house, "n1", "ready")
    assert (await house.call("DELETE", "/v1/nodes/n1?reason=burnt")).status == 200
    await status_of(house, "n1", "left")
    assert house.world.struck


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"draining": True}), ("DELETE", None)])
async def test_a_node_that_never_was_is_not_found(house: House, method: str, body: object) -> None:
    assert (await house.call(method, "/v1/nodes/nowhere", body)).status == 404


async def test_for_a_team_there_are_no_nodes(house: House) -> None:
    await joined(house, "n1")
    token = await house.team("others")
    assert (await house.call("PATCH", "/v1/nodes/n1", {"draining": True}, token=token)).status == 404


async def test_a_placement_is_changed_piece_by_piece(house: House) -> None:
    await house.settled((await house.deploy(WEB)).json["position"])
    await house.ended((await house.get("/v1/operations")).json["items"][0]["operation"])
    found = (await house.get(WEB + "/placement")).json
    assert (found["require"], found["spread"], found["stateful"]) == ({}, "", False)
    assert (await house.call("PATCH", WEB + "/placement", {"require": {"disk": "ssd"}})).status == 200
    assert (await house.call("PATCH", WEB + "/placement", {"spread": "zone"})).status == 200
    found = (await house.get(WEB + "/placement")).json
    assert (found["require"], found["spread"], found["stateful"]) == ({"disk": "ssd"}, "zone", False)
    assert (await house.call("PATCH", WEB + "/placement", {})).status == 422
    assert (await house.call("PATCH", WEB + "/placement", {"require": {"a b": "c"}})).status == 422
