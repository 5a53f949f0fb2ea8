"""Who gets in, what each reaches, and that bad input gets a clear answer and changes nothing."""

import asyncio
import json

import pytest

from tests.api.http.conftest import ADMIN, House

pytestmark = pytest.mark.servers

APPS = "/v1/teams/default/apps"
WEB = APPS + "/shop/components/web"


@pytest.mark.parametrize("token", [None, "", "rfa_" + "f" * 64, "short", "x" * 5000])
async def test_without_a_good_token_nothing_is_told(house: House, token: str | None) -> None:
    for path in ("/v1/teams", WEB, "/v1/events", "/v1/nodes", "/metrics", "/v1/teams/NO/apps"):
        answer = await house.get(path, token=token)
        assert (answer.status, answer.json["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert (await house.get(path, token=token)).status == 200


async def test_other_schemes_and_tokens_in_the_query_are_no_tokens(house: House) -> None:
    assert (await house.get("/v1/teams", token=None, Authorization=f"Basic {ADMIN}")).status == 401
    assert (await house.get(f"/v1/teams?token={ADMIN}", token=None)).status == 401


async def test_a_team_reaches_its_own_and_nothing_else(house: House) -> None:
    mill, shop = await house.team("mill"), await house.team("shop")
    theirs = "/v1/teams/mill/apps/grind/components/web"
    made = await house.deploy(theirs, token=mill)
    operation = made.json["operation"]
    await house.ended(operation)
    build = (await house.get(f"{theirs}/builds", token=mill)).json["items"][0]["build"]
    stream = made.json["stream"]

    for path in (
        "/v1/teams/mill",
        "/v1/teams/mill/apps",
        theirs,
        f"{theirs}/config",
        f"{theirs}/logs",
        f"{theirs}/builds/{build}",
        f"/v1/operations/{operation}",
        f"/v1/operations/{operation}/events",
        f"/v1/replay/{stream}",
        f"/v1/diff/{stream}?from=v1",
        "/v1/replay/team/mill",
        f"/v1/replay/{stream}/steps",
        "/v1/diff?app=grind&team=mill&from=1h",
        f"/v1/why/{stream}/scale",
        f"/v1/check/{stream}",
        f"/v1/export/{stream}",
        "/v1/export?app=grind&team=mill",
        "/v1/events?team=mill",
        f"/v1/teams/shop/apps/grind/components/web/builds/{build}",
        "/v1/nodes",
        "/v1/pools",
        "/v1/projections",
    ):
        assert (await house.get(path, token=shop)).status == 404, path
    for method, path, body in (
        ("POST", f"{theirs}/restart", {}),
        ("POST", f"/v1/whatif/{stream}", {"commands": [{"type": "Restart"}]}),
        ("PATCH", f"{theirs}/config", {"set": {"A": "1"}}),
        ("DELETE", "/v1/teams/mill/apps/grind", None),
        ("POST", f"/v1/operations/{operation}/cancel", {}),
        ("POST", "/v1/teams", {"name": "new"}),
        ("POST", "/v1/projections/teams/rebuild", {}),
    ):
        assert (await house.call(method, path, body, token=shop)).status == 404, path
    assert [t["team"] for t in (await house.get("/v1/teams", token=shop)).json["items"]] == ["shop"]
    events = (await house.get("/v1/events", token=shop)).json["items"]
    assert {event["team"] for event in events} == {"shop"}
    assert (await house.get("/v1/operations", token=shop)).json["items"] == []
    assert (await house.get(f"/v1/operations/{operation}", token=mill)).status == 200
    assert (await house.get(theirs, token=mill)).json["urls"] == ["http://grind--mill.localhost:8080/"]


async def test_another_teams_key_never_gives_anothers_result(house: House) -> None:
    mill, shop = await house.team("mill"), await house.team("shop")
    one = await house.deploy("/v1/teams/mill/apps/a/components/web", token=mill, Idempotency_Key="same")
    two = await house.deploy("/v1/teams/shop/apps/a/components/web", token=shop, Idempotency_Key="same")

    assert one.json["operation"] != two.json["operation"]


async def test_a_token_can_be_issued_and_ended(house: House) -> None:
    first = await house.team("mill")
    issued = await house.post("/v1/teams/mill/tokens", {"name": "ci"}, token=first, Idempotency_Key="t1")
    assert issued.status == 201
    again = await house.post("/v1/teams/mill/tokens", {"name": "ci"}, token=first, Idempotency_Key="t1")
    assert again.json["token"] == issued.json["token"]
    await house.settled(issued.json["position"])
    ci = issued.json["token"]
    assert (await house.get("/v1/teams/mill", token=ci)).json["tokens"] == ["ci", "first"]
    ended = await house.call("DELETE", "/v1/teams/mill/tokens/ci", token=first)
    assert ended.status == 200
    await house.settled(ended.json["position"])
    assert (await house.get("/v1/teams/mill", token=ci)).status == 401
    text = json.dumps((await house.get("/v1/events")).json)
    assert ci not in text
    assert first not in text


@pytest.mark.parametrize(
    "name",
    ["%2F", "a%2Fb", "%2E%2E", "..%2F..%2Fetc", "%00", "a%00b", "a" * 41, "a" * 10_000, "%C3%A9" * 3_000, "Shop",
     "a--b", "-a", "%FF%FE", "%20", "%E2%80%AE", "a%0Ab"],
)  # fmt: skip
async def test_names_that_are_none_get_a_clear_answer(house: House, name: str) -> None:
    for path in (f"{APPS}/{name}", f"/v1/teams/{name}/apps", f"{APPS}/shop/components/{name}/config"):
        answer = await house.get(path)
        assert 400 <= answer.status < 500, (path[:80], answer.status)
        assert len(answer.text) < 2_000
    for path in (f"{APPS}/{name}/components/web/restart", f"{APPS}/shop/components/{name}/tasks"):
        assert 400 <= (await house.post(path, {"command": "x"})).status < 500


@pytest.mark.parametrize("name", ["a/b", "..", "a\0b", "a" * 10_000, "", "é", 7, None, ["a"]])
async def test_names_in_bodies_are_checked_too(house: House, name: object) -> None:
    answer = await house.post(APPS, {"name": name})

    assert answer.status == 422
    assert answer.json["code"] == "invalid"
    assert (await house.get(APPS)).json["items"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"name": NaN}', 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b"null", 422),
        (b'{"name": "a", "nmae": "b"}', 422),
        (b'{"name": "\\u0000"}', 422),
        (b'{"name": "\\ud800"}', 400),
        (b'{"name": ' + b"9" * 10_000 + b"}", 400),
        (b'{"name": "a"' + b" " * (5 * 1024 * 1024) + b"}", 413),
    ],
)
async def test_malformed_bodies(house: House, body: bytes, status: int) -> None:
    answer = await house.call("POST", APPS, data=body, Content_Type="application/json")

    assert answer.status == status, answer.text
    assert (await house.get(APPS)).json["items"] == []


