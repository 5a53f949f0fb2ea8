"""`rayfold diff` and `rayfold why`: what changed, in a stream or in a whole app, and which event made it so.

Knows the commands' options and how an answer is laid out; finding it is the platform's work, or the offline tools'.
"""

from typing import Annotated

import typer

from api.cli.debugtext import by_text, change_text, value_text
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.fetched import offline
from api.cli.loglines import since_time
from api.cli.output import clock, styled
from api.cli.safe import visible
from api.cli.session import Session, takes_session
from api.cli.streams import AnyStream, File, Stream, moment_name, path_of, stream_name
from events.clock import now_micros

_STORY = 10  # times that a field was set, without --all
_WHOLE_STORY = 10_000


@takes_session
def diff(
    session: Session,
    stream: AnyStream = "",
    before: Annotated[str, typer.Argument(metavar="[A]", help="A version (12), a position (3:120), a time.")] = "",
    after: Annotated[str, typer.Argument(metavar="[B]", help="Likewise; now by default.")] = "",
    begin: Annotated[str, typer.Option("--from", help="With --app: a time, or 10m, 2h, 1d ago.")] = "",
    end: Annotated[str, typer.Option("--to", help="With --app: likewise; now by default.")] = "",
    file: File = None,
) -> None:
    """What changed between two moments, and by which events: in a stream, or (--app A --from T) in all of an app."""
    if not stream:
        if not begin:
            raise CliError(
                "expected STREAM A [B], or --app APP --from TIME, found neither",
                exit_code=ExitCode.USAGE,
                hint="rayfold diff shop 12 20; rayfold diff --app shop --from 1h",
            )
        _app(session, _app_difference(session, begin, end) if file is None else Document(
            offline(file).app_diff(session.team_name, session.app_name, *_span(begin, end))
        ))  # fmt: skip
        return
    if begin or end or not before:
        raise CliError("expected STREAM A [B], two moments of one stream, found others", exit_code=ExitCode.USAGE)
    name = stream_name(session, stream)
    if file is not None:
        tools = offline(file)
        found = Document(tools.diff(name, tools.moment(name, before), tools.moment(name, after)))
    else:
        query = {"from": moment_name(before), "to": moment_name(after) if after else None}
        found = session.client.get(path_of("diff", name), query)
    if session.out.as_json:
        session.out.json(found)
        return
    session.out.say(f"{name}: version {found.whole('from_version')} → {found.whole('to_version')}")
    _changes(session, found.items("changes"))


def _changes(session: Session, changes: list[Document], indent: str = "") -> None:
    for change in changes:
        session.out.line(indent + change_text(change))
        if change.inner("by"):
            session.out.line(styled(f"{indent}    {by_text(change.inner('by'))}", "dim"))
    if not changes:
        session.out.say("nothing differs")


# --- an app -----------------------------------------------------------------------------------------------------------


def _span(begin: str, end: str) -> tuple[int, int]:
    from api.cli.offline import explained
    from events.replay.moments import parse_time

    with explained():
        now = now_micros()
        return parse_time(begin, now=now), parse_time(end or "now", now=now)


def _app_difference(session: Session, begin: str, end: str) -> Document:
    query = {
        "app": session.app_name,
        "team": session.team_name,
        "from": since_time(begin),
        "to": since_time(end) if end else None,
    }
    return session.client.get("/v1/diff", query)


def _app(session: Session, found: Document) -> None:
    if session.out.as_json:
        session.out.json(found)
        return
    session.out.say(
        f"{found.text('team')}/{found.text('app')}: {clock(found.text('from'))} → {clock(found.text('to'))}, "
        f"{len(found.words('streams'))} streams"
    )
    changes = found.items("changes")
    heading = ""
    for change in changes:
        here = f"{change.text('area')} {visible(change.text('name'))}"
        if here != heading:
            session.out.line(styled(here, "bold"))
            heading = here
        _changes(session, [change], indent="  ")
    if not changes:
        session.out.say("nothing differs")


# --- a field ----------------------------------------------------------------------------------------------------------


@takes_session
def why(
    session: Session,
    stream: Stream,
    field: Annotated[str, typer.Argument(metavar="FIELD", help="As diff shows it: config.KEY, scale, spec.routes, …")],
    whole: Annotated[bool, typer.Option("--all", help="The field's whole story.")] = False,
    file: File = None,
) -> None:
    """Which event set a field, who asked for it and why, and what it was before."""
    if not field:
        raise CliError("expected a FIELD as diff shows it, found an empty one", exit_code=ExitCode.USAGE,
                       hint="rayfold why shop config.KEY")  # fmt: skip
    name = stream_name(session, stream)
    limit = _WHOLE_STORY if whole else _STORY
    if file is not None:
        found = Document(offline(file).why(name, field, limit))
    else:
        found = session.client.get(path_of("why", name, field), {"limit": limit})
    if session.out.as_json:
        session.out.json(found)
        return
    shown = value_text(found.raw.get("value")) if found.flag("present") else "(none)"
    session.out.line(f"{visible(found.text('field'))} = {styled(shown, 'good')}")
    settings = found.items("settings")
    if not settings:
        session.out.line("nothing has set it: it is as every stream of its kind begins")
    for setting in settings:
        before, after = (value_text(setting.raw.get(side)) for side in ("before", "after"))
        session.out.line(f"  {styled(before, 'bad')} → {styled(after, 'good')}")
        session.out.line(styled(f"    {by_text(setting.inner('by'))}", "dim"))
    if (left := found.whole("times") - len(settings)) > 0:
        session.out.say(f"set {left} times before that: --all")
