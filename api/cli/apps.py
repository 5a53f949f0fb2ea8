"""`rayfold apps`, `rayfold teams` and `rayfold components`: what there is, and making and removing it.

Knows their resources; nothing of what runs in them.
"""

import sys
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import ApiProblem, CliError, ExitCode
from api.cli.output import ago
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, carry_out
from api.cli.words import Detach, Wait, Why

apps = typer.Typer(help="Apps: list, create, look at, destroy.")
teams = typer.Typer(help="Teams: list, create.")

AppName = Annotated[str, typer.Argument(metavar="[APP]", help="Else --app or the directory.", show_default=False)]
Confirm = Annotated[str, typer.Option("--confirm", help="The app's name once more.", metavar="APP")]


@apps.callback(invoke_without_command=True)
@takes_session
def list_apps(session: Session) -> None:
    """Apps of the team."""
    found = session.client.items(session.team_path("apps"))
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [a.text("app"), a.text("status"), ", ".join(a.words("components")) or "-", ago(a.text("created_at"))]
        for a in found
    ]
    session.out.table(["app", "status", "components", "created"], rows, f"team {session.team_name} has no app yet")


@apps.command("create")
@takes_session
def create_app(session: Session, name: AppName = "", message: Why = "") -> None:
    """Make an app. (`rayfold deploy` does it by itself.)"""
    session.app = name or session.app_name
    answer = session.client.send("POST", session.team_path("apps"), {"name": session.app, "reason": message})
    _told(session, answer, f"app {session.app} created in team {session.team_name}")


@apps.command("add")
@takes_session
def add_component(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="COMPONENT", help="The component's name.")],
    process: Annotated[str, typer.Option("--process", help="The process type it runs; an image has web.")] = "web",
    http: Annotated[bool, typer.Option("--http/--no-http", help="Whether it gets PORT and a host name.")] = True,
    message: Why = "",
) -> None:
    """Make a component that runs another process type than its name, or answers no requests."""
    body = {"name": name, "process": process, "http": http, "reason": message}
    answer = session.client.send("POST", session.app_path("components"), body)
    _told(session, answer, f"component {name} made in {session.app_name}: rayfold deploy --component {name}")


@apps.command("info")
@takes_session
def app_info(session: Session, name: AppName = "") -> None:
    """An app with its components and addresses."""
    session.app = name or session.app_name
    found = session.components()
    app = session.client.get(session.app_path())
    if session.out.as_json:
        session.out.json({**app.raw, "components": [c.raw for c in found]})
        return
    session.out.facts(
        [("app", app.text("app")), ("team", app.text("team")), ("status", app.text("status")),
         ("created", ago(app.text("created_at")))]
    )  # fmt: skip
    _component_table(session, found)


@apps.command("destroy")
@takes_session
def destroy_app(
    session: Session,
    name: AppName = "",
    confirm: Confirm = "",
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Stop and remove an app with all its components. Its history stays in the log."""
    session.app = name or session.app_name
    if not confirm and sys.stdin.isatty() and not session.out.as_json:
        confirm = typer.prompt(f"This stops and removes {session.app}. Its name once more", err=True)
    if confirm != session.app:
        raise CliError(
            f"expected --confirm with the app's name, found {confirm!r}",
            exit_code=ExitCode.USAGE,
            hint=f"rayfold apps destroy {session.app} --confirm {session.app}",
        )
    try:
        answer = session.client.send("DELETE", session.app_path(), query={"reason": message})
    except ApiProblem as problem:
        if problem.status == 404:
            session.explain_missing(problem)
        raise
    carry_out(session, answer, f"destroy {session.app}", detach=detach, seconds=timeout)


@takes_session
def list_components(session: Session) -> None:
    """Components of the app: release, instances, addresses."""
    found = session.components()
    if session.out.as_json:
        session.out.json(found)
        return
    _component_table(session, found)


def _component_table(session: Session, found: list[Document]) -> None:
    rows = [
        [
            c.text("component"),
            "stopped" if c.flag("stopped") else c.text("status"),
            f"v{c.whole('release')}" if c.whole("release") else "-",
            f"{c.whole('ready')}/{0 if c.flag('stopped') else c.whole('scale')}",
            c.text("operation", default="-"),
            " ".join(c.words("urls")) or "-",
        ]
        for c in found
    ]
    headings = ["component", "status", "release", "ready", "operation", "addresses"]
    session.out.table(headings, rows, "no component yet: rayfold deploy")


@teams.callback(invoke_without_command=True)
@takes_session
def list_teams(session: Session) -> None:
    """Teams that the token reaches."""
    found = session.client.items("/v1/teams")
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [[t.text("team"), t.text("status"), ", ".join(t.words("tokens")) or "-"] for t in found]
    session.out.table(["team", "status", "tokens"], rows, "no team yet: rayfold teams create NAME")


@teams.command("create")
@takes_session
def create_team(session: Session, name: Annotated[str, typer.Argument(help="The team's name.")]) -> None:
    """Make a team. Its token is printed once and stored nowhere."""
    answer = session.client.send("POST", "/v1/teams", {"name": name})
    if session.out.as_json:
        session.out.json(answer)
        return
    session.out.say(f"team {name} created; its token, shown this once:")
    session.out.line(answer.text("token"))


def _told(session: Session, answer: Document, text: str) -> None:
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(text)
