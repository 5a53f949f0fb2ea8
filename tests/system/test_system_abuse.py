"""Bad input: each gets a clear answer, and nothing has changed."""

import hashlib
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.system import apps
from tests.system.conftest import Deploy
from tests.system.platform import Platform

pytestmark = [pytest.mark.system, pytest.mark.servers]

APP = "/v1/teams/default/apps"
DEPLOYS = APP + "/steady/components/web/deploys"
GIB = 1 << 30
LONG = "x" * 10_000


@pytest.fixture
def steady(platform: Platform, deploy: Deploy) -> str:
    """An app that runs and must not change."""
    if platform.visit("steady").status != 200:
        deploy("steady", apps.web("steady"))
    return "steady"


def _problem(answer: Any, status: int, code: str = "") -> dict[str, Any]:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json
    assert problem["status"] == status
    assert problem["detail"] and problem["code"] and problem["request_id"]
    assert code in ("", problem["code"]), problem
    assert "Traceback" not in answer.text
    assert len(answer.text) < 5000, "a long input is not sent back whole"
    return problem


def _git(url: str, **more: str) -> dict[str, Any]:
    return {"source": {"kind": "git", "url": url, **more}}


@pytest.mark.parametrize(
    ("method", "target", "body", "raw", "status"),
    [
        ("GET", APP + "/nowhere", None, None, 404),
        ("PATCH", APP + "/nowhere/components/web", {"scale": 2}, None, 404),
        ("POST", APP + "/nowhere/components/web/rollbacks", {}, None, 404),
        ("POST", DEPLOYS, None, b'{"source": ', 400),
        ("POST", DEPLOYS, None, b"\xff\xfe", 400),
        ("POST", DEPLOYS, None, b"[" * 100_000, 400),
        ("POST", DEPLOYS, {"source": {"kind": "git"}}, None, 422),
        ("POST", DEPLOYS, {"source": {"kind": "upload", "digest": "0" * 64}}, None, 422),
        ("POST", DEPLOYS, {"source": {"kind": "upload", "digest": "0" * 64}, "scael": 1}, None, 422),
        ("POST", APP, {"name": "a/b"}, None, 422),
        ("POST", APP, {"name": ".."}, None, 422),
        ("POST", APP, {"name": "a\0b"}, None, 422),
        ("POST", APP, {"name": LONG}, None, 422),
        ("POST", APP, {"name": "Été"}, None, 422),
        ("POST", APP, {"name": "a--b"}, None, 422),
        ("GET", APP + "/a%2Fb", None, None, 422),
        ("GET", APP + "/%2E%2E/components", None, None, 422),
        ("GET", APP + "/a%00b", None, None, 422),
        ("GET", APP + "/" + LONG, None, None, 422),
        ("POST", APP + "/steady/components/%2e%2e%2f/deploys", _git("https://localhost/x"), None, 422),
        ("POST", DEPLOYS, _git("--upload-pack=touch /tmp/rf-escaped"), None, 422),
        ("POST", DEPLOYS, _git("ext::sh -c touch% /tmp/rf-escaped"), None, 422),
        ("POST", DEPLOYS, _git("https://user:password@localhost/x"), None, 422),
        ("POST", DEPLOYS, _git("https://localhost/x", ref="--upload-pack=x"), None, 422),
        ("POST", DEPLOYS, _git("https://localhost/x", subdir="../.."), None, 422),
        ("PATCH", APP + "/steady/components/web/config", {"set": {"PORT": "1"}}, None, 422),
        ("PATCH", APP + "/steady/components/web/config", {"set": {"A\0": "1"}}, None, 422),
        ("PATCH", APP + "/steady/components/web/config", {"set": {"A": "a\0b"}}, None, 422),
        ("PATCH", APP + "/steady/components/web", {"scale": -1}, None, 422),
        ("PATCH", APP + "/steady/components/web", {"settings": {"memory_bytes": "lots"}}, None, 422),
        ("POST", APP + "/steady/components/web/routes", {"host": "a b\r\nX: y"}, None, 422),
        ("DELETE", "/v1/events", None, None, 405),
    ],
)
def test_bad_requests(
    platform: Platform, steady: str, method: str, target: str, body: object, raw: bytes | None, status: int
) -> None:
    before = platform.events_in_all()

    answer = platform.http(method, target, body, raw=raw)

    # A path that is no name may as well be told as one that is not there.
    _problem(answer, 404 if status == 422 and method == "GET" and answer.status == 404 else status)
    assert platform.events_in_all() == before
    assert not Path("/tmp/rf-escaped").exists()


