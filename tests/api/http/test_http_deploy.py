"""A source goes in and is followed to its end; what came of it is shown; the same request twice has one effect."""

import asyncio
from typing import Any

import pytest

from actors.containers.reference import parse_reference
from actors.containers.registry import resolve
from tests.api.http.conftest import ADMIN, House
from tests.container_engine import BUSYBOX, Engine

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"


async def test_a_deploy_makes_app_and_component_and_is_followed_to_its_end(house: House) -> None:
    accepted = await house.deploy(WEB, X_Rayfold_Reason="first%20try")

    assert accepted.status == 202
    operation = accepted.json["operation"]
    assert accepted.json["team"] == "default"
    ended = await house.ended(operation)
    assert ended["status"] == "succeeded", ended
    assert ended["message"] == "first try"
    assert ended["steps"][0]["phase"] == "accepted"
    component = (await house.get(f"{WEB}?min_position={ended['position']}")).json
    assert component["release"] == 1
    assert component["urls"] == ["http://shop.localhost:8080/"]
    assert (await house.get("/v1/teams/default/apps/shop")).json["components"] == ["web"]
    (build,) = (await house.get(f"{WEB}/builds")).json["items"]
    assert build["status"] == "succeeded"
    assert build["detected"].startswith("Python")
    (instance,) = (await house.get(f"{WEB}/instances")).json["items"]
    assert (instance["status"], instance["release"]) == ("ready", 1)
    (rollout,) = (await house.get(f"{WEB}/rollouts")).json["items"]
    assert rollout["status"] == "succeeded"


async def test_the_same_key_twice_has_one_effect_and_one_answer(house: House) -> None:
    first = await house.deploy(WEB, Idempotency_Key="deploy-1")
    again = await house.deploy(WEB, Idempotency_Key="deploy-1")

    assert (first.status, again.status) == (202, 202)
    assert again.json["operation"] == first.json["operation"]
    await house.ended(first.json["operation"])
    late = await house.deploy(WEB, Idempotency_Key="deploy-1")
    assert late.json["operation"] == first.json["operation"]
    assert len((await house.get(f"{WEB}/releases")).json["items"]) == 1


async def test_a_key_used_elsewhere_is_another_command(house: House) -> None:
    one = await house.deploy(WEB, Idempotency_Key="k")
    other = await house.deploy(WEB.replace("shop", "mill"), Idempotency_Key="k")

    assert one.json["operation"] != other.json["operation"]
    for answer in (one, other):
        assert (await house.ended(answer.json["operation"]))["status"] == "succeeded"


async def test_of_many_deploys_at_once_one_goes_live_and_the_others_say_why_not(house: House) -> None:
    house.world.may_build.clear()
    answers = await asyncio.gather(*(house.deploy(WEB) for _ in range(50)))
    taken = [answer.json["operation"] for answer in answers if answer.status == 202]
    refused = [answer for answer in answers if answer.status == 409]

    assert len(taken) + len(refused) == 50 and taken
    assert {(answer.json["code"], "busy" in answer.json["detail"]) for answer in refused} <= {("conflict", True)}
    house.world.release_builds()
    ended = {operation: await house.ended(operation) for operation in taken}
    [winner] = [operation for operation, end in ended.items() if end["status"] == "succeeded"]
    for operation, end in ended.items():
        if operation != winner:
            assert (end["status"], "superseded by" in end["reason"]) == ("cancelled", True), end
    releases = (await house.get(f"{WEB}/releases")).json["items"]
    assert [release["number"] for release in releases] == [1]

    def others_cancelled(page: Any) -> bool:
        return {build["status"] for build in page["items"] if build["operation"] != winner} <= {"cancelled"}

    await house.until(f"{WEB}/builds?limit=100", others_cancelled)  # a build ends after the operation that it was for


