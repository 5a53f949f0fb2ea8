"""Cron jobs over HTTP: what is set is shown, suspending, runs by hand, what is refused, and whose they are."""

from typing import Any

import pytest

from tests.api.http.conftest import House

pytestmark = pytest.mark.servers

WEB = "/v1/teams/default/apps/shop/components/web"
NIGHTLY = {"name": "nightly", "schedule": "30 3 * * 1-5", "zone": "Europe/Berlin", "command": "tidy up"}


async def deployed(house: House) -> None:
    made = await house.deploy(WEB)
    assert (await house.ended(made.json["operation"]))["status"] == "succeeded"


async def set_job(house: House, **fields: Any) -> Any:
    answer = await house.post(f"{WEB}/crons", {**NIGHTLY, **fields})
    assert answer.status == 200, answer.text
    return (await house.get(f"{WEB}/crons/{fields.get('name', 'nightly')}?min_position={answer.json['position']}")).json


async def test_a_job_is_shown_as_it_was_set_with_its_next_time(house: House) -> None:
    await deployed(house)
    job = await set_job(house)
    assert {key: job[key] for key in NIGHTLY} == NIGHTLY
    assert (job["policy"], job["suspended"], job["missed"], job["skipped"]) == ("forbid", False, 0, 0)
    assert job["next_at"][14:16] == "30" and job["last_tick"] is None
    changed = await set_job(house, schedule="@hourly", policy="replace")
    assert (changed["schedule"], changed["policy"]) == ("@hourly", "replace")
    assert [j["name"] for j in (await house.get(f"{WEB}/crons")).json["items"]] == ["nightly"]
    event = (await house.get(f"{WEB}/events?type=CronSet&limit=10")).json["items"][0]
    assert event["body"]["job"]["command"] == "tidy up"


async def test_suspended_and_resumed(house: House) -> None:
    await deployed(house)
    await set_job(house)
    await house.call("PATCH", f"{WEB}/crons/nightly", {"suspended": True})
    held = await house.until(f"{WEB}/crons/nightly", lambda job: job["suspended"])
    assert held["next_at"] is None
    await house.call("PATCH", f"{WEB}/crons/nightly", {"suspended": False})
    assert (await house.until(f"{WEB}/crons/nightly", lambda job: not job["suspended"]))["next_at"]


async def test_a_run_by_hand_is_an_operation_once_for_its_key_and_is_remembered(house: House) -> None:
    await deployed(house)
    await set_job(house)
    first = await house.post(f"{WEB}/crons/nightly/runs", {"reason": "at once"}, **{"Idempotency-Key": "run-1"})
    again = await house.post(f"{WEB}/crons/nightly/runs", {"reason": "at once"}, **{"Idempotency-Key": "run-1"})
    assert first.status == 202 and again.json["operation"] == first.json["operation"]
    ended = await house.ended(first.json["operation"])
    assert (ended["kind"], ended["status"]) == ("cron", "succeeded")
    assert house.world.ordered[-1].command == "tidy up" and house.world.ordered[-1].kind == "task"
    found = await house.until(f"{WEB}/crons/nightly/runs", lambda runs: runs["items"] and runs["items"][0]["ended_at"])
    [run] = found["items"]
    assert (run["operation"], run["status"], run["tick"]) == (first.json["operation"], "succeeded", None)


async def test_removed_it_is_gone(house: House) -> None:
    await deployed(house)
    await set_job(house)
    assert (await house.call("DELETE", f"{WEB}/crons/nightly")).status == 200
    await house.gone(f"{WEB}/crons/nightly")
    assert (await house.get(f"{WEB}/crons/nightly/runs")).status == 404
    assert (await house.post(f"{WEB}/crons/nightly/runs")).status == 404
    assert (await house.call("DELETE", f"{WEB}/crons/nightly")).status == 404


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"schedule": "61 * * * *"}, 422),
        ({"schedule": "* * * * * *"}, 422),
        ({"zone": "Europe/Nowhere"}, 422),
        ({"zone": "../../etc/passwd"}, 422),
        ({"policy": "sometimes"}, 422),
        ({"history": 51}, 422),
        ({"name": "Not A Name"}, 422),
        ({"command": "a\u0000b"}, 422),
    ],
)
async def test_what_cannot_be_kept_is_refused(house: House, fields: dict[str, object], status: int) -> None:
    await deployed(house)
    refused = await house.post(f"{WEB}/crons", {**NIGHTLY, **fields})
    assert refused.status == status, refused.text


async def test_before_the_first_release_there_is_nothing_to_run_in(house: House) -> None:
    await house.post("/v1/teams/default/apps", {"name": "shop"})
    await house.until("/v1/teams/default/apps/shop", lambda found: True)
    made = await house.post("/v1/teams/default/apps/shop/components", {"name": "web"})
    assert made.status in (200, 201, 202), made.text
    await house.until(WEB, lambda found: True)
    refused = await house.post(f"{WEB}/crons", NIGHTLY)
    assert refused.status == 409 and "released" in refused.json["detail"]


async def test_another_teams_jobs_are_not_there(house: House) -> None:
    await deployed(house)
    await set_job(house)
    theirs = await house.team("other")
    for method, path, body in (
        ("GET", "/crons", None),
        ("GET", "/crons/nightly", None),
        ("GET", "/crons/nightly/runs", None),
        ("POST", "/crons", NIGHTLY),
        ("PATCH", "/crons/nightly", {"suspended": True}),
        ("POST", "/crons/nightly/runs", {}),
        ("DELETE", "/crons/nightly", None),
    ):
        assert (await house.call(method, WEB + path, body, token=theirs)).status == 404, (method, path)
