"""`rayfold logs`: the lines of a component, past and live.

Knows filters and following; how a line looks is in `loglines`.
"""

from enum import StrEnum
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.feed import Feed
from api.cli.loglines import line_text, since_time, tell_gap
from api.cli.session import Session, takes_session


class LogSource(StrEnum):
    """Who wrote a line."""

    APP = "app"
    BUILD = "build"
    ROUTER = "router"
    PLATFORM = "platform"


@takes_session
def logs(
    session: Session,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=10_000, help="The last N lines.")] = 100,
    since: Annotated[str, typer.Option("--since", help="From a time on: 10m, 2h, 1d, or ISO-8601.")] = "",
    grep: Annotated[str, typer.Option("--grep", help="Only lines that match this regular expression.")] = "",
    source: Annotated[LogSource | None, typer.Option("--source", "-s", help="Only lines of this source.")] = None,
) -> None:
    """Log lines of the component, past and live."""
    query: dict[str, object] = {
        "n": lines,
        "since": since_time(since) if since else None,
        "grep": grep,
        "source": source.value if source else None,
    }
    if not follow:
        for line in session.read("logs", query=query).items():
            _print(session, line)
        return
    session.read()  # an unknown app is said at once, with the nearest name
    for sent in Feed(session.client, session.component_path("logs"), query | {"follow": True}):
        _print(session, sent.document())


def _print(session: Session, line: Document) -> None:
    if "text" not in line:
        return
    if session.out.as_json:
        session.out.json_line(line)
    elif line.whole("gap"):
        tell_gap(session, line)
    else:
        session.out.line(line_text(line, session.component_name))
