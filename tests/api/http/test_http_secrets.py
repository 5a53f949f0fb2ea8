"""Secrets over HTTP: given in clear once, sealed before they are part of any command, shown by fingerprint for ever."""

import re
from typing import Any

import pytest

from actors.cluster.settings import MASTER_KEY_FILE
from events.failpoints import arm, disarm
from events.secrets import is_sealed
from events.secrets.master import ensure_master_file
from tests.api.http.conftest import House

WEB = "/v1/teams/default/apps/shop/components/web"
VALUE = "correct horse battery staple"
SHOWN = re.compile(r"•••• \([0-9a-f]{16}\)")


async def deployed(house: House) -> None:
    made = await house.deploy(WEB)
    assert made.status == 202, made.text
    assert (await house.ended(made.json["operation"]))["status"] == "succeeded"


async def set_secret(house: House, *, key: str = "PASSWORD", value: str = VALUE, **more: Any) -> Any:
    answer = await house.call("PATCH", f"{WEB}/config", {"secret": {key: value}, **more})
    assert answer.status in (200, 202), answer.text
    return await house.ended(answer.json["operation"]) if answer.json["operation"] else answer.json


async def shown(house: House, key: str = "PASSWORD") -> str:
    return str((await house.get(f"{WEB}/config")).json["config"][key])


async def test_the_instance_gets_the_value_and_nothing_else_ever_shows_it(house: House) -> None:
    await deployed(house)
    assert (await set_secret(house))["status"] == "succeeded"

    assert house.world.ordered[-1].config == {"PASSWORD": VALUE}
    assert VALUE not in repr(house.world.ordered[-1])
    config = (await house.get(f"{WEB}/config")).json
    assert SHOWN.fullmatch(config["config"]["PASSWORD"])
    assert config["secret"] == ["PASSWORD"]
    stream = (await house.get(WEB)).json["service_id"]
    for path in (
        f"{WEB}/config",
        f"{WEB}/releases/2",
        f"{WEB}/rollback-preview",
        f"{WEB}/events",
        "/v1/events?limit=200",
        f"/v1/replay/component%2F{stream}",
        f"/v1/diff/component%2F{stream}?from=1",
        "/v1/operations",
        "/v1/teams/default/secrets",
    ):
        answer = await house.get(path)
        assert answer.status == 200, answer.text
        assert VALUE not in answer.text and "sealed:" not in answer.text, path
    told = await house.collect(f"{WEB}/events?since=0.0.0.0", lambda found: "•••• (" in str(found))
    assert "sealed:" not in str(told)


async def test_a_task_gets_it_too_and_says_why_it_cannot_once_the_key_is_gone(house: House) -> None:
    await deployed(house)
    await set_secret(house)

    ran = await house.post(f"{WEB}/tasks", {"command": "report"})
    assert (await house.ended(ran.json["operation"]))["status"] == "succeeded"
    assert house.world.ordered[-1].kind == "task" and house.world.ordered[-1].config == {"PASSWORD": VALUE}

    await house.post("/v1/teams/default/keys/destroy")
    await house.until("/v1/teams/default/keys", lambda found: found["items"][0]["destroyed_at"])
    refused = await house.post(f"{WEB}/tasks", {"command": "report"})
    ended = await house.ended(refused.json["operation"])
    assert ended["status"] == "failed" and "PASSWORD cannot be read any more" in ended["reason"]


async def test_the_log_and_the_read_models_hold_the_sealed_text_only(house: House) -> None:
    await deployed(house)
    await set_secret(house)

    events = [e.record for p in range(house.log.partitions) async for batch in house.log.read(p, 0) for e in batch]
    release = next(bytes(r.body) for r in reversed(events) if r.type == "ReleaseCreated")
    assert b"sealed:1:default:" in release
    assert not any(VALUE.encode() in bytes(record.body) for record in events)
    files = [path for path in (house.data / "sql").iterdir() if path.is_file()]
    assert files and not any(VALUE.encode() in path.read_bytes() for path in files)


