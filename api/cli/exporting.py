"""`rayfold export` and `rayfold import`: histories as a file that every command about the past takes with --file.

Knows files and where they are put; what is in them is the platform's and the offline tools' business.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Query
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.fetched import offline
from api.cli.output import clock, size
from api.cli.saving import save_whole
from api.cli.session import Session, takes_session
from api.cli.streams import AnyStream, path_of, stream_name


@takes_session
def export(
    session: Session,
    stream: AnyStream = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to; else stdout.")
    ] = None,
    related: Annotated[bool, typer.Option("--related", help="With the streams its causes are in.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything there is.")] = False,
) -> None:
    """The history of a stream, of an app (--app) or of everything, as a file of JSON Lines that opens offline."""
    if everything and (stream or session.app):
        raise CliError("expected --all alone, found more", exit_code=ExitCode.USAGE)
    query: Query
    if stream:
        path, query = path_of("export", stream_name(session, stream)), {"related": related}
    elif everything:
        path, query = "/v1/export", {}
    else:
        path, query = "/v1/export", {"app": session.app_name, "team": session.team_name}
    if output is None:
        sys.stdout.flush()
        session.client.save(path, query, sys.stdout.buffer)
        return
    save_whole(session, path, query, output)
    told = Document(offline(output).header())
    count = f"{told.whole('events')} events of {len(told.items('streams'))} streams"
    session.out.say(f"{output}: {count}, {size(output.stat().st_size)}; look into it: rayfold replay … --file {output}")
    if session.out.as_json:
        session.out.json(told)


@takes_session
def import_file(
    session: Session, file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of rayfold export.")]
) -> None:
    """Check an exported file to its last byte and list what is in it; it is read with --file, never put into a log."""
    told = Document(offline(file).header())
    if session.out.as_json:
        session.out.json(told)
        return
    session.out.say(
        f"{file}: sound; exported {clock(told.text('exported_at'))} by rayfold {told.text('rayfold')}, "
        f"{told.whole('events')} events, chain {told.text('chain')}"
    )
    rows = [[line.text("stream"), str(line.whole("events"))] for line in told.items("streams")]
    session.out.table(["stream", "events"], rows, "it holds no stream")
