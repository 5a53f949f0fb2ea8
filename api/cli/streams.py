"""How people name a stream and a moment on the command line, and the options of the commands about the past.

Knows names and paths of the API; must not load what folds.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import quote
from api.cli.errors import CliError, ExitCode
from api.cli.loglines import since_time
from api.cli.session import DEFAULT_COMPONENT, Session

KINDS = ("team", "app", "component", "build", "route", "node", "template", "pool", "parked")
_STREAM_HELP = "component/ID, build/ID, … or APP, APP/COMPONENT, TEAM/APP/COMPONENT."

Stream = Annotated[str, typer.Argument(metavar="STREAM", help=_STREAM_HELP)]
AnyStream = Annotated[str, typer.Argument(metavar="[STREAM]", help=_STREAM_HELP)]
At = Annotated[str, typer.Option("--at", help="As it was at this time: ISO-8601, or 10m, 2h, 1d ago.")]
Offset = Annotated[int | None, typer.Option("--offset", min=0, help="Up to this offset of its partition.")]
Version = Annotated[int | None, typer.Option("--version", min=0, help="Up to this version of the stream.")]
File = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="A file of rayfold export instead of a platform.")
]


def stream_name(session: Session, text: str) -> str:
    """A stream by its own name, or a component's by the names of team, app and component."""
    parts = text.split("/")
    if parts[0] in KINDS and len(parts) > 1:
        return text
    if len(parts) > 3 or not all(parts):
        raise CliError(
            f"expected a stream like component/ID or APP/COMPONENT, found {text!r}",
            exit_code=ExitCode.USAGE,
            hint="rayfold events shows the names of streams",
        )
    team = parts[0] if len(parts) == 3 else session.team_name
    app = parts[-2] if len(parts) > 1 else parts[0]
    component = parts[-1] if len(parts) > 1 else session.component or DEFAULT_COMPONENT
    full = f"{team}/{app}/{component}"
    # The same name has the same id for ever (see events.model.base): no need to ask for it.
    name = "component/" + hashlib.blake2b(full.encode(), digest_size=8).hexdigest()
    session.said[name] = f"{text} ({name})" if text == full else f"{text} ({full}, {name})"
    return name


def moment_name(text: str) -> str:
    """A moment as the API takes it: `12` → `v12`; `10m` → the time ten minutes ago; the rest as it is."""
    if text.isdecimal():
        return f"v{text}"
    if text[-1:] in "smhdn" and text[:1].isdecimal():
        return since_time(text)
    return text


def one_moment(at: str, offset: int | None, version: int | None) -> dict[str, object]:
    """The moment as the API's query takes it. Raises CliError when more than one way of naming it is used."""
    if sum(given not in (None, "") for given in (at, offset, version)) > 1:
        raise CliError("expected one of --at, --offset and --version, found several", exit_code=ExitCode.USAGE)
    return {"at": since_time(at) if at else None, "offset": offset, "version": version}


def path_of(what: str, stream: str, *rest: str) -> str:
    """`/v1/{what}/{stream}/…`."""
    # Segments are quoted one by one: a stream's name has slashes of its own, and the API takes the rest of the path.
    return "/".join([f"/v1/{what}", *map(quote, stream.split("/")), *map(quote, rest)])