async def test_the_same_value_again_is_no_release_and_another_one_is(house: House) -> None:
    await deployed(house)
    await set_secret(house)
    first = await shown(house)

    again = await house.call("PATCH", f"{WEB}/config", {"secret": {"PASSWORD": VALUE}})
    await set_secret(house, value="another")

    assert again.status == 200 and again.json["operation"] is None, "nothing came of it"
    assert await shown(house) != first
    assert len((await house.get(f"{WEB}/releases")).json["items"]) == 3


async def test_a_secret_is_not_overwritten_readable_by_a_forgotten_flag(house: House) -> None:
    await deployed(house)
    await set_secret(house)

    refused = await house.call("PATCH", f"{WEB}/config", {"set": {"PASSWORD": "oops"}})

    assert refused.status == 409 and "oops" not in refused.text
    assert "--secret" in refused.json["hint"]
    assert not any("oops" in str(e) for e in (await house.get(f"{WEB}/events?limit=200")).json["items"])


@pytest.mark.parametrize(
    "body",
    [
        {"secret": {"PASSWORD": f"{VALUE}\u0000"}},
        {"secret": {"PORT": VALUE}},
        {"secret": {"bad name": VALUE}},
        {"secret": {"PASSWORD": VALUE}, "set": {"PASSWORD": "x"}},
        {"secret": {"PASSWORD": [VALUE]}},
        {"secret": {"PASSWORD": VALUE * 4000}},
        {"secret": {"PASSWORD": VALUE}, "unknown": 1},
    ],
)
async def test_a_body_that_is_refused_is_refused_without_repeating_the_value(house: House, body: Any) -> None:
    await deployed(house)

    answer = await house.call("PATCH", f"{WEB}/config", body)

    assert answer.status == 422
    assert VALUE not in answer.text


async def test_a_sealed_text_is_not_taken_for_a_value(house: House) -> None:
    """Else one who sees a sealed text could have it opened by a component that prints its environment."""
    await deployed(house)
    await set_secret(house)
    events = [e.record for p in range(house.log.partitions) async for batch in house.log.read(p, 0) for e in batch]
    found = re.search(rb"sealed:1:[\w:-]+", b"".join(bytes(r.body) for r in events))
    assert found is not None and is_sealed(found[0].decode())

    for how in ("set", "secret"):
        refused = await house.call("PATCH", f"{WEB}/config", {how: {"OTHER": found[0].decode()}})
        assert refused.status == 422, refused.text


async def test_going_back_to_a_release_brings_its_secret_back(house: House) -> None:
    await deployed(house)
    await set_secret(house)
    await set_secret(house, value="another")
    answer = await house.post(f"{WEB}/rollbacks", {"to": 2})

    assert (await house.ended(answer.json["operation"]))["status"] == "succeeded"

    assert house.world.ordered[-1].config == {"PASSWORD": VALUE}


async def test_after_its_key_is_destroyed_a_secret_cannot_start_and_what_runs_goes_on(house: House) -> None:
    await deployed(house)
    await set_secret(house)
    serving = (await house.get(f"{WEB}/instances")).json["items"][0]["instance"]

    destroyed = await house.post("/v1/teams/default/keys/destroy", {"reason": "ann has left"})

    assert destroyed.status == 202, destroyed.text
    keys = await house.until("/v1/teams/default/keys", lambda found: found["items"][0]["destroyed_at"])
    assert keys["items"][0]["reason"] == "ann has left" and not keys["items"][0]["active"]
    answer = await house.post(f"{WEB}/restart")
    operation = await house.ended(answer.json["operation"])
    assert operation["status"] == "failed"
    assert "PASSWORD cannot be read any more" in operation["reason"] and "ann has left" in operation["reason"]
    instances = (await house.get(f"{WEB}/instances")).json["items"]
    assert [i["instance"] for i in instances if i["status"] == "ready"] == [serving]
    assert (await house.get("/v1/teams/default/secrets")).json["items"][0]["readable"] is False
    events = (await house.get("/v1/events?stream=team%2Fdefault&limit=50")).json["items"]
    told = next(e for e in events if e["type"] == "TeamKeyDestroyed")
    assert told["body"]["why"] == "ann has left" and told["body"]["by"]
    # A new value is sealed with a new key, and runs.
    assert (await set_secret(house, value="new"))["status"] == "succeeded"
    assert house.world.ordered[-1].config == {"PASSWORD": "new"}
    assert [k["active"] for k in (await house.get("/v1/teams/default/keys")).json["items"]] == [False, True]


