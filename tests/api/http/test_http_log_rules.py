"""Rules for log lines over HTTP: the team's and each component's, changed in part, and what only the operator sets."""

from tests.api.http.conftest import House

TEAM = "/v1/teams/default/log-rules"
WEB = "/v1/teams/default/apps/shop/components/web"


async def items(house: House, token: str | None = None) -> list[object]:
    answer = await (house.get(TEAM, token=token) if token else house.get(TEAM))
    assert answer.status == 200, answer.text
    return [{k: v for k, v in each.items() if v not in (None, "")} for each in answer.json["items"]]


async def test_rules_are_set_for_a_component_and_its_team(house: House) -> None:
    await house.settled((await house.deploy(WEB)).json["position"])
    assert await items(house) == []
    set_ = await house.call("PATCH", TEAM, {"keep_days": 7, "kib_per_second": 512, "redact": [r"card=\d+"]})
    assert set_.status == 200, set_.text
    own = await house.call("PATCH", f"{WEB}/log-rules", {"keep_days": 0, "reason": "audit"})
    await house.settled(own.json["position"])

    team = {"team": "default", "keep_days": 7, "kib_per_second": 512, "redact": [r"card=\d+"]}
    assert await items(house) == [team, {"team": "default", "app": "shop", "component": "web", "keep_days": 0}]
    assert (await house.get(f"{WEB}/log-rules")).json["keep_days"] == 0

    back = await house.call("PATCH", f"{WEB}/log-rules", {"keep_days": None})
    await house.settled(back.json["position"])
    assert await items(house) == [team]
    events = (await house.get("/v1/events?limit=200")).json["items"]
    assert [e["reason"] for e in events if e["type"] == "TeamLogRulesChanged"] == ["", "audit", ""]


async def test_what_cannot_be_is_refused_with_a_reason(house: House) -> None:
    await house.settled((await house.deploy(WEB)).json["position"])
    for body in ({}, {"redact": ["("]}, {"redact": ["a*"]}, {"keep_days": -1}, {"component_mib": 0}, {"lines": 1}):
        assert (await house.call("PATCH", TEAM, body)).status == 422, body
    assert (await house.call("PATCH", f"{WEB}/log-rules", {"team_gib": 5})).status == 422
    assert (await house.call("PATCH", f"{WEB}x/log-rules", {"keep_days": 5})).status == 404


async def test_a_team_sets_its_own_and_neither_its_rate_nor_anothers(house: House) -> None:
    await house.settled((await house.deploy(WEB)).json["position"])
    token = await house.team("others")
    theirs = "/v1/teams/others/log-rules"
    made = await house.call("PATCH", theirs, {"keep_days": 3}, token=token)
    assert made.status == 200, made.text
    for field in ("kib_per_second", "team_gib"):
        refused = await house.call("PATCH", theirs, {field: 1_000_000}, token=token)
        assert refused.status == 409 and "administrator" in refused.text
    assert (await house.call("PATCH", TEAM, {"keep_days": 3}, token=token)).status == 404
    assert (await house.get(TEAM, token=token)).status == 404