def test_what_the_command_line_says_of_it(platform: Platform, steady: str) -> None:
    before = platform.events_in_all()

    unknown = platform.cli("releases", "--app", "stedy", expect=3).error
    assert "stedy" in unknown["error"]
    assert "steady" in unknown["hint"]
    platform.cli("deploy", "ext::sh -c id", "--app", "steady", expect=2)
    platform.cli("deploy", "/nowhere/at/all", "--app", "steady", expect=2)
    platform.cli("status", token="x" * 43, expect=4)

    assert platform.events_in_all() == before


def test_an_upload_over_the_limit(platform: Platform) -> None:
    head = (
        f"PUT /v1/teams/default/uploads/{'0' * 64} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {platform.token}\r\nContent-Length: {GIB}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", platform.api_port), 10) as client:
        client.sendall(head.encode() + b"x" * 65536)
        answer = client.recv(65536).decode()

    assert answer.startswith("HTTP/1.1 413"), answer
    assert "too_large" in answer
    assert [path for path in (platform.data / "uploads").iterdir() if path.name.startswith(".partial")] == []


def test_an_upload_that_is_not_what_its_name_says(platform: Platform) -> None:
    target = f"/v1/teams/default/uploads/{'1' * 64}"

    _problem(platform.http("PUT", target, raw=b"something else"), 422, "digest_mismatch")
    assert platform.http("HEAD", target).status == 404


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o644
    return info


@pytest.mark.parametrize(
    "member",
    [
        _member("../../../../../../../../tmp/rf-escaped"),
        _member("/tmp/rf-escaped"),
        _member("out", tarfile.SYMTYPE, "/tmp/rf-escaped"),
        _member("out", tarfile.SYMTYPE, "../../../../../etc/passwd"),
        _member("out", tarfile.LNKTYPE, "/etc/passwd"),
        _member("device", tarfile.CHRTYPE),
    ],
    ids=lambda member: f"{member.name[-12:]}-{member.type!r}",
)
def test_an_archive_that_reaches_out(platform: Platform, steady: str, member: tarfile.TarInfo) -> None:
    before = platform.serving(steady)
    files = [(_member(name), text.encode()) for name, text in apps.web("hostile").items()]
    members = [*files, (member, b"" if member.type != tarfile.REGTYPE else b"escaped")]
    if member.type == tarfile.SYMTYPE:
        members.append((_member("out"), b"escaped"))  # and through the link, should it be there
    source = apps.tar(members)
    digest = hashlib.sha256(source).hexdigest()
    assert platform.http("PUT", f"/v1/teams/default/uploads/{digest}", raw=source).status in (200, 201)

    accepted = platform.http("POST", DEPLOYS, {"source": {"kind": "upload", "digest": digest}})
    ended = platform.ended(accepted.json["operation"])

    assert ended["status"] == "failed", ended
    assert member.name[:20] in ended["reason"], ended
    assert platform.serving(steady) == before
    assert not Path("/tmp/rf-escaped").exists()


@pytest.fixture
def stranger(platform: Platform) -> str:
    """The token of another team."""
    made = platform.http("POST", "/v1/teams", {"name": "strangers"}, headers={"Idempotency-Key": "strangers"})
    assert made.status == 201, made
    token: str = made.json["token"]
    assert platform.http("GET", f"/v1/teams?min_position={made.json['position']}").status == 200
    return token