async def test_other_media_types_unknown_paths_and_methods(house: House) -> None:
    assert (await house.call("POST", APPS, data=b"name=a", Content_Type="text/plain")).status == 415
    assert (await house.get("/v1/nothing")).status == 404
    wrong = await house.call("PUT", APPS)
    assert (wrong.status, wrong.json["code"]) == (405, "method_not_allowed")
    assert "GET" in wrong.headers["allow"]


async def test_parameters_are_checked(house: House) -> None:
    for query in (
        "limit=0",
        "limit=x",
        "limt=5",
        "limit=1&limit=2",
        "min_position=1",
        "min_position=9999:1",
        "cursor=x",
    ):
        answer = await house.get(f"{APPS}?{query}")
        assert answer.status == 422, query
    for key in ("a b", "x" * 65, "é", ""):
        assert (await house.post(APPS, {"name": "a"}, Idempotency_Key=key)).status == 422


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "git", "url": "--upload-pack=touch /tmp/x"},
        {"kind": "git", "url": "ext::sh -c touch% /tmp/x"},
        {"kind": "git", "url": "https://user:secret@example.com/a.git"},
        {"kind": "git", "url": "https://example.com/a.git", "ref": "--exec=x"},
        {"kind": "git", "url": "https://example.com/a.git", "subdir": "../.."},
        {"kind": "git", "url": "https://example.com/a.git", "subdir": "/etc"},
        {"kind": "upload", "digest": "0" * 64},
        {"kind": "upload", "digest": "../../etc/passwd"},
        {"kind": "image", "url": "x"},
        {},
    ],
)
async def test_sources_that_are_refused_change_nothing(house: House, source: dict[str, str]) -> None:
    answer = await house.post(f"{WEB}/deploys", {"source": source})

    assert answer.status == 422, answer.text
    assert "secret" not in answer.json["detail"]
    assert (await house.get(APPS)).json["items"] == []


async def test_paths_of_this_machine_are_the_administrators(house: House) -> None:
    mill = await house.team("mill")
    source = {"kind": "git", "url": "file:///srv/repo"}
    path = "/v1/teams/mill/apps/a/components/web/deploys"
    assert (await house.post(path, {"source": source}, token=mill)).status == 422
    assert (await house.post(path, {"source": source})).status == 202


async def test_unknown_things_are_404(house: House) -> None:
    for path in (
        "/v1/teams/nobody",
        "/v1/teams/nobody/apps",
        f"{APPS}/shop",
        WEB,
        f"{WEB}/releases/1",
        f"{WEB}/builds/x",
        f"{WEB}/logs",
        "/v1/operations/01nothing",
        "/v1/replay/component/0123456789abcdef",
    ):
        answer = await house.get(path)
        assert (answer.status, answer.json["code"]) == (404, "not_found"), path
    refused = await house.post(f"{WEB}/restart")
    assert refused.status == 404
    assert (await house.deploy("/v1/teams/nobody/apps/a/components/web")).status == 404
    source = {"kind": "git", "url": "https://example.com/a.git"}
    assert (await house.post(f"{WEB}/deploys", {"source": source, "create": False})).status == 404


async def test_min_position_waits_and_gives_up_with_a_word(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.http.reads.WAIT_SECONDS", 0.2)
    ahead = await house.get(f"{APPS}?min_position=0:999999")
    assert (ahead.status, ahead.json["code"]) == (503, "behind")
    assert ahead.headers["retry-after"] == "1"


async def test_nothing_unexpected_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def burst() -> list[object]:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(house.parts, "pools", burst)
    answer = await house.get("/v1/pools")

    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "swordfish" not in answer.text
    assert answer.json["request_id"] == answer.headers["x-request-id"]


async def test_a_header_that_is_too_long_is_refused(house: House) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(house.url.rpartition(":")[2]))
    writer.write(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    first = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    assert first.split()[1] in (b"400", b"414", b"431")
