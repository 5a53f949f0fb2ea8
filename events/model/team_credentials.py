"""A team's credentials for sources: for which URLs each is, which one a URL gets, and the host keys it trusts. Pure.

Knows a secret by its sealed text only; nothing of git, of files, or of who opens it.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import unquote, urlsplit

import msgspec

from events.model.base import Refusal, name_problem
from events.secrets import is_sealed

MAX_CREDENTIALS = 50
MAX_HOSTS = 50
MAX_HOST_KEYS = 20
MAX_PREFIX_CHARS = 500
MAX_USER_CHARS = 200
MAX_SECRET_CHARS = 16_384
"""A private key of RSA with 16384 bits is 12 KiB."""
_MAX_SEALED_CHARS = 2 * MAX_SECRET_CHARS
_MAX_KEY_CHARS = 4_096
_PORTS = {"ssh": 22, "https": 443, "http": 80}
_SCP_LIKE = re.compile(r"^(?:[A-Za-z0-9._-]+@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>(?!//).*)\Z")
_USER_AND_QUERY = re.compile(r"//.*@|[?#].*")  # where secrets stand, in URLs however broken
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_USER = re.compile(r"[\x00-\x1f\x7f:]")
_HOST = re.compile(r"^(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|[0-9a-f:.]{2,45})\Z")
_NAMED_HOST = re.compile(r"^\[(?P<in>[^\]]+)\](?::(?P<in_port>\d{1,5}))?\Z|^(?P<plain>[^:]+)(?::(?P<port>\d{1,5}))?\Z")
_KEY_TYPE = re.compile(
    r"^(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)\Z"
)
_EXAMPLES = "for example https://git.example.com/acme, or ssh://git@git.example.com/acme"


class CredentialKind(StrEnum):
    """`ssh_key`: a private key, for ssh URLs. `password`: a user's token or password, for https URLs."""

    SSH_KEY = "ssh_key"
    PASSWORD = "password"  # noqa: S105 a kind, not a password


