"""Many changes in one request: each is done, refused and answered as the request of its own would be."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from events.model.base import Envelope, Reply
from tests.api.http.conftest import House

pytestmark = pytest.mark.servers

COMPONENTS = "/v1/teams/default/apps/shop/components"
WEB = COMPONENTS + "/web"


def sets(path: str, *, key: str | None = None, **values: str) -> dict[str, object]:
    asked: dict[str, object] = {"method": "PATCH", "path": path + "/config", "body": {"set": values}}
    return asked if key is None else {**asked, "idempotency_key": key}


async def sent(house: House, *commands: object, **given: Any) -> list[Any]:
    answer = await house.post("/v1/commands", {"commands": commands}, **given)
    assert answer.status == 200, answer.text
    assert len(answer.json["results"]) == len(commands)
    return list(answer.json["results"])


async def made(house: House, *names: str, team: str = "default", token: str | None = None) -> list[str]:
    """Components of the app `shop`; the path of each."""
    given = {} if token is None else {"token": token}
    base = f"/v1/teams/{team}/apps"
    await house.settled((await house.post(base, {"name": "shop"}, **given)).json["position"])
    for name in names:
        answer = await house.post(f"{base}/shop/components", {"name": name}, **given)
        assert answer.status == 201, answer.text
        await house.settled(answer.json["position"])
    return [f"{base}/shop/components/{name}" for name in names]


async def config_of(house: House, path: str, position: str) -> dict[str, str]:
    found = await house.get(f"{path}/config?min_position={position}")
    return dict(found.json["config"])


async def events_of(house: House, path: str) -> list[tuple[str, str]]:
    events = (await house.get(path + "/events")).json["items"]
    return [(event["type"], event["reason"]) for event in events]


async def test_a_mixed_list_is_answered_in_order_as_each_alone_would_be(house: House) -> None:
    web, api = await made(house, "web", "api")
    results = await sent(
        house,
        sets(web, COLOR="blue"),
        sets(COMPONENTS + "/nowhere", COLOR="blue"),
        {"method": "PATCH", "path": api, "body": {"scale": 3, "settings": {"probe_path": "/up"}, "reason": "a sale"}},
        {"method": "PATCH", "path": api, "body": {"scale": 1_000}},
        {"method": "POST", "path": api + "/routes", "body": {"host": "shop.example.com"}},
        {"method": "DELETE", "path": api + "/routes?host=nobody.example.com"},
        {"method": "PATCH", "path": web + "/probes", "body": {"path": "/ready"}},
        {"method": "PATCH", "path": web + "/retention", "body": {"keep": 3}},
        {"method": "POST", "path": web + "/rollbacks"},
    )
    assert [result["status"] for result in results] == [202, 404, 202, 422, 202, 404, 202, 200, 409]
    for result in results:
        assert (result["accepted"] is None) == (result["status"] >= 400)
        assert (result["problem"] is None) == (result["status"] < 400)
    first, missing, _, too_many, *_ = results
    assert first["accepted"]["team"] == "default" and first["accepted"]["operation"]
    assert missing["problem"]["code"] == "not_found" and missing["problem"]["request_id"]
    assert too_many["problem"]["errors"][0]["field"] == "scale"

    single = await house.call("PATCH", COMPONENTS + "/nowhere/config", {"set": {"COLOR": "blue"}})
    alike = ("type", "title", "status", "detail", "code", "hint", "errors", "events")
    assert {name: single.json[name] for name in alike} == {name: missing["problem"][name] for name in alike}

    last = results[7]["accepted"]["position"]
    assert (await config_of(house, web, last)) == {"COLOR": "blue"}
    told = (await house.get(f"{api}?min_position={results[4]['accepted']['position']}")).json
    assert (told["scale"], told["settings"]["probe_path"]) == (3, "/up")
    events = (await house.get(api + "/events")).json["items"]
    assert "shop.example.com" in str([event["body"] for event in events if event["type"] == "SpecChanged"])


async def test_what_goes_on_is_accepted_with_its_operation(house: House) -> None:
    await house.ended((await house.deploy(WEB)).json["operation"])
    [restart] = await sent(house, {"method": "POST", "path": WEB + "/restart", "body": {"reason": "a leak"}})
    assert restart["status"] == 202
    operation = await house.ended(restart["accepted"]["operation"])
    assert (operation["kind"], operation["status"], operation["message"]) == ("restart", "succeeded", "a leak")
    nightly = {"name": "nightly", "schedule": "0 3 * * *", "command": "x"}
    made, suspended, run, again, end = await sent(
        house,
        {"method": "POST", "path": WEB + "/crons", "body": nightly},
        {"method": "PATCH", "path": WEB + "/crons/nightly", "body": {"suspended": True}},
        {"method": "POST", "path": WEB + "/crons/nightly/runs"},
        {"method": "DELETE", "path": WEB + "/crons/nightly?reason=no%20more"},
        {"method": "DELETE", "path": WEB + "?reason=the%20end"},
    )
    statuses = [result["status"] for result in (made, suspended, run, again, end)]
    assert statuses == [200, 200, 202, 200, 202]
    await house.ended(end["accepted"]["operation"])


async def test_changes_of_one_component_are_decided_in_their_order(house: House) -> None:
    web, api = await made(house, "web", "api")
    results = await sent(house, *(sets((web, api)[n % 3 == 2], N=str(n)) for n in range(30)))
    versions = [r["accepted"]["version"] for n, r in enumerate(results) if n % 3 != 2]
    assert versions == sorted(set(versions)) and len(versions) == 20
    assert (await config_of(house, web, results[28]["accepted"]["position"])) == {"N": "28"}
    assert (await config_of(house, api, results[29]["accepted"]["position"])) == {"N": "29"}


async def test_a_change_that_is_made_of_what_is_there_sees_those_before_it(house: House) -> None:
    [web] = await made(house, "web")
    asked: list[dict[str, object]] = [{"require": {"disk": "ssd"}}, {"spread": "zone"}, {"stateful": True}]
    results = await sent(house, *({"method": "PATCH", "path": web + "/placement", "body": body} for body in asked))
    assert [result["status"] for result in results] == [200, 200, 200]
    found = (await house.get(web + "/placement")).json
    assert (found["require"], found["spread"], found["stateful"]) == ({"disk": "ssd"}, "zone", True)


async def test_an_id_has_one_effect_in_a_list_across_lists_and_alone(house: House) -> None:
    web, api = await made(house, "web", "api")
    first, again, other = await sent(
        house, sets(web, key="k1", N="1"), sets(web, key="k1", N="2"), sets(api, key="k1", N="3")
    )
    assert first["accepted"] == again["accepted"]
    assert other["accepted"]["service_id"] != first["accepted"]["service_id"]

    assert (await sent(house, sets(web, key="k1", N="4")))[0] == first
    alone = await house.call("PATCH", web + "/config", {"set": {"N": "5"}}, Idempotency_Key="k1")
    assert alone.json == first["accepted"]
    written_otherwise = sets(web.replace("/web", "/%77eb"), key="k1", N="6")
    assert (await sent(house, written_otherwise))[0] == first
    assert (await config_of(house, web, first["accepted"]["position"])) == {"N": "1"}
    assert (await config_of(house, api, other["accepted"]["position"])) == {"N": "3"}


async def test_an_expected_version_that_moved_refuses_that_command_only(house: House) -> None:
    [web] = await made(house, "web")
    version = (await house.get(web)).json["version"]
    good, late, free = await sent(
        house,
        {**sets(web, N="1"), "if_match": version},
        {**sets(web, N="2"), "if_match": version},
        sets(web, N="3"),
    )
    assert (good["status"], late["status"], free["status"]) == (202, 412, 202)
    between = [event["version"] for event in late["problem"]["events"]]
    assert between == list(range(version + 1, good["accepted"]["version"] + 1))


async def test_another_teams_component_is_not_there(house: House) -> None:
    [web] = await made(house, "web")
    token = await house.team("others")
    [theirs] = await made(house, "web", team="others", token=token)
    before = await events_of(house, web)
    mine, not_mine, nothing = await sent(
        house, sets(theirs, N="1"), sets(web, N="1"), sets("/v1/teams/nobody/apps/a/components/c", N="1"), token=token
    )
    assert (mine["status"], not_mine["status"], nothing["status"]) == (202, 404, 404)
    assert {**not_mine["problem"], "request_id": ""} == {**nothing["problem"], "request_id": ""}
    alone = await house.call("PATCH", web + "/config", {"set": {"N": "1"}}, token=token)
    assert (alone.status, alone.json["detail"]) == (404, not_mine["problem"]["detail"])
    assert await events_of(house, web) == before
    both = await sent(house, sets(theirs, N="2"), sets(web, N="2"))
    assert [result["status"] for result in both] == [202, 202]


@pytest.mark.parametrize("token", [None, "rfa_" + "f" * 64])
async def test_without_a_good_token_nothing_is_done(house: House, token: str | None) -> None:
    answer = await house.post("/v1/commands", {"commands": [sets(WEB, N="1")]}, token=token)
    assert answer.status == 401


async def test_a_secret_is_sealed_and_never_shown(house: House) -> None:
    [web] = await made(house, "web")
    results = await sent(
        house,
        {"method": "PATCH", "path": web + "/config", "body": {"secret": {"KEY": "hunter2hunter2"}}},
        {"method": "PATCH", "path": web + "/config", "body": {"secret": {"KEY": "a\u0007b"}, "set": {"KEY": "x"}}},
    )
    assert [result["status"] for result in results] == [202, 422]
    shown = await house.get(f"{web}/config?min_position={results[0]['accepted']['position']}")
    assert shown.json["secret"] == ["KEY"]
    assert "hunter2" not in shown.text


async def test_the_reason_is_the_commands_own_or_the_lists(house: House) -> None:
    [web] = await made(house, "web")
    own = sets(web, N="2")
    own["body"] = {"set": {"N": "2"}, "reason": "its own"}
    results = await sent(house, sets(web, N="1"), own, X_Rayfold_Reason="for%20all")
    await house.settled(results[1]["accepted"]["position"])
    assert [reason for kind, reason in await events_of(house, web) if kind == "SpecChanged"] == ["for all", "its own"]


@pytest.mark.parametrize(
    ("commands", "status", "field"),
    [
        ([], 422, "commands"),
        ([sets(WEB, N="1")] * 513, 422, "commands"),
        ([sets(WEB, N="1"), {"path": WEB}], 422, "commands.1.method"),
        ([sets(WEB, N="1"), {"method": "GET", "path": WEB}], 422, "commands.1.method"),
        ([{"method": "PATCH", "path": "/healthz"}], 422, "commands.0.path"),
        ([{"method": "PATCH", "path": WEB, "body": [1]}], 422, "commands.0.body"),
        ([{"method": "PATCH", "path": WEB, "idempotency_key": "a b"}], 422, "commands.0.idempotency_key"),
        ([{"method": "PATCH", "path": WEB, "if_match": -1}], 422, "commands.0.if_match"),
        ([{"method": "PATCH", "path": WEB, "words": 1}], 422, "commands.0.words"),
        ([{"method": "PATCH", "path": WEB, "body": {"set": {"A": "\0"}}}], 422, None),
    ],
)
async def test_a_list_that_is_none_is_refused_whole_and_names_the_command(
    house: House, commands: list[object], status: int, field: str | None
) -> None:
    [web] = await made(house, "web")
    before = await events_of(house, web)
    answer = await house.post("/v1/commands", {"commands": commands})
    assert (answer.status, answer.json["code"]) == (status, "invalid")
    if field is not None:
        assert answer.json["errors"][0]["field"].startswith(field)
    assert await events_of(house, web) == before


async def test_what_is_no_json_is_malformed_and_what_is_too_long_too_large(house: House) -> None:
    json = {"Content_Type": "application/json"}
    assert (await house.call("POST", "/v1/commands", data=b'{"commands": [', **json)).status == 400
    assert (await house.call("POST", "/v1/commands", data=b" " * (4 << 20) + b"{}", **json)).status == 413
    whole = await house.post("/v1/commands", {"commands": [sets(WEB, N="1")]}, Idempotency_Key="one-for-all")
    assert whole.status == 422 and "each" in whole.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", WEB + "/deploys", "a change of a component"),
        ("DELETE", "/v1/teams/default/apps/shop", "a change of a component"),
        ("PATCH", "/v1/pools/builder", "a change of a component"),
        ("PATCH", "/v1/nothing", "a change of a component"),
        ("PATCH", "/v1/teams/default/apps/shop/components/web/config/more", "a change of a component"),
        ("PATCH", "/v1/teams/default/apps/shop/components/Web/config", "a component name"),
        ("PATCH", "/v1/teams/default/apps/shop/components/a%2Fb/config", "a component name"),
        ("DELETE", WEB + "/routes", "host"),
        ("DELETE", WEB + "?reason=a&reason=b", "once"),
        ("DELETE", WEB + "?why=a", "why"),
        ("PATCH", WEB, "found none"),
    ],
)
async def test_what_may_not_be_in_a_list_is_refused_alone(house: House, method: str, path: str, words: str) -> None:
    [web] = await made(house, "web")
    refused, done = await sent(house, {"method": method, "path": path}, sets(web, N="1"))
    assert (refused["status"], refused["problem"]["code"]) == (422, "invalid")
    assert words in refused["problem"]["detail"]
    assert done["status"] == 202


async def test_what_finds_no_room_is_told_so_alone_and_a_defect_tells_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, api, job = await made(house, "web", "api", "job")
    supervisor = house.world.supervisor
    lists: list[int] = []
    submit = supervisor.submit

    async def little_room(envelopes: Sequence[Envelope]) -> list[Reply]:
        lists.append(len(envelopes))
        full = Reply(command_id=envelopes[1].command_id, error="overloaded", error_message="no room")
        return [*await submit(envelopes[:1]), full, *await submit(envelopes[2:])]

    monkeypatch.setattr(supervisor, "submit", little_room)
    first, full, last = await sent(house, sets(web, N="1"), sets(api, N="1"), sets(job, N="1"))
    assert (first["status"], full["status"], last["status"]) == (202, 429, 202)
    assert (full["problem"]["code"], full["retry_after"], first["retry_after"]) == ("overloaded", 1, None)
    assert lists == [3], "they are sent together"

    async def broken(envelopes: Sequence[Envelope]) -> list[Reply]:
        raise KeyError("a secret of ours")

    monkeypatch.setattr(supervisor, "submit", broken)
    answer = await house.post("/v1/commands", {"commands": [sets(web, N="2"), sets(api, N="2")]})
    assert [result["status"] for result in answer.json["results"]] == [500, 500]
    assert "secret of ours" not in answer.text


async def test_a_list_that_takes_too_long_is_told_so_and_may_be_sent_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, api = await made(house, "web", "api")
    supervisor = house.world.supervisor
    submit, went = supervisor.submit, asyncio.Event()

    async def slow(envelopes: Sequence[Envelope]) -> list[Reply]:
        replies = await submit(envelopes)
        went.set()
        await asyncio.sleep(3600)
        return replies

    commands = [sets(web, key="w", N="1"), sets(api, key="a", N="1")]
    monkeypatch.setattr("api.http.deadlines.LOOK_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "submit", slow)
    within = house_deadline(monkeypatch)
    late = await house.post("/v1/commands", {"commands": commands})
    assert (late.status, late.json["code"]) == (503, "unavailable")
    assert went.is_set() and within == [60.0]
    monkeypatch.setattr(supervisor, "submit", submit)
    results = await sent(house, *commands)
    assert [result["status"] for result in results] == [202, 202]
    assert [kind for kind, _ in await events_of(house, web)].count("SpecChanged") == 1


def house_deadline(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Requests get a twentieth of a second; the seconds that each would have had."""
    from api.http.deadlines import Deadlines, Within

    asked: list[float] = []

    def within(self: Deadlines, seconds: float) -> Within:
        asked.append(seconds)
        return Within(self, 0.05)

    monkeypatch.setattr(Deadlines, "within", within)
    return asked