def test_another_teams_app_is_not_there(platform: Platform, steady: str, stranger: str) -> None:
    service = platform.get(platform.component(steady))["service_id"]
    operation = platform.get(platform.component(steady, "operations?limit=1"))["items"][0]["operation"]
    before = platform.events_in_all()
    reads = [platform.component(steady, *rest) for rest in ((), ("config",), ("logs",), ("builds",), ("events",))]
    reads += [f"/v1/operations/{operation}", f"/v1/replay/component/{service}", "/v1/teams/default", "/v1/nodes"]
    reads += [f"/v1/diff/component/{service}?from=v1", "/v1/operations/" + operation + "/events"]
    writes: list[tuple[str, str, object]] = [
        ("POST", DEPLOYS, _git("https://localhost/x")),
        ("PATCH", platform.component(steady, "config"), {"set": {"A": "b"}}),
        ("PATCH", platform.component(steady), {"scale": 0}),
        ("POST", platform.component(steady, "rollbacks"), {}),
        ("POST", platform.component(steady, "tasks"), {"command": "id"}),
        ("DELETE", f"{APP}/{steady}", None),
        ("POST", "/v1/teams/default/tokens", {"name": "mine"}),
        ("POST", "/v1/teams", {"name": "more"}),
        ("POST", f"/v1/operations/{operation}/cancel", {}),
    ]

    for target in reads:
        _problem(platform.http("GET", target, token=stranger), 404, "not_found")
    for method, target, body in writes:
        _problem(platform.http(method, target, body, token=stranger), 404, "not_found")

    assert platform.http("GET", "/v1/teams/strangers", token=stranger).status == 200
    listed = platform.http("GET", "/v1/events?limit=1000", token=stranger).json["items"]
    assert {event["team"] for event in listed} <= {"strangers"}
    assert platform.http("GET", "/v1/operations", token=stranger).json["items"] == []
    assert platform.events_in_all() == before


def test_the_address_of_another_teams_app_cannot_be_taken(platform: Platform, steady: str, stranger: str) -> None:
    team, mine = "/v1/teams/strangers", "/v1/teams/strangers/apps/thief"
    for target, name in ((f"{team}/apps", "thief"), (f"{mine}/components", "web")):
        made = platform.http("POST", target, {"name": name}, token=stranger)
        assert made.status == 201, made
        assert platform.http("GET", f"{team}?min_position={made.json['position']}", token=stranger).status == 200
    serving, before = platform.serving(steady)["pid"], platform.events_in_all()

    for address in ({"host": "steady.localhost"}, {"host": "steady.localhost", "path": "/admin"}):
        answer = platform.http("POST", f"{mine}/components/web/routes", address, token=stranger)
        assert "taken by another application" in _problem(answer, 409, "conflict")["detail"]
    wanted = ("domains", "add", "Steady.localhost", "--app", "thief", "--team", "strangers")
    assert "thief--strangers.localhost" in platform.cli(*wanted, token=stranger, expect=5).error["hint"]

    assert platform.events_in_all() == before
    assert platform.serving(steady)["pid"] == serving


def test_no_token_no_answer(platform: Platform, steady: str) -> None:
    before = platform.events_in_all()
    for method, target in (("GET", "/v1/status"), ("GET", APP), ("POST", DEPLOYS), ("GET", "/v1/nothing")):
        answer = platform.http(method, target, {} if method == "POST" else None, token="")
        _problem(answer, 404 if target == "/v1/nothing" else 401)
        if answer.status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert platform.events_in_all() == before


def test_a_team_cannot_deploy_what_lies_on_this_machine(platform: Platform, stranger: str, tmp_path: Path) -> None:
    target = "/v1/teams/strangers/apps/sneaky/components/web/deploys"
    before = platform.events_in_all()
    for url in (tmp_path.as_uri(), str(platform.data)):
        _problem(platform.http("POST", target, _git(url), token=stranger), 422)
    assert platform.events_in_all() == before
