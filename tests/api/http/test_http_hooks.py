"""Webhooks of GitHub, GitLab and Gitea: the genuine ones deploy, once each; the others learn nothing."""

import hashlib
import hmac
import json

import pytest

from tests.api.http.conftest import ADMIN, Answer, House

C = "/v1/teams/default/apps/shop/components/web"
HOOK = "/v1/hooks/default/shop/web"
REPOSITORY = {
    "clone_url": "https://example.com/shop.git", "ssh_url": "git@example.com:shop.git", "default_branch": "main",
}  # fmt: skip
PUSH = {"ref": "refs/heads/main", "after": "ab" * 20, "repository": REPOSITORY, "pusher": {"name": "mia"}}
GITLAB_PUSH = {
    "ref": "refs/heads/main", "after": "ab" * 20, "user_username": "mia",
    "project": {"git_http_url": "https://example.com/shop.git", "default_branch": "main"},
}  # fmt: skip


async def _deployed(house: House) -> str:
    """Deploy from git once; the secret."""
    first = await house.deploy(C)
    assert (await house.ended(first.json["operation"]))["status"] == "succeeded"
    hook = (await house.get(C + "/hook")).json
    assert hook["path"] == HOOK
    return str(hook["secret"])


def _signed(kind: str, secret: str, body: bytes, delivery: str) -> dict[str, str]:
    mac = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "github": {"X-GitHub-Event": "push", "X-GitHub-Delivery": delivery, "X-Hub-Signature-256": f"sha256={mac}"},
        "gitea": {"X-Gitea-Event": "push", "X-Gitea-Delivery": delivery, "X-Gitea-Signature": mac},
        "gitlab": {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Event-UUID": delivery, "X-Gitlab-Token": secret},
    }
    return headers[kind] | {"Content-Type": "application/json"}


async def _send(house: House, headers: dict[str, str], body: bytes, path: str = HOOK) -> Answer:
    async with house.session.post(house.url + path, data=body, headers=headers) as response:
        text = await response.text()
        return Answer(status=response.status, json=json.loads(text), headers=dict(response.headers), text=text)


@pytest.mark.parametrize("kind", ["github", "gitea", "gitlab"])
async def test_a_push_is_deployed_once_however_often_it_is_delivered(house: House, kind: str) -> None:
    secret = await _deployed(house)
    body = json.dumps(GITLAB_PUSH if kind == "gitlab" else PUSH).encode()
    headers = _signed(kind, secret, body, "delivery-1")
    first = await _send(house, headers, body)
    assert (first.status, first.json["deployed"]) == (202, True), first.text
    operation = await house.ended(first.json["operation"])
    assert operation["status"] == "succeeded"
    assert (operation["actor"], operation["message"]) == (f"hook:{kind}", "push of abababababab to main by mia")
    again = await _send(house, headers, body)
    assert (again.status, again.json["operation"]) == (202, first.json["operation"])
    releases = (await house.get(C + "/releases")).json["items"]
    assert len(releases) == 2


@pytest.mark.parametrize("kind", ["github", "gitea", "gitlab"])
async def test_what_is_not_signed_with_the_secret_is_refused(house: House, kind: str) -> None:
    secret = await _deployed(house)
    body = json.dumps(PUSH).encode()
    forged = await _send(house, _signed(kind, "rfh_" + "0" * 64, body, "d"), body)
    nowhere = await _send(house, _signed(kind, secret, body, "d"), body, "/v1/hooks/default/shop/other")
    bare = await _send(house, {"Content-Type": "application/json"}, body)
    for refused in (forged, nowhere, bare):
        assert (refused.status, refused.json["code"]) == (401, "unauthorized")
    if kind != "gitlab":  # whose proof does not cover the body
        changed = await _send(house, _signed(kind, secret, body, "d"), body + b" ")
        assert changed.status == 401
    assert len((await house.get(C + "/releases")).json["items"]) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ref": "refs/heads/feature"}, "deployed from branch main, not from feature"),
        ({"ref": "refs/tags/v1"}, "no push to a branch"),
        ({"after": "0" * 40}, "no push to a branch"),
        ({"repository": REPOSITORY | {"clone_url": "https://example.com/o.git", "ssh_url": ""}}, "not from this repo"),
    ],
)
async def test_what_it_is_not_deployed_from_is_left_alone(house: House, change: dict[str, object], reason: str) -> None:
    secret = await _deployed(house)
    body = json.dumps(PUSH | change).encode()
    found = await _send(house, _signed("github", secret, body, "d"), body)
    assert (found.status, found.json["deployed"]) == (200, False)
    assert reason in found.json["reason"]


async def test_only_the_team_sees_the_secret(house: House) -> None:
    await _deployed(house)
    token = await house.team("red")
    assert (await house.get(C + "/hook", token=token)).status == 404
    assert (await house.get(C + "/hook", token=ADMIN)).json["secret"].startswith("rfh_")