class Credential(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """`prefix`: the beginning of the URLs it is for; `secret`: sealed; `public`: the public half of a key, as a line of
    an `authorized_keys`; `made_here`: the platform made the pair, and nobody has ever seen the private half."""

    kind: CredentialKind
    prefix: str
    secret: str
    user: str = ""
    public: str = ""
    made_here: bool = False


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """What of a URL counts. `path`: its directories, without a `.git` at the end."""

    scheme: str
    host: str
    port: int
    path: tuple[str, ...]

    @property
    def known_host(self) -> str:
        """The host as ssh names it in a `known_hosts`."""
        return self.host if self.port == _PORTS["ssh"] else f"[{self.host}]:{self.port}"

    def covers(self, other: "Where") -> bool:
        """Whether `other` lies in here: same host and port, and each directory of this path the same."""
        same = (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
        return same and other.path[: len(self.path)] == self.path


def where_of(url: str) -> Where | None:
    """What counts of a git URL; None for one that leads to no host, or whose path is not the one it seems to be."""
    if _CONTROL.search(url):
        return None
    if "://" not in url:
        scp = _SCP_LIKE.match(url)
        return _where("ssh", scp["host"], _PORTS["ssh"], scp["path"]) if scp else None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not host or parts.query or parts.fragment:
        return None
    return _where(parts.scheme, host, port or _PORTS[parts.scheme], parts.path)


def _where(scheme: str, host: str, port: int, path: str) -> Where | None:
    # Whoever resolves `..` on the way, encoded or not, would be somewhere else than we have compared.
    steps = [step for step in unquote(path).split("/") if step]
    if any(step in (".", "..") or "\\" in step or _UNPRINTABLE.search(step) or "%" in step for step in steps):
        return None
    if steps:
        steps[-1] = steps[-1].removesuffix(".git")
    return Where(scheme=scheme, host=host.lower(), port=port, path=tuple(step for step in steps if step))


def kind_for(prefix: str) -> CredentialKind | None:
    """What a URL with this prefix is opened with; None for one that takes no credential."""
    where = where_of(prefix)
    if where is None:
        return None
    return CredentialKind.SSH_KEY if where.scheme == "ssh" else CredentialKind.PASSWORD


def credential_for(credentials: Mapping[str, Credential], url: str) -> tuple[str, Credential] | None:
    """The name of the credential that `url` gets, and itself: that of the longest prefix; None where none fits."""
    where = where_of(url)
    if where is None:
        return None
    found: tuple[int, str, Credential] | None = None
    for name, credential in sorted(credentials.items()):
        prefix = where_of(credential.prefix)
        if prefix is not None and prefix.covers(where) and (found is None or len(prefix.path) > found[0]):
            found = (len(prefix.path), name, credential)
    return found and found[1:]


def host_keys_for(pinned: Mapping[str, tuple[str, ...]], url: str) -> tuple[str, ...]:
    """The lines of a `known_hosts` for the host of an ssh URL; none where the team has pinned none for it."""
    where = where_of(url)
    if where is None or where.scheme != "ssh":
        return ()
    return tuple(f"{where.known_host} {key}" for key in pinned.get(where.known_host, ()))


def place_name(name: str, prefix: str) -> str:
    """The setting of the team's stream at which the secret is sealed: it does not open for another prefix."""
    return f"credential {name} for {prefix}"


def credential_problem(name: str, credential: Credential) -> Refusal | None:
    """None when it may be kept; else what is wrong. No message repeats a secret."""
    return (
        name_problem("a credential name", name)
        or prefix_problem(credential.prefix)
        or _user_problem(credential)
        or _secret_problem(name, credential)
    )


def prefix_problem(prefix: str) -> Refusal | None:
    """None when a credential may be for this prefix."""
    shown = repr(_USER_AND_QUERY.sub("…", prefix)[:80])
    if len(prefix) > MAX_PREFIX_CHARS:
        return _invalid(f"expected a prefix of at most {MAX_PREFIX_CHARS} characters, found {len(prefix)}")
    where = where_of(prefix)
    if where is None or where.scheme not in _PORTS or not _HOST.match(where.host):
        return _invalid(f"expected the beginning of an https or ssh URL, found {shown}", _EXAMPLES)
    userinfo = urlsplit(prefix).netloc.rpartition("@")[0] if "://" in prefix else ""
    if userinfo and (where.scheme != "ssh" or ":" in userinfo):
        return _invalid("expected a prefix without a user or password in it, found some", "give them on their own")
    if where.scheme == "http" and not _is_loopback(where.host):
        return _invalid(f"expected https, found {shown}: http would send the secret in clear", _EXAMPLES)
    return None


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.match(r"^127(?:\.\d{1,3}){3}\Z", host) is not None


def _user_problem(credential: Credential) -> Refusal | None:
    user = credential.user
    if credential.kind is CredentialKind.SSH_KEY:
        return _invalid("expected no user for an ssh key, found one", "the user stands in the URL") if user else None
    if not user or len(user) > MAX_USER_CHARS or _NOT_IN_USER.search(user):
        return _invalid(f"expected a user of 1 to {MAX_USER_CHARS} printable characters without ':', found none such")
    return None


def _secret_problem(name: str, credential: Credential) -> Refusal | None:
    if credential.kind is not kind_for(credential.prefix):
        return _invalid(f"expected an ssh key for ssh, a token for https, found a {credential.kind} for {name}")
    if not is_sealed(credential.secret) or len(credential.secret) > _MAX_SEALED_CHARS:
        return _invalid(f"expected the secret of {name} sealed, found something else")
    return None


def host_name(text: str) -> str | None:
    """`host`, `host:port` or `[host]:port` as ssh names it in a `known_hosts`; None when it is none of them."""
    match = _NAMED_HOST.match(text)
    host = (match["in"] or match["plain"] or "").lower() if match else text.lower()
    port = int((match["in_port"] or match["port"] or 22) if match else 22)
    if not _HOST.match(host) or not 0 < port < 65536:
        return None
    return Where(scheme="ssh", host=host, port=port, path=()).known_host


def host_keys_problem(host: str, keys: tuple[str, ...]) -> Refusal | None:
    """None when these public keys (`TYPE BASE64` each) may be pinned for `host`."""
    if host_name(host) != host:
        return _invalid(f"expected a host, or [host]:port, found {host[:80]!r}", "for example git.example.com")
    if not 0 < len(keys) <= MAX_HOST_KEYS:
        return _invalid(f"expected 1 to {MAX_HOST_KEYS} keys, found {len(keys)}", f"ssh-keyscan {host}")
    for key in keys:
        if not _is_public_key(key):
            return _invalid(f"expected a host key like `ssh-ed25519 AAAA…`, found {key[:60]!r}", f"ssh-keyscan {host}")
    return None


def _is_public_key(text: str) -> bool:
    kind, space, coded = text.partition(" ")
    if not space or len(text) > _MAX_KEY_CHARS or not _KEY_TYPE.match(kind):
        return False
    try:
        data = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return data.startswith(len(kind).to_bytes(4, "big") + kind.encode())  # a key says its own type: RFC 4253, 6.6


def _invalid(message: str, hint: str = "") -> Refusal:
    return Refusal(code="invalid", message=message, hint=hint)
