"""`rayfold ps`: the instances of an app, how many there should be, and starting them anew.

Knows instances and scale; nothing of releases or logs.
"""

from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.output import ago
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, carry_out
from api.cli.words import Detach, Wait, Why

ps = typer.Typer(help="Instances: list, scale, restart, stop, start.")

Scales = Annotated[list[str], typer.Argument(metavar="COMPONENT=N...", help="How many of each: web=3 worker=1.")]
One = Annotated[str, typer.Argument(metavar="[COMPONENT]", help="The component; web by default.", show_default=False)]


@ps.callback(invoke_without_command=True)
@takes_session
def list_instances(
    session: Session,
    every: Annotated[bool, typer.Option("--all", help="Those that ended as well.")] = False,
) -> None:
    """Instances of every component, or of --component: what runs, and what crashed and waits to be started again."""
    names = [session.component] if session.component else _components(session)
    found = [item for name in names for item in session.client.items(session.app_path("components", name, "instances"))]
    found = found if every else current(found)
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [_row(item) for item in found]
    headings = ["instance", "status", "release", "node", "port", "pid", "since", "reason"]
    session.out.table(headings, rows, "no instance runs")
    for item in found:
        if item.text("status") in ("crashed", "unready"):
            for line in item.words("lines")[-5:]:
                session.out.say(f"  {_name(item)}: {line}")


def current(found: list[Document]) -> list[Document]:
    """What lives; and of a place where nothing lives, the newest that crashed. `found` is newest first."""
    alive = [item for item in found if item.flag("alive")]
    taken = {(item.text("component"), item.whole("slot")) for item in alive if item.text("kind") == "service"}
    for item in found:
        place = (item.text("component"), item.whole("slot"))
        if item.text("status") == "crashed" and item.text("restart_at") and place not in taken:
            taken.add(place)
            alive.append(item)
    return sorted(alive, key=lambda item: (item.text("component"), item.text("kind"), item.whole("slot")))


def _components(session: Session) -> list[str]:
    return [item.text("component") for item in session.components()]


def _name(item: Document) -> str:
    kind = item.text("kind")
    slot = str(item.whole("slot")) if kind == "service" else f"{kind}-{item.text('instance').rpartition('-')[2]}"
    return f"{item.text('component')}.{slot}"


def _row(item: Document) -> list[str]:
    return [
        _name(item),
        item.text("status"),
        f"v{item.whole('release')}",
        item.text("node"),
        str(item.whole("port") or "-"),
        str(item.whole("pid") or "-"),
        ago(item.text("ended_at", "ready_at", "starting_at")),
        "draining" if item.flag("draining") else item.text("reason"),
    ]


@ps.command("scale")
@takes_session
def scale(
    session: Session, scales: Scales, message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Set how many instances run."""
    for name, count in [_parsed(text) for text in scales]:
        session.component = name
        what = f"scale {name} to {count}"
        _change(session, {"scale": count, "reason": message}, what, detach, timeout)


def _parsed(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not name or not count.isdecimal():
        raise CliError(f"expected COMPONENT=N, found {text!r}", exit_code=ExitCode.USAGE, hint="rayfold ps scale web=3")
    return name, int(count)


@ps.command("restart")
@takes_session
def restart(
    session: Session, which: One = "", message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Replace every instance by a new one, without a gap."""
    session.component = which or session.component_name
    answer = session.write("POST", "restart", body={"reason": message})
    carry_out(session, answer, f"restart {session.component}", detach=detach, seconds=timeout)


@ps.command("stop")
@takes_session
def stop(
    session: Session, which: One = "", message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Stop every instance and keep everything else."""
    session.component = which or session.component_name
    _change(session, {"stopped": True, "reason": message}, f"stop {session.component}", detach, timeout)


@ps.command("start")
@takes_session
def start(
    session: Session, which: One = "", message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Start what `ps stop` stopped."""
    session.component = which or session.component_name
    _change(session, {"stopped": False, "reason": message}, f"start {session.component}", detach, timeout)


def _change(session: Session, body: dict[str, object], what: str, detach: bool, seconds: float) -> None:
    answer = session.write("PATCH", body=body)
    carry_out(session, answer, what, detach=detach, seconds=seconds)
