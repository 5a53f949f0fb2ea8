"""`rayfold log-rules`: how long and how much of a component's or a team's log lines is kept, and what never is.

Knows what can be said; which rule holds where several say something is the platform's.
"""

from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.session import Session, takes_session
from api.cli.words import Why

log_rules = typer.Typer(help="What is kept of log lines, of the component and of its team: show, set.")

_NAMES = ("keep_days", "component_mib", "team_gib", "kib_per_second", "redact")


@log_rules.callback(invoke_without_command=True)
@takes_session
def show(session: Session) -> None:
    """What was decided for the team and its components; what is not shown follows the platform's configuration."""
    with session.explained():
        found = session.client.items(session.team_path("log-rules"))
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [[_whose(each), *(_told(each, name) for name in _NAMES)] for each in found]
    headings = ["of", "keep days", "component MiB", "team GiB", "KiB/s", "redact"]
    session.out.table(headings, rows, "nothing was decided: the platform's configuration holds")


def _whose(rules: Document) -> str:
    return f"{rules.text('app')}/{rules.text('component')}" if rules.text("app") else "the team"


def _told(rules: Document, name: str) -> str:
    return "  ".join(rules.words(name)) if name == "redact" else rules.text(name)


@log_rules.command("set")
@takes_session
def change(
    session: Session,
    whole_team: Annotated[bool, typer.Option("--whole-team", help="Of the team, not of the component.")] = False,
    keep_days: Annotated[float | None, typer.Option("--keep-days", help="Days; 0: for ever.")] = None,
    component_mib: Annotated[int | None, typer.Option("--component-mib", help="Of one component, as stored.")] = None,
    team_gib: Annotated[float | None, typer.Option("--team-gib", help="Of all; the administrator's.")] = None,
    kib_per_second: Annotated[
        int | None, typer.Option("--kib-per-second", help="Of all; 0: no limit; the administrator's.")
    ] = None,
    redact: Annotated[
        list[str] | None, typer.Option("--redact", metavar="RE2", help="What is not stored. Repeat it: all at once.")
    ] = None,
    inherit: Annotated[
        list[str] | None, typer.Option("--inherit", metavar="NAME", help="Leave to the wider rules, e.g. keep-days.")
    ] = None,
    message: Why = "",
) -> None:
    """Decide about log lines. It holds within seconds, for lines that are stored from then on and for what is kept."""
    given = (keep_days, component_mib, team_gib, kib_per_second, redact or None)
    body: dict[str, object] = {
        name: value for name, value in zip(_NAMES, given, strict=True) if value is not None
    }  # fmt: skip
    for name in inherit or []:
        field = name.replace("-", "_")
        if field not in _NAMES:
            known = ", ".join(each.replace("_", "-") for each in _NAMES)
            raise CliError(f"expected --inherit of {known}, found {name!r}", exit_code=ExitCode.USAGE)
        body[field] = None
    if not body:
        raise CliError(
            "expected something to set, found nothing", exit_code=ExitCode.USAGE, hint="rayfold log-rules set --help"
        )
    body["reason"] = message
    if whole_team:
        with session.explained():
            answer = session.client.send("PATCH", session.team_path("log-rules"), body)
    else:
        answer = session.write("PATCH", "log-rules", body=body)
    if session.out.as_json:
        session.out.json(answer)
    session.out.say("the rules are set")
