"""`rayfold nodes` and `rayfold placement`: the machines that run instances, and which of them a component asks for.

Knows what can be said about a machine; what follows from it is the platform's.
"""

from typing import Annotated

import typer

from api.cli.errors import CliError, ExitCode
from api.cli.output import ago, size
from api.cli.session import Session, takes_session
from api.cli.words import Why

nodes = typer.Typer(help="Machines that run instances: list, drain, undrain, remove.")
placement = typer.Typer(help="What the component asks of nodes: show, set.")

Node = Annotated[str, typer.Argument(metavar="NODE", help="Its name, as `rayfold nodes` shows it.")]


@nodes.callback(invoke_without_command=True)
@takes_session
def list_nodes(session: Session) -> None:
    """Machines that run instances."""
    found = session.client.items("/v1/nodes")
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [n.text("name"), n.text("status"), n.text("address"), n.text("cpus"), size(n.number("memory_bytes")),
         n.text("runtime"), ago(n.text("joined_at")), n.text("reason")]
        for n in found
    ]  # fmt: skip
    headings = ["node", "status", "address", "cpus", "memory", "runtime", "joined", "reason"]
    session.out.table(headings, rows, "no node yet")


@nodes.command("drain")
@takes_session
def drain(session: Session, node: Node, message: Why = "") -> None:
    """Have what runs there run elsewhere: others start first, then these stop. Nothing new starts there."""
    _change(session, node, draining=True, why=message)
    session.out.say(f"node {node} is being drained; follow it: rayfold ps, undo: rayfold nodes undrain {node}")


@nodes.command("undrain")
@takes_session
def undrain(session: Session, node: Node, message: Why = "") -> None:
    """Take a node back that was being drained."""
    _change(session, node, draining=False, why=message)
    session.out.say(f"node {node} takes instances again")


@nodes.command("remove")
@takes_session
def remove(
    session: Session,
    node: Node,
    message: Why = "",
    confirm: Annotated[str, typer.Option("--confirm", metavar="NODE", help="The node's name once more.")] = "",
) -> None:
    """Give a node up for good: it is off, and nothing runs there any more. Components with state start elsewhere."""
    if confirm != node:
        raise CliError(
            "what has state and runs on while its node is removed would run twice: be sure that the machine is off",
            exit_code=ExitCode.USAGE,
            hint=f"rayfold nodes remove {node} --confirm {node}",
        )
    answer = session.client.send("DELETE", f"/v1/nodes/{node}", query={"reason": message})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"node {node} was removed")


def _change(session: Session, node: str, *, draining: bool, why: str) -> None:
    answer = session.client.send("PATCH", f"/v1/nodes/{node}", {"draining": draining, "reason": why})
    if session.out.as_json:
        session.out.json(answer)


@placement.callback(invoke_without_command=True)
@takes_session
def show_placement(session: Session) -> None:
    """What the component asks of nodes."""
    found = session.read("placement")
    if session.out.as_json:
        session.out.json(found)
        return
    required = " ".join(f"{key}={value}" for key, value in sorted(found.pairs("require").items()))
    session.out.facts(
        [("require", required or "nothing"), ("spread", found.text("spread") or "over nodes"),
         ("stateful", "yes" if found.flag("stateful") else "no")]
    )  # fmt: skip


@placement.command("set")
@takes_session
def set_placement(
    session: Session,
    require: Annotated[list[str] | None, typer.Option("--require", metavar="LABEL=VALUE", help="Repeat it.")] = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Require no label.")] = False,
    spread: Annotated[str | None, typer.Option("--spread", metavar="LABEL", help="Spread over its values.")] = None,
    stateful: Annotated[bool | None, typer.Option("--stateful/--stateless", help="Never two in one place.")] = None,
    message: Why = "",
) -> None:
    """Ask for nodes with labels, for spreading, or that no instance ever runs twice. What runs stays where it is."""
    body: dict[str, object] = {"reason": message}
    if require or anywhere:
        body["require"] = dict(_label(text) for text in require or [])
    if spread is not None:
        body["spread"] = spread
    if stateful is not None:
        body["stateful"] = stateful
    answer = session.write("PATCH", "placement", body=body)
    if session.out.as_json:
        session.out.json(answer)
    session.out.say("the placement is set; what starts from now on follows it")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise CliError(f"expected LABEL=VALUE, found {text!r}", exit_code=ExitCode.USAGE, hint="--require disk=ssd")
    return key, value
