"""Webhooks of GitHub, GitLab and Gitea: whose they are, whether they are genuine, and what was pushed.

Pure: bytes and headers in, a push out. Knows nothing of components or of what follows from a push.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Provider = Literal["github", "gitlab", "gitea"]
NO_COMMIT = "0" * 40


class NotGenuine(Exception):
    """The request does not carry the proof that it comes from who knows the secret."""


class NotUnderstood(Exception):
    """It is genuine, and not what that service sends; the message says what was expected."""


@dataclass(frozen=True, kw_only=True)
class Push:
    """`branch` empty: not a push to a branch, and nothing is to be done. `repositories`: every address it has."""

    provider: Provider
    delivery: str
    event: str
    branch: str = ""
    default_branch: str = ""
    commit: str = ""
    pusher: str = ""
    repositories: tuple[str, ...] = ()


def hook_secret(admin_token: str, team: str, app: str, component: str) -> str:
    """The secret of a component's webhooks. Derived, so that nothing is stored; another administrator's token makes it
    another."""
    mac = hmac.new(admin_token.encode(), f"webhook|{team}|{app}|{component}".encode(), hashlib.sha256)
    return "rfh_" + mac.hexdigest()


def read_push(secret: str, headers: Mapping[str, str], body: bytes) -> Push:
    """What was pushed. The proof comes first: nothing of a body is read that is not genuine. Raises NotGenuine,
    NotUnderstood."""
    provider = _proven(secret, headers, body)
    event, delivery = (headers.get(name, "") for name in _NAMES[provider])
    if not delivery:
        raise NotUnderstood(f"expected a delivery id in {_NAMES[provider][1]}, found none")
    if event.lower() not in ("push", "push hook"):
        return Push(provider=provider, delivery=delivery, event=event)
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise NotUnderstood("expected a JSON body (content type application/json), found something else") from error
    if not isinstance(payload, dict):
        raise NotUnderstood("expected a JSON object, found something else")
    return _push(provider, delivery, event, payload)


_NAMES: dict[Provider, tuple[str, str]] = {
    "github": ("X-GitHub-Event", "X-GitHub-Delivery"),
    "gitlab": ("X-Gitlab-Event", "X-Gitlab-Event-UUID"),
    "gitea": ("X-Gitea-Event", "X-Gitea-Delivery"),
}


def _proven(secret: str, headers: Mapping[str, str], body: bytes) -> Provider:
    # Gitea sends GitHub's headers as well, for receivers that know only those.
    if "X-Gitea-Signature" in headers:
        return _equal("gitea", headers["X-Gitea-Signature"], _digest(secret, body))
    if "X-Hub-Signature-256" in headers:
        return _equal("github", headers["X-Hub-Signature-256"], "sha256=" + _digest(secret, body))
    if "X-Gitlab-Token" in headers:
        return _equal("gitlab", headers["X-Gitlab-Token"], secret)
    raise NotGenuine("expected X-Hub-Signature-256, X-Gitea-Signature or X-Gitlab-Token, found none of them")


def _equal(provider: Provider, found: str, expected: str) -> Provider:
    if not hmac.compare_digest(found.encode("utf-8", "surrogateescape"), expected.encode()):
        raise NotGenuine("expected the proof of who knows this component's secret, found another")
    return provider


def _digest(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _push(provider: Provider, delivery: str, event: str, payload: dict[str, object]) -> Push:
    repository = _part(payload, "project" if provider == "gitlab" else "repository")
    kind, _, branch = _text(payload, "ref").partition("refs/heads/")
    commit = _text(payload, "after")
    addresses = ("clone_url", "ssh_url", "html_url", "git_url", "git_http_url", "git_ssh_url", "web_url")
    pusher = _text(payload, "user_username") or next(
        (name for key in ("login", "username", "name") if (name := _text(_part(payload, "pusher"), key))), ""
    )
    return Push(
        provider=provider,
        delivery=delivery,
        event=event,
        # A branch that was deleted has nothing to build.
        branch="" if kind or commit == NO_COMMIT else branch,
        default_branch=_text(repository, "default_branch"),
        commit=commit,
        pusher=pusher,
        repositories=tuple(address for name in addresses if (address := _text(repository, name))),
    )


def _part(payload: dict[str, object], name: str) -> dict[str, object]:
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


def _text(payload: dict[str, object], name: str) -> str:
    value = payload.get(name)
    return value if isinstance(value, str) else ""


def same_repository(one: str, other: str) -> bool:
    """Whether two addresses are of one repository, whichever way it is reached: https, ssh or git@host:path."""
    return bool(_place(one)) and _place(one) == _place(other)


def _place(address: str) -> tuple[str, str] | None:
    if "://" not in address:
        host, colon, path = address.partition(":")
        if not colon:
            return None
        return host.rpartition("@")[2].lower(), path.strip("/").removesuffix(".git").lower()
    parts = urlsplit(address)
    return (parts.hostname or "").lower(), parts.path.strip("/").removesuffix(".git").lower()
