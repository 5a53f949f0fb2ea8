"""`rayfold releases` and `rayfold rollback`: what was released, and going back to it.

Knows releases; nothing of how one comes about.
"""

from typing import Annotated

import typer

from api.cli.debugtext import value_text
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.output import ago, styled
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, carry_out
from api.cli.words import Detach, Limit, Wait, Why

releases = typer.Typer(help="Releases: list, look at.")


@releases.callback(invoke_without_command=True)
@takes_session
def list_releases(session: Session, limit: Limit = 20) -> None:
    """Releases of the component, newest first."""
    found = session.listed("releases", limit=limit)
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [
            f"v{r.whole('number')}" + (" *" if r.flag("current") else ""),
            r.text("status"),
            ago(r.text("created_at")),
            r.text("created_by"),
            r.text("artifact").removeprefix("sha256:")[:12],
            r.text("commit")[:12] or "-",
            f"repeats v{r.whole('rollback_of')}" if r.whole("rollback_of") else r.text("reason"),
        ]
        for r in found
    ]
    headings = ["release", "status", "created", "by", "artifact", "commit", "why"]
    session.out.table(headings, rows, "nothing is released yet: rayfold deploy")


@releases.command("info")
@takes_session
def release_info(session: Session, number: Annotated[str, typer.Argument(metavar="N", help="3 or v3.")]) -> None:
    """A release with its configuration."""
    release = session.read("releases", str(release_number(number)))
    if session.out.as_json:
        session.out.json(release)
        return
    session.out.facts(
        [
            ("release", f"v{release.whole('number')}{' (current)' if release.flag('current') else ''}"),
            ("created", f"{ago(release.text('created_at'))} by {release.text('created_by')}"),
            ("status", release.text("status")),
            ("why", release.text("reason")),
            ("repeats", f"v{release.whole('rollback_of')}" if release.whole("rollback_of") else ""),
            ("artifact", release.text("artifact")),
            ("detected", release.text("detected")),
            ("commit", release.text("commit")),
            ("command", release.text("command")),
            ("scale", str(release.whole("scale"))),
            ("routes", " ".join(release.words("routes"))),
            ("operation", release.text("operation")),
        ]
    )
    for name in ("config", "settings"):
        for key, value in sorted(release.pairs(name).items()):
            session.out.facts([(f"{name} {key}", value)])


def release_number(text: str) -> int:
    """`v3` or `3` as 3. Raises CliError."""
    digits = text.removeprefix("v")
    if not digits.isdecimal() or len(digits) > 9:
        raise CliError(f"expected a release like v3, found {text!r}", exit_code=ExitCode.USAGE, hint="rayfold releases")
    return int(digits)


@takes_session
def rollback(
    session: Session,
    to: Annotated[str, typer.Argument(metavar="[vN]", help="The release; the one before by default.")] = "",
    diff: Annotated[bool, typer.Option("--diff", help="Only show what it would change.")] = False,
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Go back to an earlier release, its configuration and scale included."""
    number = release_number(to) if to else 0
    if diff:
        preview = session.read("rollback-preview", query={"to": number or None})
        if session.out.as_json:
            session.out.json(preview)
            return
        session.out.say(f"from v{preview.whole('current')} to the content of v{preview.whole('to')}:")
        show_changes(session, preview.items("changes"))
        return
    answer = session.write("POST", "rollbacks", body={"to": number, "reason": message})
    story = carry_out(session, answer, f"rollback to {f'v{number}' if number else 'the release before'}",
                      detach=detach, seconds=timeout)  # fmt: skip
    if story is not None:
        session.out.say("undo: rayfold rollback")


def show_changes(session: Session, changes: list[Document]) -> None:
    """One line for each difference: `path: before → after`."""
    for change in changes:
        before, after = (value_text(change.raw.get(side)) for side in ("before", "after"))
        session.out.line(f"{change.text('path')}: {styled(before, 'bad')} → {styled(after, 'good')}")
    if not changes:
        session.out.say("nothing differs")
