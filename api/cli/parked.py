"""`rayfold parked`: what was set aside because it could not be handled, and what to do about it.

Knows what the platform tells of it; nothing of why a handler fails.
"""

from typing import Annotated

import typer

from api.cli.client import quote
from api.cli.document import Document
from api.cli.output import ago
from api.cli.session import Session, takes_session
from api.cli.words import Why

parked = typer.Typer(help="Streams set aside because they could not be handled: list, show, retry, skip.")

Stream = Annotated[str, typer.Argument(metavar="STREAM", help="As `rayfold parked list` names it.")]


@parked.callback(invoke_without_command=True)
@takes_session
def parked_root(session: Session) -> None:
    """Streams that are set aside."""
    _list(session, session.client.items("/v1/parked"))


@parked.command("list")
@takes_session
def parked_list(session: Session) -> None:
    """Streams that are set aside."""
    _list(session, session.client.items("/v1/parked"))


@parked.command("show")
@takes_session
def parked_show(session: Session, stream: Stream) -> None:
    """Who set a stream aside, and why."""
    found = session.client.items(f"/v1/parked/{quote(stream)}")
    if session.out.as_json:
        session.out.json(found)
        return
    for one in found:
        session.out.facts(
            [
                ("stream", one.text("stream")),
                ("set aside by", one.text("by")),
                ("handler", one.text("handler")),
                ("at version", one.text("version")),
                ("tries", one.text("tries")),
                ("events behind it", one.text("behind")),
                ("since", ago(one.text("parked_at"))),
                ("error", one.text("error")),
            ]
        )
    session.out.say(f"its events: rayfold events --stream {stream}; what was tried: --stream parked/{stream}")


@parked.command("retry")
@takes_session
def parked_retry(session: Session, stream: Stream, message: Why = "") -> None:
    """Try it again, from the first try on; what was wrong should be mended by now."""
    _decide(session, "retry", stream, message, "will be tried again")


@parked.command("skip")
@takes_session
def parked_skip(session: Session, stream: Stream, message: Why = "") -> None:
    """Leave undone what failed, for good; the stream goes on without it."""
    _decide(session, "skip", stream, message, "goes on without what failed")


def _decide(session: Session, what: str, stream: str, message: str, told: str) -> None:
    answer = session.client.send("POST", f"/v1/parked/{what}", {"stream": stream, "reason": message})
    if session.out.as_json:
        session.out.json(answer)
    if not answer.text("position"):  # there was nothing to decide: read models fold at once what waits
        told = "is folded by the read models that had set it aside"
    session.out.say(f"{stream} {told}")


def _list(session: Session, found: list[Document]) -> None:
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [p.text("stream"), p.text("by"), p.text("handler"), p.text("tries"), p.text("behind"),
         ago(p.text("parked_at")), p.text("error")[:80]]
        for p in found
    ]  # fmt: skip
    session.out.table(["stream", "by", "handler", "tries", "behind", "since", "error"], rows, "nothing is parked")