async def test_configuration_scale_and_rollback_go_the_whole_way(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    changed = await house.call("PATCH", f"{WEB}/config", {"set": {"COLOUR": "red"}, "reason": "prettier"})
    await house.ended(changed.json["operation"])
    scaled = await house.call("PATCH", WEB, {"scale": 3})
    await house.ended(scaled.json["operation"])
    await house.until(f"{WEB}/instances", lambda page: sum(i["status"] == "ready" for i in page["items"]) == 3)

    preview = (await house.get(f"{WEB}/rollback-preview?to=1")).json
    assert {(c["path"], c["before"], c["after"]) for c in preview["changes"]} == {
        ("config.COLOUR", "red", None),
        ("scale", 3, 1),
    }
    back = await house.post(f"{WEB}/rollbacks", {"to": 1})
    assert back.status == 202
    ended = await house.ended(back.json["operation"])
    assert (ended["kind"], ended["status"]) == ("rollback", "succeeded")
    config = await house.get(f"{WEB}/config?min_position={ended['position']}")
    assert config.json["config"] == {}
    releases = (await house.get(f"{WEB}/releases")).json["items"]
    assert [(r["number"], r["rollback_of"], r["current"]) for r in releases] == [
        (4, 1, True),
        (3, 0, False),
        (2, 0, False),
        (1, 0, False),
    ]
    assert (await house.get(f"{WEB}/releases/2")).json["config"] == {"COLOUR": "red"}


async def test_a_failed_build_ends_the_operation_with_its_reason_and_lines(house: House) -> None:
    house.world.fails = "pip exited with 1"
    failed = await house.ended((await house.deploy(WEB)).json["operation"])

    assert (failed["status"], failed["code"], failed["lines"]) == ("failed", "step_failed", ["boom"])
    house.world.fails = ""
    assert (await house.ended((await house.deploy(WEB)).json["operation"]))["status"] == "succeeded"


async def test_a_stale_version_is_refused_with_the_events_in_between(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    shown = await house.get(f"{WEB}/config")
    version = shown.json["version"]
    assert shown.headers["etag"] == f'"{version}"'

    good = await house.call("PATCH", f"{WEB}/config", {"set": {"A": "1"}}, If_Match=f'"{version}"')
    assert good.status == 202
    await house.ended(good.json["operation"])
    stale = await house.call("PATCH", f"{WEB}/config", {"set": {"B": "1"}}, If_Match=f'"{version}"')
    assert stale.status == 412
    assert stale.json["code"] == "version_mismatch"
    between = stale.json["events"]
    assert between[0]["version"] == version + 1
    assert between[0]["type"] == "OperationStarted"
    assert (await house.call("PATCH", f"{WEB}/config", {"set": {"B": "1"}}, If_Match="yes")).status == 400


async def test_a_running_deploy_and_a_build_can_be_cancelled(house: House) -> None:
    house.world.may_build.clear()
    first = (await house.deploy(WEB)).json["operation"]
    await house.until(f"{WEB}/builds", lambda page: bool(page["items"]))
    assert (await house.post(f"/v1/operations/{first}/cancel", {"reason": "wrong branch"})).status == 202
    assert (await house.ended(first))["status"] == "cancelled"
    assert (await house.post(f"/v1/operations/{first}/cancel")).status == 409

    second = (await house.deploy(WEB)).json["operation"]
    builds = await house.until(f"{WEB}/builds", lambda page: page["items"][0]["operation"] == second)
    cancelled = await house.post(f"{WEB}/builds/{builds['items'][0]['build']}/cancel")
    assert cancelled.status == 202, cancelled.text
    assert (await house.ended(second))["status"] == "cancelled"


async def test_several_process_types_become_children_of_one_operation(house: House) -> None:
    operation = (await house.deploy(WEB, ref="two")).json["operation"]
    ended = await house.ended(operation)

    assert ended["status"] == "succeeded", ended
    (child,) = (await house.get(f"/v1/operations/{operation}")).json["children"]
    assert (child["component"], child["status"], child["parent"]) == ("worker", "succeeded", operation)
    assert (await house.get(WEB.replace("/web", "/worker"))).json["http"] is False


async def test_routes_tasks_restart_stop_and_destroy(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    added = await house.post(f"{WEB}/routes", {"host": "shop.example.com", "path": "/api"})
    await house.ended(added.json["operation"])
    routes = (await house.get(f"{WEB}/routes")).json["items"]
    assert [(r["host"], r["path"], r["own"]) for r in routes] == [
        ("shop.localhost", "/", True),
        ("shop.example.com", "/api", False),
    ]
    removed = await house.call("DELETE", f"{WEB}/routes?host=shop.example.com&path=/api")
    await house.ended(removed.json["operation"])
    for path, body in ((f"{WEB}/restart", {}), (f"{WEB}/tasks", {"command": "echo hi"})):
        answer = await house.post(path, body)
        assert answer.status == 202, answer.text
        assert (await house.ended(answer.json["operation"]))["status"] == "succeeded"
    stopped = await house.call("PATCH", WEB, {"stopped": True})
    assert (await house.ended(stopped.json["operation"]))["status"] == "succeeded"
    gone = await house.call("DELETE", "/v1/teams/default/apps/shop?reason=done")
    assert gone.status == 202
    assert (await house.ended(gone.json["operation"]))["status"] == "succeeded"
    await house.gone(WEB)
    assert (await house.get("/v1/teams/default/apps")).json["items"] == []


async def test_the_host_that_an_app_has_by_itself_is_nobody_elses(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    token = await house.team("bank")
    theirs, ours = "/v1/teams/bank/apps/shop/components/web", WEB.replace("/shop/", "/branch/")
    deployed = await house.deploy(theirs, token=token)
    await house.ended(deployed.json["operation"])
    await house.ended((await house.deploy(ours)).json["operation"])
    assert (await house.get(theirs, token=token)).json["urls"] == ["http://shop--bank.localhost:8080/"]

    for address in ({"host": "shop.localhost"}, {"host": "shop.localhost", "path": "/admin"}):
        for path, who in ((theirs, token), (ours, ADMIN)):
            answer = await house.post(f"{path}/routes", address, token=who)
            assert (answer.status, answer.json["code"]) == (409, "conflict")
            assert "shop.localhost is taken by another application" in answer.json["detail"]
    listed = [{"method": "POST", "path": f"{theirs}/routes", "body": {"host": "api.shop.localhost"}}]
    (result,) = (await house.post("/v1/commands", {"commands": listed}, token=token)).json["results"]
    assert result["status"] == 409
    stream = f"component/{deployed.json['service_id']}"
    asked = {"type": "ChangeSpec", "routes_add": [{"host": "shop.localhost"}]}
    (told,) = (await house.post(f"/v1/whatif/{stream}", {"commands": [asked]}, token=token)).json["outcomes"]
    assert told["refusal"]["code"] == "conflict"

    own = await house.post(f"{theirs}/routes", {"host": "shop--bank.localhost"}, token=token)
    assert (own.status, own.json["operation"]) == (200, None)
    below = await house.post(f"{theirs}/routes", {"host": "new.shop--bank.localhost"}, token=token)
    assert (await house.ended(below.json["operation"]))["status"] == "succeeded"
    assert [r["host"] for r in (await house.get(f"{theirs}/routes", token=token)).json["items"]] == [
        "shop--bank.localhost",
        "new.shop--bank.localhost",
    ]


async def test_an_image_is_pinned_to_the_digest_it_has_when_it_is_asked_for(
    house: House, container_engine: Engine
) -> None:
    asked = {"source": {"kind": "image", "image": f"{container_engine.registry}/{BUSYBOX}"}}

    accepted = await house.post(f"{WEB}/deploys", asked)

    assert accepted.status == 202, accepted.json
    await house.ended(accepted.json["operation"])
    (build,) = (await house.get(f"{WEB}/builds")).json["items"]
    pinned = await resolve(parse_reference(asked["source"]["image"]))
    assert build["source"] == {"kind": "image", "url": str(pinned), "ref": asked["source"]["image"]}


async def test_an_image_that_nobody_has_is_refused_with_a_code(house: House) -> None:
    for image, code in (("127.0.0.1:9/x:1", "registry_unreachable"), ("UPPER:1", "image_refused")):
        answer = await house.post(f"{WEB}/deploys", {"source": {"kind": "image", "image": image}})
        assert (answer.status, answer.json["code"]) == (422, code)
