"""`rayfold compose`: what a Docker Compose file comes to here, component by component, and what is lost on the way.

Asks no platform unless it is to make it (`applying`); knows how to show a mapping, nothing of how it is made.
"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.given import looks_secret
from api.cli.output import size
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS
from api.cli.words import Wait

if TYPE_CHECKING:
    from actors.compose.model import ComposeApp, ComposeComponent

_USUAL = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_MOST_BYTES = 1024 * 1024


@takes_session
def compose(
    session: Session,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The Compose file.")] = None,
    commands: Annotated[bool, typer.Option("--commands", help="Only the commands that make it.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Make it: each component after what it needs.")] = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """What a Docker Compose file comes to: components, their settings, and a warning for all that is not mapped."""
    if apply and (commands or session.out.as_json):
        raise CliError("expected --apply alone, found --commands or --json with it", exit_code=ExitCode.USAGE)
    # Here, because the command line must start quickly.
    import msgspec

    from actors.compose.mapping import map_compose
    from actors.compose.model import ComposeError

    path = file or next((Path(name) for name in _USUAL if Path(name).is_file()), None)
    if path is None or not path.is_file():
        raise CliError(
            f"expected a Compose file, found none{f' at {path}' if path else ' here'}",
            exit_code=ExitCode.USAGE,
            hint="rayfold compose FILE",
        )

    def read(name: str) -> str | None:
        beside = path.parent / name
        # Only what lies beside the file: its text is somebody else's, and what it names is shown.
        if not beside.resolve().is_relative_to(path.parent.resolve()) or not beside.is_file():
            return None
        return _text(beside)

    try:
        text = _text(path)
        name = session.app or path.resolve().parent.name
        found = map_compose(text, name=name, variables=os.environ, read=read)
    except ComposeError as error:
        raise CliError(f"{path}: {error}", exit_code=ExitCode.FAILED, hint="correct the file") from error
    if session.out.as_json:
        session.out.json(Document(msgspec.to_builtins(found)))
        return
    if not commands:
        _show(session, found, path)
    if apply:
        from api.cli.applying import apply_compose

        apply_compose(session, found, path.parent, timeout)
        return
    if not commands:
        session.out.say("\nthe commands that make it (variables that look like a secret want their value first):")
    session.out.line(shlex.join(["rayfold", "apps", "create", found.name]))
    for each in found.components:
        for line in _commands(found.name, each, path.parent):
            session.out.line(line)


def _text(path: Path) -> str:
    with path.open("r", encoding="utf-8", errors="replace") as file:
        return file.read(_MOST_BYTES + 1)


def _show(session: Session, found: "ComposeApp", path: Path) -> None:
    rows = [
        [
            each.name,
            each.image or str(path.parent / each.directory),
            str(each.port or "none"),
            str(each.scale),
            size(each.settings["memory_bytes"]) if "memory_bytes" in each.settings else "default",
            str(len(each.config)),
            ", ".join(each.needs),
        ]
        for each in found.components
    ]
    session.out.table(["component", "from", "port", "scale", "memory", "variables", "after"], rows, "")
    for note in found.notes:
        session.out.say(f"warning: {' '.join(filter(None, (note.service, note.key)))}: {note.text}")


def _commands(app: str, each: "ComposeComponent", beside: Path) -> list[str]:
    """The command lines, in their order. Values that look like a secret are not printed."""
    where = ["--app", app, "--component", each.name]
    source = each.image or str(beside / each.directory)
    # A source or an image that is deployed alone has the process web, whatever the component is called.
    added = ["rayfold", "apps", "add", each.name, *([] if each.http else ["--no-http"]), "--app", app]
    lines = [added, ["rayfold", "deploy", source, *where]]
    plain = [f"{name}={value}" for name, value in each.config.items() if not looks_secret(name, value)]
    secret = [f"{name}=-" for name, value in each.config.items() if looks_secret(name, value)]
    if plain:
        lines.append(["rayfold", "config", "set", *plain, *where])
    if secret:
        lines.append(["rayfold", "config", "set", "--secret", *secret, *where])
    settings = [f"{name}={value}" for name, value in each.settings.items()]
    if each.probe_path:
        settings.append(f"probe_path={each.probe_path}")
    if settings:
        lines.append(["rayfold", "settings", "set", *settings, *where])
    if each.scale != 1:
        lines.append(["rayfold", "ps", "scale", f"{each.name}={each.scale}", "--app", app])
    return [shlex.join(words) for words in lines]
