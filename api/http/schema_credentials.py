"""Request and response bodies about a team's credentials for sources. Shapes only; no answer ever holds a secret."""

from typing import Annotated, Literal

from pydantic import Field

from api.http.schema import Body, PositionText, Reason, SecretValue, View

UrlPrefix = Annotated[
    str,
    Field(min_length=1, max_length=500, examples=["https://git.example.com/acme", "ssh://git@git.example.com/acme"]),
]


class CredentialView(View):
    """`fingerprint`: of an ssh key as git hosts show it, of a token the same for the same one; `public_key` is what to
    give to the git host; `readable`: the key that seals it still stands."""

    team: str
    name: str
    kind: Literal["ssh_key", "password"]
    prefix: str
    user: str
    public_key: str
    fingerprint: str
    key: str
    readable: bool


class PutCredential(Body):
    """For the URLs that begin with `prefix`. https: `token`, a token or password, and `user` where the host asks for a
    particular one. ssh: `private_key`, or none to have a pair made whose private half stays here."""

    prefix: UrlPrefix
    user: str = Field(default="", max_length=200)
    token: SecretValue | None = None
    private_key: SecretValue | None = None
    reason: Reason = ""


class CredentialKept(CredentialView):
    """What is kept now; `position`: as in the answer to any write."""

    position: PositionText | None


class HostKeysView(View):
    """`host` as ssh names it: `git.example.com`, or `[git.example.com]:2222`; `keys`: `TYPE BASE64` each."""

    team: str
    host: str
    keys: list[str]
    fingerprints: list[str]


class PinHostKeys(Body):
    """All that the host is to be known by."""

    keys: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(min_length=1, max_length=20)
    reason: Reason = ""
