"""`rayfold operations`: pieces of work, what came of them, following and stopping one.

Knows operations of every kind; nothing of what each does.
"""

from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.output import ago, clock, duration, moment
from api.cli.outputs import tell_output
from api.cli.progress import Progress
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, expect_success, operation_path, watch
from api.cli.words import Limit, Wait, Why


@takes_session
def operations(
    session: Session,
    operation: Annotated[str, typer.Argument(metavar="[ID]", help="One of them; all by default.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait until it ended.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Ask it to stop.")] = False,
    output: Annotated[bool, typer.Option("--output", help="What was said of it; with -f until it ended.")] = False,
    limit: Limit = 20,
    message: Why = "",
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Operations, newest first; or one, with its steps."""
    if not operation:
        if follow or cancel or output:
            raise CliError("expected an operation's id", exit_code=ExitCode.USAGE, hint="rayfold operations")
        _list(session, limit)
        return
    if cancel:
        answer = session.client.send("POST", operation_path(operation, "cancel"), {"reason": message})
        if session.out.as_json and not follow:
            session.out.json(answer)
        session.out.say(f"operation {operation} is asked to stop")
        if not follow:
            return
    if output:
        tell_output(session, operation_path(operation, "output"), follow)
        return
    if follow:
        with Progress(session.out) as progress:
            story = watch(session, operation, progress, timeout)
        if session.out.as_json:
            session.out.json(session.client.get(operation_path(operation), {"min_position": story.position}))
        session.out.say(expect_success(story, story.kind or "operation").detail)
        return
    _one(session, session.client.get(operation_path(operation)))


def _list(session: Session, limit: int) -> None:
    query = {"team": session.team, "app": session.app, "limit": min(limit, 500)}
    found = session.client.items("/v1/operations", query, limit)
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [
            o.text("operation"),
            "/".join(part for part in (o.text("team"), o.text("app"), o.text("component")) if part),
            o.text("kind"),
            o.text("status"),
            ago(o.text("started_at")),
            _took(o),
            o.text("actor"),
            o.text("reason", "result", "detail"),
        ]
        for o in found
    ]
    session.out.table(["operation", "of", "kind", "status", "started", "took", "by", "said"], rows, "no operation yet")


def _one(session: Session, found: Document) -> None:
    out = session.out
    if out.as_json:
        out.json(found)
        return
    serving = found.whole("still_serving")
    out.facts(
        [
            ("operation", found.text("operation")),
            ("of", "/".join(part for part in (found.text("team"), found.text("app"), found.text("component")) if part)),
            ("kind", found.text("kind")),
            ("status", found.text("status")),
            ("asked", found.text("detail")),
            ("why", found.text("message")),
            ("phase", found.text("phase") if found.text("status") == "running" else ""),
            ("came to", found.text("reason", "result")),
            ("release", f"v{found.whole('release')}" if found.whole("release") else ""),
            ("build", found.text("build")),
            ("still serving", f"v{serving}" if serving else ""),
            ("by", found.text("actor")),
            ("started", clock(found.text("started_at"))),
            ("took", _took(found)),
            ("parent", found.text("parent")),
            ("stream", found.text("stream")),
        ]
    )
    for line in found.words("lines"):
        out.facts([("output", line)])
    steps = [[duration(s.number("seconds")), s.text("phase")] for s in found.items("steps")]
    if steps:
        print()
        out.table(["after", "phase"], steps)
    children = [
        [c.text("operation"), c.text("component"), c.text("status"), c.text("reason")] for c in found.items("children")
    ]
    if children:
        print()
        out.table(["child", "component", "status", "reason"], children)


def _took(operation: Document) -> str:
    begun, ended = moment(operation.text("started_at")), moment(operation.text("ended_at"))
    return duration((ended - begun).total_seconds()) if begun and ended else "-"