async def test_a_destruction_that_was_cut_off_is_carried_out_all_the_same(house: House) -> None:
    await deployed(house)
    await set_secret(house)
    arm("effects.key-destroyed", "once-error")
    try:
        await house.post("/v1/teams/default/keys/destroy", {"reason": "r"})
        await house.until("/v1/events?stream=team%2Fdefault&type=TeamKeyDestroyed", lambda found: found["items"])
    finally:
        disarm("effects.key-destroyed")
    again = await house.post("/v1/teams/default/keys/destroy", {"reason": "again"})

    events = (await house.get("/v1/events?stream=team%2Fdefault&limit=50")).json["items"]
    assert again.json["position"] == events[-1]["position"] and events[-1]["type"] == "TeamKeyDestroyed"
    assert (await house.get("/v1/teams/default/keys")).json["items"][0]["reason"] == "r"


async def test_what_an_earlier_owner_may_have_started_is_ended_when_it_cannot_be_opened(house: House) -> None:
    """The key can go between a start and the word of it, which the owner that died never gave."""
    await deployed(house)
    await set_secret(house)
    await house.post("/v1/teams/default/keys/destroy")
    await house.until("/v1/teams/default/keys", lambda found: found["items"][0]["destroyed_at"])
    house.world.stopped.clear()
    arm("effects.cannot-start", "once-error")
    try:
        answer = await house.post(f"{WEB}/restart")
        operation = await house.ended(answer.json["operation"])
    finally:
        disarm("effects.cannot-start")

    assert operation["status"] == "failed" and "cannot be read any more" in operation["reason"]
    [first, again] = house.world.stopped
    assert first == again, "the same instance, ended before and after the owner's death"


async def test_rotating_the_master_key_changes_nothing_for_anybody(house: House) -> None:
    await deployed(house)
    await set_secret(house)

    told = await house.post("/v1/keys/rotate-master")

    assert told.status == 200 and told.json["rewrapped"] == 1
    assert told.json["before"] != told.json["after"]
    answer = await house.post(f"{WEB}/restart")
    assert (await house.ended(answer.json["operation"]))["status"] == "succeeded"
    assert house.world.ordered[-1].config == {"PASSWORD": VALUE}


async def test_a_team_sees_and_touches_its_own_keys_only(house: House) -> None:
    await deployed(house)
    await set_secret(house)
    token = await house.team("bank")

    assert (await house.get("/v1/teams/default/keys", token=token)).status == 404
    assert (await house.get("/v1/teams/default/secrets", token=token)).status == 404
    assert (await house.post("/v1/teams/default/keys/destroy", token=token)).status == 404
    assert (await house.post("/v1/keys/rotate-master", token=token)).status == 404
    assert (await house.post("/v1/teams/bank/keys/destroy", token=token)).status == 404, "it has none"


async def test_without_the_master_key_it_says_so_and_takes_nothing(house: House) -> None:
    await deployed(house)
    (house.data / "master.key").rename(house.data / "elsewhere")

    answer = await house.call("PATCH", f"{WEB}/config", {"secret": {"PASSWORD": VALUE}})

    assert answer.status == 503 and answer.json["code"] == "secrets"
    assert VALUE not in answer.text
    assert (await house.get(f"{WEB}/config")).json["config"] == {}


async def test_with_another_master_key_none_is_readable_and_status_says_which_is_needed(house: House) -> None:
    await deployed(house)
    await set_secret(house)
    path = house.data / MASTER_KEY_FILE
    own = path.read_text()
    assert (await house.get("/v1/teams/default/secrets")).json["items"][0]["readable"] is True
    assert (await house.get("/v1/status")).json["ready"]

    path.unlink()
    ensure_master_file(path)

    assert (await house.get("/v1/teams/default/secrets")).json["items"][0]["readable"] is False
    status = (await house.get("/v1/status")).json
    [check] = [check for check in status["checks"] if check["name"] == "master key"]
    assert not status["ready"] and check["waiting"] and "expected the master key" in check["found"]
    path.write_text(own)
    assert (await house.get("/v1/status")).json["ready"]
