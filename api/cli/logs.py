"""`rayfold logs`: the lines of a component, past and live.

Knows filters and following; how a line looks is in `loglines`.
"""

from enum import StrEnum
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.feed import Feed
from api.cli.loglines import line_text, since_time, tell_line, tell_stats
from api.cli.session import Session, takes_session


class LogSource(StrEnum):
    """Who wrote a line."""

    APP = "app"
    BUILD = "build"
    ROUTER = "router"
    PLATFORM = "platform"


class LogLevel(StrEnum):
    """How grave a line says it is."""

    TRACE = "trace"
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    FATAL = "fatal"


@takes_session
def logs(
    session: Session,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[
        int | None, typer.Option("-n", "--lines", min=0, max=10_000, help="The last N lines; 100 by default.")
    ] = None,
    since: Annotated[str, typer.Option("--since", help="From a time on: 10m, 2h, 1d, or ISO-8601.")] = "",
    until: Annotated[str, typer.Option("--until", help="Before a time, as --since.")] = "",
    from_: Annotated[int | None, typer.Option("--from", min=0, help="From this number on, oldest first.")] = None,
    around: Annotated[int | None, typer.Option("--around", min=1, help="This line, and -n (10) on each side.")] = None,
    grep: Annotated[str, typer.Option("--grep", help="Lines that match this regular expression (RE2).")] = "",
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="--grep in upper and lower case.")] = False,
    word: Annotated[list[str] | None, typer.Option("--word", "-w", help="Lines with this whole word.")] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", help="Lines of JSON with this, such as user.id=7.")
    ] = None,
    level: Annotated[LogLevel | None, typer.Option("--level", help="Lines of this level, or graver.")] = None,
    source: Annotated[LogSource | None, typer.Option("--source", "-s", help="Lines of this source.")] = None,
    instance: Annotated[str, typer.Option("--instance", help="Lines of this instance, gone or not.")] = "",
    numbers: Annotated[bool, typer.Option("--numbers", help="Each line's number before it.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Counts instead of lines.")] = False,
) -> None:
    """Log lines of the component, past and live."""
    times: dict[str, object] = {
        "since": since_time(since) if since else None,
        "until": since_time(until) if until else None,
    }
    if stats:
        tell_stats(session, session.read("logs", "stats", query=times))
        return
    if from_ is not None and around is not None:
        raise CliError("expected one of --from and --around, found both", exit_code=ExitCode.USAGE)
    query: dict[str, object] = times | {
        "n": lines if lines is not None else 10 if around else 100,
        "from": from_,
        "around": around,
        "grep": grep,
        "ignore_case": ignore_case or None,
        "word": " ".join(word or ()),
        "field": ",".join(field or ()),
        "level": level.value if level else None,
        "source": source.value if source else None,
        "instance": instance,
    }
    show = _Printer(session, numbers=numbers)
    if follow:
        session.read()  # an unknown app is said at once, with the nearest name
        for sent in Feed(session.client, session.component_path("logs"), query | {"follow": True}):
            show.line(sent.document())
        return
    page = session.read("logs", query=query)
    for line in page.items():
        show.line(line)
    unfinished = "complete" in page and not page.flag("complete")
    if unfinished and from_ is not None:
        session.out.say(f"--- there is more: --from {page.whole('next')}")
    elif unfinished:
        session.out.say(f"--- the time for one query was over; looked through from number {page.whole('looked_from')}")


class _Printer:
    """Prints lines as JSON, or as people read them."""

    def __init__(self, session: Session, *, numbers: bool) -> None:
        self._session = session
        self._numbers = numbers

    def line(self, line: Document) -> None:
        """One line of a page or a stream."""
        tell_line(self._session, line, self._text)

    def _text(self, line: Document) -> str:
        head = f"{line.whole('number'):>9} " if self._numbers else ""
        return head + line_text(line, self._session.component_name)
