"""`rayfold pool`: how many actors of each kind there are, should be, and may become by themselves.

Knows what the platform tells of its pools; which there are, it learns there.
"""

import re
import time
from typing import Annotated

import typer

from api.cli.client import quote
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.output import ago
from api.cli.session import Session, takes_session
from api.cli.words import Why

pool = typer.Typer(help="Pools of actors: list, scale, auto.")

POLL_SECONDS = 0.25
WAIT_SECONDS = 600.0
_BOUNDS = re.compile(r"^(\d{1,4})\.\.(\d{1,4})$")


@pool.callback(invoke_without_command=True)
@takes_session
def pool_root(session: Session) -> None:
    """Pools of actors, their wanted size and what runs."""
    _list(session)


@pool.command("list")
@takes_session
def pool_list(session: Session) -> None:
    """Pools of actors, their wanted size and what runs."""
    _list(session)


def _list(session: Session) -> None:
    found = session.client.items("/v1/pools")
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [p.text("name"), p.text("size"), p.text("running"), p.text("most"), _auto(p), f"{p.number('work'):.1f}",
         ago(p.text("scaled_at")), p.text("scaled_by"), p.text("reason")]
        for p in found
    ]  # fmt: skip
    headings = ["pool", "size", "running", "most", "auto", "work", "scaled", "by", "why"]
    session.out.table(headings, rows, "no pool")


def _auto(found: Document) -> str:
    return f"{found.text('auto_least')}..{found.text('auto_most')}" if found.text("auto_most") else ""


@pool.command("scale")
@takes_session
def pool_scale(
    session: Session,
    sizes: Annotated[list[str], typer.Argument(metavar="NAME=N...")],
    message: Why = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when the pools have these sizes.")] = False,
) -> None:
    """Give pools other sizes; what goes is drained first. Ends automatic scaling of them."""
    wanted = [_size(text) for text in sizes]
    for name, size in wanted:
        # Told one by one: where a later one is refused, those before it stand.
        answer = session.client.send("PATCH", _path(name), {"size": size, "reason": message})
        if not wait:
            _tell(session, name, answer)
    for name, size in wanted if wait else ():
        _tell(session, name, _wait(session, name, size))


def _tell(session: Session, name: str, found: Document) -> None:
    if session.out.as_json:
        session.out.json(found)
    session.out.say(f"pool {name}: {found.whole('size')} wanted, {found.whole('running')} running")


def _size(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not name or not count.isdecimal():
        raise CliError(
            f"expected NAME=N, found {text[:60]!r}", exit_code=ExitCode.USAGE, hint="rayfold pool scale builder=4"
        )
    return name, int(count)


@pool.command("auto")
@takes_session
def pool_auto(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    bounds: Annotated[str, typer.Argument(metavar="MIN..MAX")],
    message: Why = "",
) -> None:
    """Let a pool's size follow its work, within bounds."""
    match = _BOUNDS.match(bounds)
    if match is None:
        raise CliError(
            f"expected MIN..MAX, found {bounds[:60]!r}", exit_code=ExitCode.USAGE, hint="rayfold pool auto builder 1..4"
        )
    least, most = map(int, match.groups())
    answer = session.client.send("PATCH", _path(name), {"auto": {"least": least, "most": most}, "reason": message})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"pool {name}: from {least} to {most}, as its work asks; now {answer.whole('size')}")


def _wait(session: Session, name: str, size: int) -> Document:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = session.client.get(_path(name))
        settled = not found.whole("draining") and not found.whole("moving")
        if found.whole("size") == size == found.whole("running") and settled:
            return found
        if time.monotonic() > deadline:
            raise CliError(
                f"pool {name}: expected {size} running within {WAIT_SECONDS:.0f} s, found {found.whole('running')}",
                exit_code=ExitCode.TIMED_OUT,
                hint="it goes on; follow it with: rayfold pool list",
            )
        time.sleep(POLL_SECONDS)


def _path(name: str) -> str:
    return f"/v1/pools/{quote(name)}"
