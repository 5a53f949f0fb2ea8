"""`rayfold events`: the log itself, past and live.

Knows how an event is told on a line; nothing of what it changed.
"""

import sys
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.feed import Feed
from api.cli.output import clock, styled
from api.cli.safe import visible, visible_json
from api.cli.session import Session, takes_session
from api.cli.streams import moment_name, stream_name

_PAGE = 1000
_SHOWN_VALUE = 60


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
            if sent.event == "damaged":
                session.out.say(f"not shown from here on: {sent.document().text('damaged')}")
            elif sent.event not in ("caught-up", "caught_up"):
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
    text = visible(value) if isinstance(value, str) else visible_json(value)
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 1] + "…"
