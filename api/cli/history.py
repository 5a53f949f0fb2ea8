"""`rayfold events`, `rayfold replay` and `rayfold diff`: the log itself, and any past moment of anything.

Knows streams and moments; folding is the platform's work.
"""

import hashlib
import json
import sys
from typing import Annotated

import typer

from api.cli.client import quote
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.feed import Feed
from api.cli.loglines import since_time
from api.cli.output import clock, styled
from api.cli.releases import show_changes
from api.cli.safe import visible
from api.cli.session import DEFAULT_COMPONENT, Session, takes_session

KINDS = ("team", "app", "component", "build", "route", "node")
_PAGE = 1000
_SHOWN_VALUE = 60

Stream = Annotated[
    str, typer.Argument(metavar="STREAM", help="component/ID, build/ID, … or APP, APP/COMPONENT, TEAM/APP/COMPONENT.")
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
    # The same name has the same id for ever (see events.model.base): no need to ask for it.
    return "component/" + hashlib.blake2b(f"{team}/{app}/{component}".encode(), digest_size=8).hexdigest()


def moment_name(text: str) -> str:
    """A moment as the API takes it: `12` → `v12`; `10m` → the time ten minutes ago; the rest as it is."""
    if text.isdecimal():
        return f"v{text}"
    if text[-1:] in "smhdn" and text[:1].isdecimal():
        return since_time(text)
    return text


@takes_session
def events(
    session: Session,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events.")] = False,
    since: Annotated[str, typer.Option("--since", help="From a position (3:120), a time, or 10m, 2h, 1d.")] = "",
    stream: Annotated[str, typer.Option("--stream", help="Only of this stream, or of APP/COMPONENT.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Only of this type, like RolloutStarted.")] = "",
    operation: Annotated[str, typer.Option("--operation", help="Only what this operation caused.")] = "",
    limit: Annotated[int, typer.Option("-n", "--limit", min=0, help="At most this many; 0 for all.")] = 0,
) -> None:
    """Events of the log, past and live."""
    query: dict[str, object] = {
        "since": moment_name(since) if since else None,
        "stream": stream_name(session, stream) if stream else None,
        "type": kind,
        "operation": operation,
        "team": session.team,
        "app": session.app,
        "component": session.component,
    }
    if follow:
        for sent in Feed(session.client, "/v1/events", query):
            if sent.event not in ("caught-up", "caught_up"):
                _print(session, sent.document())
        return
    left = limit or sys.maxsize
    while left > 0:
        page = session.client.get("/v1/events", {**query, "limit": min(left, _PAGE)})
        for event in page.items():
            _print(session, event)
        left -= len(page.items())
        if page.flag("caught_up") or not page.text("next_cursor"):
            return
        query["since"] = page.text("next_cursor")


def _print(session: Session, event: Document) -> None:
    if "type" not in event:
        return
    if session.out.as_json:
        session.out.json_line(event)
    else:
        session.out.line(event_text(event))


def event_text(event: Document) -> str:
    """An event on one line: position, time, whose, version, type, who, and its content."""
    whose = "/".join(p for p in (event.text("team"), event.text("app"), event.text("component")) if p)
    body = " ".join(f"{name}={_shown(value)}" for name, value in event.inner("body"))
    head = f"{event.text('position'):>8} {clock(event.text('at'))} {visible(whose or event.text('stream'))}"
    kind = styled(visible(event.text("type")), "name")
    why = f" “{visible(event.text('reason'))}”" if event.text("reason") else ""
    return (
        f"{head} v{event.whole('version')} {kind} by {visible(event.text('actor'))}{why} {styled(body, 'dim')}".rstrip()
    )


def _shown(value: object) -> str:
    text = visible(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 1] + "…"


@takes_session
def replay(
    session: Session,
    stream: Stream,
    at: Annotated[str, typer.Option("--at", help="As it was at this time: ISO-8601, or 10m, 2h, 1d ago.")] = "",
    offset: Annotated[int | None, typer.Option("--offset", min=0, help="Up to this offset of its partition.")] = None,
    version: Annotated[int | None, typer.Option("--version", min=0, help="Up to this version of the stream.")] = None,
    step: Annotated[bool, typer.Option("--step", help="Event by event, with what each one changed.")] = False,
) -> None:
    """The state of anything at any past moment."""
    if sum(given not in (None, "") for given in (at, offset, version)) > 1:
        raise CliError("expected one of --at, --offset and --version, found several", exit_code=ExitCode.USAGE)
    name = stream_name(session, stream)
    query: dict[str, object] = {"at": since_time(at) if at else None, "offset": offset, "version": version}
    found = session.client.get(_path("replay", name), query)
    if step:
        _step(session, name, found.whole("version"))
        return
    if session.out.as_json:
        session.out.json(found)
        return
    session.out.say(f"{name} at version {found.whole('version')}, {found.text('position')}, {clock(found.text('at'))}")
    session.out.line(json.dumps(found.raw.get("state"), indent=2, ensure_ascii=True))


def _step(session: Session, name: str, last: int) -> None:
    """Every event up to version `last`, each followed by the differences it made; Enter goes on at a terminal."""
    query: dict[str, object] = {"stream": name}
    while True:
        page = session.client.get("/v1/events", {**query, "limit": _PAGE})
        for event in page.items():
            version = event.whole("version")
            if version > last:
                return
            _print(session, event)
            between = {"from": f"v{version - 1}", "to": f"v{version}"}
            changed = session.client.get(_path("diff", name), between)
            if session.out.as_json:
                session.out.json_line(changed)
            else:
                show_changes(session, changed.items("changes"))
            if sys.stdin.isatty() and sys.stdout.isatty() and version < last:
                print(styled("— Enter for the next event, Ctrl-C to stop —", "dim", sys.stderr), file=sys.stderr)
                sys.stdin.readline()
        if page.flag("caught_up"):
            return
        query["since"] = page.text("next_cursor")


@takes_session
def diff(
    session: Session,
    stream: Stream,
    before: Annotated[str, typer.Argument(metavar="A", help="A version (12), a position (3:120), a time.")],
    after: Annotated[str, typer.Argument(metavar="[B]", help="Likewise; now by default.")] = "",
) -> None:
    """What changed in a stream's state between two moments."""
    name = stream_name(session, stream)
    query = {"from": moment_name(before), "to": moment_name(after) if after else None}
    found = session.client.get(_path("diff", name), query)
    if session.out.as_json:
        session.out.json(found)
        return
    session.out.say(f"{name}: version {found.whole('from_version')} → {found.whole('to_version')}")
    show_changes(session, found.items("changes"))


def _path(what: str, stream: str) -> str:
    # Segments are quoted one by one: a stream's name has slashes of its own, and the API takes the rest of the path.
    return f"/v1/{what}/" + "/".join(map(quote, stream.split("/")))
