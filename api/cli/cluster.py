"""`rayfold status` and `projections`: how the platform itself is.

Knows what the platform tells of itself; the machine below is the doctor's.
"""

from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, Unreachable
from api.cli.session import Session, takes_session

projections = typer.Typer(help="Read models: list, rebuild.")


@takes_session
def status(session: Session) -> None:
    """How the platform is; exits 1 when it is not ready."""
    out = session.out
    try:
        found = session.client.get("/v1/status")
    except Unreachable as error:
        if out.as_json:
            out.json({"running": False, "ready": False, "reason": error.message})
        raise
    address = session.client.address
    if out.as_json:
        out.json(
            {"running": True, **found.raw, "url": address.url, "gateway_url": address.gateway_url, "pid": address.pid}
        )
    else:
        _show_status(session, found)
    if not found.flag("ready"):
        raise CliError(
            "the platform runs but is not ready", hint="rayfold doctor; the checks above say what is missing"
        )


def _show_status(session: Session, found: Document) -> None:
    address = session.client.address
    port = found.whole("gateway_port")
    session.out.facts(
        [
            ("rayfold", found.text("version")),
            ("ready", found.text("ready")),
            ("api", address.url),
            ("gateway", address.gateway_url or (f"http://*.localhost:{port}" if port else "")),
            ("data", str(session.data_dir)),
            ("pid", str(address.pid or "")),
            ("partitions", found.text("partitions")),
            ("apps", found.text("apps")),
            ("components", found.text("components")),
            ("operations", f"{found.whole('running_operations')} running"),
        ]
    )
    rows = [
        ["ok" if c.flag("ok") else "failed", c.text("name"), c.text("found"), c.text("fix")]
        for c in found.items("checks")
    ]
    if rows:
        print()
        session.out.table(["check", "of", "found", "fix"], rows)
    alarms = [
        ["ALARM", a.text("name"), "/".join(filter(None, (a.text("team"), a.text("app"), a.text("component")))),
         a.text("found"), a.text("fix")]
        for a in found.items("alarms")
    ]  # fmt: skip
    if alarms:
        print()
        session.out.table(["", "what", "of", "found", "look"], alarms)


@projections.callback(invoke_without_command=True)
@takes_session
def projections_root(session: Session) -> None:
    """Read models, and how far behind the log each is."""
    _list_projections(session)


@projections.command("list")
@takes_session
def projections_list(session: Session) -> None:
    """Read models, and how far behind the log each is."""
    _list_projections(session)


def _list_projections(session: Session) -> None:
    found = session.client.items("/v1/projections")
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [[p.text("name"), p.text("behind"), str(len(p.pairs("positions")))] for p in found]
    session.out.table(["projection", "events behind", "partitions"], rows, "no projection")
    for refused in dict.fromkeys(p.text("refused") for p in found if p.text("refused")):
        session.out.say(f"not folded on: {refused}")


@projections.command("rebuild")
@takes_session
def rebuild(session: Session, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Delete a read model and fold it again from the log."""
    answer = session.client.send("POST", f"/v1/projections/{name}/rebuild", {})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"{name} is being folded anew; how far it is: rayfold projections")
