"""`rayfold config` and `rayfold settings`: the variables an application sees, and the limits it runs in.

Knows KEY=VALUE; nothing of releases, though every change makes one.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.errors import CliError, ExitCode
from api.cli.safe import visible
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, carry_out
from api.cli.words import Detach, Wait, Why

config = typer.Typer(help="Configuration variables: list, get, set, unset.")
settings = typer.Typer(help="Limits, times and the probe: list, set.")

Pairs = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="What to set.")]
Keys = Annotated[list[str], typer.Argument(metavar="KEY...")]
FromFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read KEY=VALUE lines from a file, or - for stdin: for secrets.")
]


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
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Set variables: makes a release with the same code, and rolls it out."""
    given = _from_file(file) if file else {}
    given |= dict(_pair(text) for text in pairs or [])
    if not given:
        raise CliError(
            "expected KEY=VALUE, found nothing", exit_code=ExitCode.USAGE, hint="rayfold config set GREETING=hello"
        )
    answer = session.write("PATCH", "config", body={"set": given, "reason": message})
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
    given = dict(_pair(text) for text in pairs or [])
    answer = session.write("PATCH", body={"settings": given, "reason": message})
    _done(session, carry_out(session, answer, f"set {', '.join(given)}", detach=detach, seconds=timeout) is not None)


def _done(session: Session, waited: bool) -> None:
    if waited:
        session.out.say("undo: rayfold rollback")


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise CliError(
            f"expected KEY=VALUE, found {text!r}", exit_code=ExitCode.USAGE, hint="rayfold config set GREETING=hello"
        )
    return key, value


def _from_file(path: Path) -> dict[str, str]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{path} cannot be read: {error}", exit_code=ExitCode.USAGE) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return dict(_pair(line.removeprefix("export ")) for line in lines)


def _shown(value: str) -> str:
    # A program gets the very bytes; a terminal only what cannot drive it.
    return visible(value) if sys.stdout.isatty() else value
