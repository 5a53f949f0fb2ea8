"""`rayfold config` and `rayfold settings`: the variables an application sees, and the limits it runs in.

Knows KEY=VALUE; nothing of releases, though every change makes one.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from api.cli.errors import CliError, ExitCode
from api.cli.given import from_files, from_lines, looks_secret, pair, typed_in
from api.cli.safe import visible
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, carry_out
from api.cli.words import Detach, Wait, Why

config = typer.Typer(help="Configuration variables: list, get, set, unset.")
settings = typer.Typer(help="Limits, times and the probe: list, set.")

Pairs = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="What to set.")]
Keys = Annotated[list[str], typer.Argument(metavar="KEY...")]
FromFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read KEY=VALUE lines from a file, or - for stdin.")
]
Whole = Annotated[
    list[str] | None, typer.Option("--from-file", metavar="KEY=PATH", help="A whole file is the value: certificates.")
]
Secret = Annotated[bool, typer.Option("--secret", help="Keep them encrypted and never show them; KEY=- asks for it.")]
Plain = Annotated[bool, typer.Option("--plain", help="Keep them readable, even those that look like a secret.")]


@config.callback(invoke_without_command=True)
@takes_session
def list_config(session: Session) -> None:
    """Every variable, as KEY=VALUE."""
    found = session.read("config")
    if session.out.as_json:
        session.out.json(found)
        return
    for key, value in sorted(found.pairs("config").items()):
        session.out.line(f"{key}={_shown(value)}")
    if not found.pairs("config"):
        session.out.say("no variable is set: rayfold config set KEY=VALUE")


@config.command("get")
@takes_session
def get_config(session: Session, key: Annotated[str, typer.Argument(metavar="KEY")]) -> None:
    """The value of one variable."""
    found = session.read("config").pairs("config")
    if key not in found:
        raise CliError(f"no variable {key}", exit_code=ExitCode.NOT_FOUND, hint="rayfold config")
    if session.out.as_json:
        session.out.json({key: found[key]})
    else:
        session.out.line(_shown(found[key]))


@config.command("set")
@takes_session
def set_config(
    session: Session,
    pairs: Pairs = None,
    file: FromFile = None,
    from_file: Whole = None,
    secret: Secret = False,
    plain: Plain = False,
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Set variables: makes a release with the same code, and rolls it out. What looks like a secret is kept as one."""
    if secret and plain:
        raise CliError("expected --secret or --plain, found both", exit_code=ExitCode.USAGE)
    given = dict(pair(text) for text in pairs or [])
    given = (from_lines(file) if file else {}) | from_files(from_file or []) | (typed_in(given) if secret else given)
    if not given:
        raise CliError(
            "expected KEY=VALUE, found nothing", exit_code=ExitCode.USAGE, hint="rayfold config set GREETING=hello"
        )
    sealed = set(given) if secret else set() if plain else _suspected(session, given)
    body: dict[str, object] = {"reason": message}
    for name, chosen in (("set", given.keys() - sealed), ("secret", given.keys() & sealed)):
        if chosen:
            body[name] = {key: value for key, value in given.items() if key in chosen}
    answer = session.write("PATCH", "config", body=body)
    _done(session, carry_out(session, answer, f"set {', '.join(given)}", detach=detach, seconds=timeout) is not None)


@config.command("unset")
@takes_session
def unset_config(
    session: Session, keys: Keys, message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Remove variables: makes a release with the same code, and rolls it out."""
    answer = session.write("PATCH", "config", body={"unset": keys, "reason": message})
    _done(session, carry_out(session, answer, f"unset {', '.join(keys)}", detach=detach, seconds=timeout) is not None)


@settings.callback(invoke_without_command=True)
@takes_session
def list_settings(session: Session) -> None:
    """Every setting, as KEY=VALUE: times in seconds, sizes in bytes."""
    found = session.read().pairs("settings")
    if session.out.as_json:
        session.out.json(found)
        return
    for key, value in sorted(found.items()):
        session.out.line(f"{key}={visible(value)}")


@settings.command("set")
@takes_session
def set_settings(
    session: Session, pairs: Pairs = None, message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Change settings: makes a release with the same code, and rolls it out."""
    given = dict(pair(text) for text in pairs or [])
    answer = session.write("PATCH", body={"settings": given, "reason": message})
    _done(session, carry_out(session, answer, f"set {', '.join(given)}", detach=detach, seconds=timeout) is not None)


def _done(session: Session, waited: bool) -> None:
    if waited:
        session.out.say("undo: rayfold rollback")


def _suspected(session: Session, given: Mapping[str, str]) -> set[str]:
    """What looks like a secret: the log forgets nothing, so what gets into it readable by mistake stays readable."""
    found = {key for key, value in given.items() if looks_secret(key, value)}
    if found:
        names = ", ".join(sorted(found))
        session.out.say(f"kept as a secret, by the look of it: {names} (--plain keeps it readable, --secret says so)")
    return found


def _shown(value: str) -> str:
    # A program gets the very bytes; a terminal only what cannot drive it.
    return visible(value) if sys.stdout.isatty() else value
