"""`rayfold git`: sets a git repository up so that `git push` deploys it.

Knows git's configuration and how it asks for a password; nothing of what a push does.
"""

import shlex
import subprocess
import sys
import urllib.parse
from typing import Annotated

import typer

from api.cli.client import quote
from api.cli.errors import CliError, ExitCode
from api.cli.session import Session, takes_session

USER = "rayfold"
git = typer.Typer(help="Push to deploy: the remote for a git repository, and git's way to the token.")


@git.command("remote")
@takes_session
def remote(
    session: Session,
    name: Annotated[str, typer.Option("--name", help="What the remote is called.")] = "rayfold",
    show: Annotated[bool, typer.Option("--show", help="Only print the URL.")] = False,
) -> None:
    """Add the platform as a remote of this git repository; then `git push rayfold main` deploys."""
    parts = (session.team_name, session.app_name, session.component_name)
    url = f"{session.client.address.url.rstrip('/')}/git/{'/'.join(quote(part) for part in parts)}.git"
    if not show:
        _git(session, "rev-parse", "--git-dir")
        known = name in _git(session, "remote").split()
        _git(session, "remote", *(("set-url", name, url) if known else ("add", name, url)))
        _git(session, "config", f"credential.{url}.username", USER)
        _git(session, "config", f"credential.{url}.helper", _helper(session))
    session.out.json({"name": name, "url": url}) if session.out.as_json else session.out.line(url)
    if not show:
        session.out.say(f"deploy with: git push {name} HEAD:main")


def _helper(session: Session) -> str:
    """What git runs when it wants the token: a shell's words, all of them ours or quoted."""
    command = [sys.executable, "-m", "api.cli", "git", "credential"]
    command += ["--data", str(session.data.absolute())] if session.data is not None else []
    return "!" + shlex.join(command)


def _git(session: Session, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=session.directory, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        raise CliError("expected git, found none", hint="install it, or use rayfold deploy") from None
    if done.returncode != 0:
        hint = "git init, or cd into the repository; --show only prints the URL"
        raise CliError(f"git {arguments[0]}: {done.stderr.strip()}", exit_code=ExitCode.USAGE, hint=hint)
    return done.stdout


@git.command("credential", hidden=True)
@takes_session
def credential(session: Session, what: Annotated[str, typer.Argument(metavar="get|store|erase")] = "get") -> None:
    """Answer git's question for a password: the token, for the platform's own address and no other."""
    asked = dict(line.rstrip("\n").partition("=")[::2] for line in sys.stdin if "=" in line)
    if what != "get":
        return
    ours = urllib.parse.urlsplit(session.client.address.url)
    if (asked.get("protocol"), asked.get("host")) == (ours.scheme, ours.netloc):
        sys.stdout.write(f"username={USER}\npassword={session.client.address.token}\n")
