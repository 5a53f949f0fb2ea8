"""`rayfold secrets`: which variables are secret, the keys that seal them, and the end of a key.

Knows names, ids and fingerprints; no value ever comes here.
"""

import time
from typing import Annotated

import typer

from api.cli.errors import CliError, ExitCode
from api.cli.output import ago
from api.cli.session import Session, takes_session
from api.cli.words import Wait, Why

POLL_SECONDS = 0.2
DESTROY_SECONDS = 30.0

secrets = typer.Typer(help="Secret variables and their keys: list, destroy-key, rotate-master.")


@secrets.callback(invoke_without_command=True)
@takes_session
def every_secret(session: Session) -> None:
    """As `list`."""
    show(session)


@secrets.command("list")
@takes_session
def list_secrets(session: Session) -> None:
    """The team's secret variables with the fingerprints of their values, and its keys."""
    show(session)


def show(session: Session) -> None:
    """Both lists; with `--json` as one object."""
    with session.explained():
        found = session.client.items(session.team_path("secrets"))
        keys = session.client.items(session.team_path("keys"))
    if session.out.as_json:
        session.out.json({"secrets": found, "keys": keys})
        return
    rows = [
        [
            s.text("app"),
            s.text("component"),
            s.text("name"),
            s.text("fingerprint"),
            s.text("key"),
            "yes" if s.flag("readable") else "no: its key is destroyed",
        ]
        for s in found
    ]
    headings = ["app", "component", "variable", "fingerprint", "key", "readable"]
    session.out.table(headings, rows, "nothing is secret yet: rayfold config set --secret KEY=-")
    for key in keys:
        destroyed = key.text("destroyed_at")
        told = f"destroyed {ago(destroyed)} by {key.text('destroyed_by')} {key.text('reason')}".rstrip()
        state = told if destroyed else "in use" if key.flag("active") else "opens old values"
        session.out.say(f"key {key.text('key')}, made {ago(key.text('created_at'))}: {state}")


@secrets.command("destroy-key")
@takes_session
def destroy_key(
    session: Session,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: what the key sealed is lost for good.")] = False,
    key: Annotated[str, typer.Option("--key", help="The key's id; the newest one by default.")] = "",
    message: Why = "",
    timeout: Wait = DESTROY_SECONDS,
) -> None:
    """Destroy a team's key: no release, backup or replay can ever show what it sealed. Running instances go on."""
    if not yes:
        raise CliError(
            f"this makes every secret of team {session.team_name} unreadable for good, in old releases too",
            exit_code=ExitCode.USAGE,
            hint="to do it: rayfold secrets destroy-key --yes -m WHY",
        )
    path = session.team_path("keys")
    with session.explained():
        before = session.client.items(path)
        wanted = key or (before[-1].text("key") if before else "")
        session.client.send("POST", session.team_path("keys", "destroy"), {"key": wanted, "reason": message})
    until = time.monotonic() + timeout
    while not any(k.text("key") == wanted and k.text("destroyed_at") for k in session.client.items(path)):
        if time.monotonic() > until:
            raise CliError(
                f"key {wanted} is not destroyed yet, and will be", exit_code=ExitCode.TIMED_OUT, hint="rayfold secrets"
            )
        time.sleep(POLL_SECONDS)
    if session.out.as_json:
        session.out.json(session.client.items(path))
    session.out.say(f"key {wanted} is destroyed. Set the values anew: rayfold config set --secret KEY=-")


@secrets.command("rotate-master")
@takes_session
def rotate_master(session: Session) -> None:
    """Replace the platform's master key. Values, releases and running instances are not touched."""
    with session.explained():
        told = session.client.send("POST", "/v1/keys/rotate-master")
    if session.out.as_json:
        session.out.json(told)
        return
    session.out.line(told.text("after"))
    session.out.say(f"{told.whole('rewrapped')} keys are wrapped with it instead of {told.text('before')}; keep a copy "
                    "of master.key, and destroy the copies of the old one")  # fmt: skip
