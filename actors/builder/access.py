"""Hands a team's credential to git for one fetch, in files that only the platform's user can read, and takes it back.

Knows how git and ssh are told; it must not know whose credential it is, nor where it was kept.
"""

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from actors.builder.errors import SourceError
from actors.runtime.shim.masking import Masking
from actors.supervisor.orders import SourceAccess
from events.failpoints import failpoint
from events.model.team_credentials import CredentialKind, where_of
from events.secrets.forms import printed_forms

Access = Callable[[str], Awaitable[SourceAccess]]
"""URL → what it is read with. Raises `SourceError` when nobody can say."""

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20")
_HELPER = Path(__file__).with_name("git_credential.py")


async def no_access(url: str) -> SourceAccess:
    """Where there are no teams: the platform's user reads everything."""
    return SourceAccess()


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """What git is started with: more variables of its environment, more of its configuration, texts to hide."""

    env: Mapping[str, str] = {}
    config: str = ""
    masking: Masking | None = None


@contextmanager
def handed(url: str, access: SourceAccess, home: Path) -> Iterator[Handed]:
    """The credential as git takes it, from entering to leaving; its files are in a directory of their own in `home`.

    Whoever is killed in between leaves them there, for whoever sweeps `home`. Raises `SourceError`.
    """
    if access.unreadable:
        raise SourceError(
            f"The credential {access.name} for {access.prefix} cannot be opened: {access.unreadable}. Keep it anew: "
            f"rayfold credentials add {access.name} --url {access.prefix}",
            code="credential_unreadable",
        )
    if not access.secret and not access.host_keys:
        yield Handed()
        return
    # 0700 by itself, and in a directory that the build's user can enter but not list.
    place = Path(tempfile.mkdtemp(prefix="access-", dir=home))
    try:
        given = _password(url, access, place) if access.kind is CredentialKind.PASSWORD else _ssh(access, place)
        failpoint("builder-credential-written")
        yield given
    finally:
        shutil.rmtree(place)


def _password(url: str, access: SourceAccess, place: Path) -> Handed:
    parts, prefix = urlsplit(url), where_of(access.prefix)
    assert prefix is not None  # noqa: S101 -- it was chosen by what it covers
    told = {
        "protocol": parts.scheme,
        "host": parts.netloc,
        "path": prefix.path,
        "username": access.user,
        "password": access.secret,
    }
    file = _private(place / "answer.json", json.dumps(told))
    helper = shlex.join([sys.executable, "-I", "-S", str(_HELPER), str(file)])
    quoted = helper.replace("\\", "\\\\").replace('"', '\\"')
    return Handed(
        # Another HOME: a .netrc there would be asked first.
        env={"HOME": str(place)},
        config=f'[credential]\n\thelper =\n\thelper = "!{quoted}"\n\tuseHttpPath = true\n',
        masking=Masking(printed_forms([access.secret, f"{access.user}:{access.secret}"])),
    )


def _ssh(access: SourceAccess, place: Path) -> Handed:
    command = list(SSH)
    if access.secret:
        # Without the user's own configuration: it may name more keys, or connections that others have opened.
        command += ["-F", "none", "-i", _shown(_private(place / "key", access.secret))]
        command += ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=yes"]
    if access.host_keys:
        known = _private(place / "known_hosts", "".join(f"{line}\n" for line in access.host_keys))
        command += ["-o", f'UserKnownHostsFile="{_shown(known)}"', "-o", "GlobalKnownHostsFile=/dev/null"]
        command += ["-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"]
    masking = Masking(printed_forms([access.secret])) if access.secret else None
    return Handed(env={"GIT_SSH_COMMAND": shlex.join(command)}, masking=masking)


def _private(path: Path, text: str) -> Path:
    path.touch(mode=0o600, exist_ok=False)  # before it holds anything
    path.write_text(text)
    return path


def _shown(path: Path) -> str:
    """As ssh reads it, which looks for %-signs in names of files."""
    return str(path).replace("%", "%%")


def refused_by_host(url: str, access: SourceAccess) -> str:
    """What to do when the host does not let in: which credential it was, or how there comes to be one."""
    if not access.name:
        where = where_of(url)
        prefix = url.rsplit("/", 1)[0] if where and len(where.path) > 1 else url
        how = f"rayfold credentials add NAME --url {prefix}"
        return f"The team has no credential for this URL. Give it a token (https) or a deploy key (ssh): {how}"
    if access.kind is CredentialKind.SSH_KEY:
        return (
            f"The key of the credential {access.name} was tried. Give its public half to the git host as a deploy key "
            f"of this repository: {access.public}"
        )
    again = f"rayfold credentials add {access.name} --url {access.prefix}"
    return (
        f"The token of the credential {access.name} (user {access.user}) was tried. It may have expired, or may not "
        f"read this repository; keep another one: {again}"
    )


def pin_hint(url: str) -> str:
    """The command that makes the host's keys known to the team."""
    where = where_of(url)
    if where is None:
        return "rayfold credentials pin HOST"
    port = "" if where.port == 22 else f" -p {where.port}"
    name = where.host if where.port == 22 else where.known_host
    return f"ssh-keyscan{port} {where.host} | rayfold credentials pin {name}"
