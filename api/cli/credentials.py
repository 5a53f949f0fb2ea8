"""`rayfold credentials`: what the team's private sources are read with, and the ssh host keys it trusts.

Knows names, prefixes and public keys; a secret passes through from a file, stdin or the terminal, and none comes back.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.errors import CliError, ExitCode
from api.cli.given import secret_text
from api.cli.session import Session, takes_session
from api.cli.words import Why

credentials = typer.Typer(help="What private sources are read with: list, add, remove; pin, unpin hosts.")

_Name = Annotated[str, typer.Argument(metavar="NAME")]
_Host = Annotated[str, typer.Argument(metavar="HOST[:PORT]")]
_MARKED = "@"  # of a line in a known_hosts that says who may vouch for, or has lost, a key
_HASHED = "|1|"


@credentials.callback(invoke_without_command=True)
@takes_session
def every_credential(session: Session) -> None:
    """As `list`."""
    show(session)


@credentials.command("list")
@takes_session
def list_credentials(session: Session) -> None:
    """The team's credentials with their prefixes and fingerprints, public keys, and the hosts that are pinned."""
    show(session)


def show(session: Session) -> None:
    """Both lists; with `--json` as one object."""
    with session.explained():
        found = session.client.items(session.team_path("credentials"))
        hosts = session.client.items(session.team_path("host-keys"))
    if session.out.as_json:
        session.out.json({"credentials": found, "host_keys": hosts})
        return
    rows = [
        [
            each.text("name"),
            each.text("prefix"),
            "ssh key" if each.text("kind") == "ssh_key" else f"token of {each.text('user')}",
            each.text("fingerprint"),
            "yes" if each.flag("readable") else "no: its key is destroyed",
        ]
        for each in found
    ]
    nothing = "no credential yet: rayfold credentials add NAME --url https://git.example.com/acme"
    session.out.table(["name", "for", "kind", "fingerprint", "readable"], rows, nothing)
    for each in found:
        if each.text("public_key"):
            session.out.say(f"{each.text('name')}: {each.text('public_key')}")
    for host in hosts:
        session.out.say(f"pinned {host.text('host')}: {' '.join(host.words('fingerprints'))}")


@credentials.command("add")
@takes_session
def add(
    session: Session,
    name: _Name,
    url: Annotated[str, typer.Option("--url", metavar="PREFIX", help="For URLs that begin so: https or ssh.")],
    user: Annotated[str, typer.Option("--user", help="Whose token it is, where the host asks: `git` else.")] = "",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="https: its token; - for stdin, else asked for.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="ssh: a private key; - for stdin. A new pair without.")
    ] = None,
    message: Why = "",
) -> None:
    """Keep a token (https) or a deploy key (ssh) for a URL prefix; prints the public key to give to the git host."""
    https = url.startswith(("https://", "http://"))
    if (key is not None and https) or (token_file is not None and not https):
        raise CliError(
            "expected --token-file for an https URL, or --key for an ssh URL, found the other",
            exit_code=ExitCode.USAGE,
            hint="rayfold credentials add --help",
        )
    body: dict[str, object] = {"prefix": url, "user": user, "reason": message}
    if https:
        body["token"] = secret_text(token_file, "token")
    elif key is not None:
        body["private_key"] = secret_text(key, "private key")
    with session.explained():
        kept = session.client.send("PUT", session.team_path("credentials", name), body)
    if session.out.as_json:
        session.out.json(kept)
        return
    public = kept.text("public_key")
    if public:
        session.out.line(public)
    told = "give this public key to the git host as a deploy key that may read" if public else "the token is kept"
    session.out.say(f"{told}; it is used for {kept.text('prefix')}")


@credentials.command("remove")
@takes_session
def remove(session: Session, name: _Name, message: Why = "") -> None:
    """Use it no more. Revoke it at the git host too: the log keeps it sealed until the team's key is destroyed."""
    with session.explained():
        path = session.team_path("credentials", name)
        answer = session.client.send("DELETE", path, query={"reason": message})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"{name} is removed; revoke it at the git host too")


@credentials.command("pin")
@takes_session
def pin(
    session: Session,
    host: _Host,
    file: Annotated[
        Path, typer.Option("--file", "-f", metavar="FILE", help="Lines of a known_hosts, or - for stdin.")
    ] = Path("-"),
    message: Why = "",
) -> None:
    """Trust exactly these keys of an ssh host: `ssh-keyscan HOST | rayfold credentials pin HOST`, once compared."""
    keys, known = _keys_in(_lines(file), host), _known(host)
    with session.explained():
        answer = session.client.send("PUT", _host_path(session, host), {"keys": keys, "reason": message})
        hosts = session.client.items(session.team_path("host-keys"))
    if session.out.as_json:
        session.out.json(answer)
    told = [fingerprint for each in hosts if each.text("host") == known for fingerprint in each.words("fingerprints")]
    session.out.say("\n  ".join([f"pinned {known}; compare these with what the host publishes:", *told]))


@credentials.command("unpin")
@takes_session
def unpin(session: Session, host: _Host, message: Why = "") -> None:
    """Go back to the host keys that the platform's own user trusts."""
    with session.explained():
        answer = session.client.send("DELETE", _host_path(session, host), query={"reason": message})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"{host} is pinned no more")


def _host_path(session: Session, host: str) -> str:
    return session.team_path("host-keys", host)


def _known(host: str) -> str:
    """As a known_hosts names it. Raises CliError."""
    from events.model.team_credentials import host_name

    name = host_name(host)
    if name is None:
        raise CliError(f"expected a host, or host:port, found {host!r}", exit_code=ExitCode.USAGE)
    return name


def _lines(file: Path) -> list[str]:
    try:
        return (sys.stdin.read() if str(file) == "-" else file.read_text()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file} cannot be read: {error}", exit_code=ExitCode.USAGE) from error


def _keys_in(lines: list[str], host: str) -> list[str]:
    """`TYPE BASE64` of the lines that are this host's. Raises CliError."""
    known, found = _known(host), dict[str, None]()
    for line in lines:
        words = line.split()
        if len(words) < 3 or words[0].startswith(("#", _MARKED, _HASHED)):
            continue
        if known in words[0].lower().split(","):
            found[f"{words[1]} {words[2]}"] = None
    if not found:
        name, _, port = known.removeprefix("[").partition("]:")
        scan = f"ssh-keyscan -p {port} {name}" if port else f"ssh-keyscan {name}"
        raise CliError(
            f"expected lines like `{known} ssh-ed25519 AAAA…`, found none for it",
            exit_code=ExitCode.USAGE,
            hint=f"{scan} | rayfold credentials pin {host}",
        )
    return list(found)
