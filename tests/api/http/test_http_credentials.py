"""Credentials for sources over HTTP: a secret comes in once, and nothing that is kept or told ever shows it."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from actors.builder.ssh_keys import fingerprint, make_pair
from tests.api.http.conftest import House

TEAM = "/v1/teams/default/credentials"
HOSTS = "/v1/teams/default/host-keys"
TOKEN = "correct-horse-battery-staple"
HTTPS = {"prefix": "https://git.example.com/acme", "token": TOKEN, "user": "ada"}
SSH = {"prefix": "ssh://git@git.example.com/acme"}
HOST_KEY = make_pair().public


async def put(house: House, name: str, body: object, **more: Any) -> Any:
    answer = await house.call("PUT", f"{TEAM}/{name}", body, **more)
    assert answer.status == 200, answer.text
    return answer.json


async def items(house: House, path: str = TEAM) -> list[Any]:
    answer = await house.get(path)
    assert answer.status == 200, answer.text
    return list(answer.json["items"])


async def stored(house: House) -> bytes:
    """Every event, whole, and every file of the read models."""
    events = [e.record for p in range(house.log.partitions) async for batch in house.log.read(p, 0) for e in batch]
    files = [path.read_bytes() for path in (house.data / "sql").iterdir() if path.is_file()]
    return b"".join(bytes(record.body) for record in events) + b"".join(files)


@pytest.fixture
async def default(house: House) -> House:
    """Once the read models know its team."""
    await house.until("/v1/teams/default", lambda found: found["team"] == "default")
    return house


async def test_a_token_is_kept_sealed_and_never_shown(default: House) -> None:
    kept = await put(default, "ci", {**HTTPS, "reason": "private packages"})
    assert {"kind": "password", "user": "ada", "public_key": "", "readable": True}.items() <= kept.items()
    await default.settled(kept["position"])

    [listed] = await items(default)
    assert listed == {key: value for key, value in kept.items() if key != "position"}
    everything = await stored(default)
    assert b"sealed:1:default:" in everything and TOKEN.encode() not in everything
    for path in (TEAM, "/v1/events?limit=200", "/v1/replay/team%2Fdefault", "/v1/diff/team%2Fdefault?from=1"):
        answer = await default.get(path)
        assert answer.status == 200, answer.text
        assert TOKEN not in answer.text and "sealed:" not in answer.text, path
    [event] = [e for e in (await default.get("/v1/events?limit=200")).json["items"] if e["type"].startswith("TeamCred")]
    assert event["reason"] == "private packages" and "•••• (" in str(event)


async def test_a_pair_is_made_here_and_stays_when_asked_for_again(default: House) -> None:
    first = await put(default, "deploy", SSH)
    again = await put(default, "deploy", SSH)
    assert first["public_key"].startswith("ssh-ed25519 ") and first["fingerprint"].startswith("SHA256:")
    assert again == first
    assert b"PRIVATE KEY" not in await stored(default)

    await default.call("DELETE", f"{TEAM}/deploy")
    assert (await put(default, "deploy", SSH))["public_key"] != first["public_key"]


async def test_the_same_request_again_has_the_answer_of_the_first(default: House) -> None:
    first = await put(default, "deploy", SSH, Idempotency_Key="one")
    again = await put(default, "deploy", SSH, Idempotency_Key="one")
    assert again == first


async def test_a_private_key_is_brought(default: House) -> None:
    pair = make_pair()
    kept = await put(default, "deploy", {**SSH, "private_key": pair.private})
    assert kept["public_key"] == pair.public and kept["fingerprint"] == fingerprint(pair.public)
    load_ssh_private_key(pair.private.encode(), None)
    assert await put(default, "deploy", {**SSH, "private_key": pair.private}) == kept


async def test_a_secret_does_not_go_to_another_prefix(default: House) -> None:
    await put(default, "ci", HTTPS)
    moved = await default.call("PUT", f"{TEAM}/ci", {"prefix": "https://evil.example.com"})
    assert moved.status == 422 and "expected a token" in moved.text


async def test_what_cannot_be_is_refused_and_no_answer_repeats_it(default: House) -> None:
    pair = make_pair()
    for body in (
        {},
        {"prefix": "https://git.example.com"},
        {"prefix": "https://git.example.com", "token": ""},
        {"prefix": "https://git.example.com", "token": f"{TOKEN}\nhost=evil.org"},
        {"prefix": "https://git.example.com", "token": TOKEN, "private_key": pair.private},
        {"prefix": "https://git.example.com", "token": TOKEN, "user": "a:b"},
        {"prefix": "http://git.example.com", "token": TOKEN},
        {"prefix": f"https://ada:{TOKEN}@git.example.com", "token": TOKEN},
        {"prefix": "ssh://git.example.com", "token": TOKEN},
        {"prefix": "ssh://git.example.com", "private_key": pair.public},
        {"prefix": "ssh://git.example.com", "private_key": TOKEN},
        {"prefix": "file:///srv/git", "token": TOKEN},
        {**HTTPS, "secret": TOKEN},
    ):
        answer = await default.call("PUT", f"{TEAM}/ci", body)
        assert answer.status == 422, (body, answer.text)
        assert TOKEN not in answer.text and pair.private[60:100] not in answer.text
    assert (await default.call("PUT", f"{TEAM}/No", HTTPS)).status == 422
    assert await items(default) == []


async def test_it_is_removed_and_then_not_there(default: House) -> None:
    await put(default, "ci", HTTPS)
    assert (await default.call("DELETE", f"{TEAM}/ci")).status == 200
    assert await items(default) == []
    assert (await default.call("DELETE", f"{TEAM}/ci")).status == 404


async def test_a_team_sees_its_own_and_no_other(default: House) -> None:
    await put(default, "ci", HTTPS)
    theirs = await default.team("others")
    assert (await default.get(TEAM, token=theirs)).status == 404
    assert (await default.call("PUT", f"{TEAM}/ci", HTTPS, token=theirs)).status == 404
    assert (await default.call("DELETE", f"{TEAM}/ci", token=theirs)).status == 404
    assert (await default.get("/v1/teams/others/credentials", token=theirs)).json["items"] == []
    assert (await default.call("PUT", "/v1/teams/nobody/credentials/ci", HTTPS)).status == 404
    keys = (await default.get("/v1/teams/nobody/keys")).status
    assert keys == 404


async def test_one_whose_key_is_destroyed_says_so(default: House) -> None:
    await put(default, "ci", HTTPS)
    await default.post("/v1/teams/default/keys/destroy")
    await default.until("/v1/teams/default/keys", lambda found: found["items"][0]["destroyed_at"])
    [listed] = await items(default)
    assert listed["readable"] is False
    assert (await put(default, "ci", HTTPS))["readable"] is True


async def test_host_keys_are_pinned_and_unpinned(default: House) -> None:
    pinned = await default.call("PUT", f"{HOSTS}/git.example.com%3A2222", {"keys": [HOST_KEY]})
    assert pinned.status == 200, pinned.text
    [listed] = await items(default, HOSTS)
    assert listed["host"] == "[git.example.com]:2222" and listed["fingerprints"] == [fingerprint(HOST_KEY)]
    for host, keys in (("git.example.com", ["ssh-rsa AAAA"]), ("a%20b", [HOST_KEY]), ("git.example.com", [])):
        assert (await default.call("PUT", f"{HOSTS}/{host}", {"keys": keys})).status == 422
    assert (await default.call("DELETE", f"{HOSTS}/%5Bgit.example.com%5D%3A2222")).status == 200
    assert await items(default, HOSTS) == []
    assert (await default.call("DELETE", f"{HOSTS}/git.example.com%3A2222")).status == 404
