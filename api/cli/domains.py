"""`rayfold domains` and `rayfold routes`: the addresses at which components answer.

Knows hosts and paths; nothing of the gateway.
"""

from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.session import Session, takes_session
from api.cli.waiting import DEFAULT_SECONDS, carry_out
from api.cli.words import Detach, Wait, Why

domains = typer.Typer(help="Addresses of the component: list, add, remove.")

Address = Annotated[str, typer.Argument(metavar="HOST[/PATH]", help="shop.example.com, or shop.example.com/api.")]
_HEADINGS = ["host", "path", "component", "made by", "url"]


@domains.callback(invoke_without_command=True)
@takes_session
def list_domains(session: Session) -> None:
    """Addresses of the component."""
    _table(session, session.listed("routes"))


@domains.command("add")
@takes_session
def add_domain(
    session: Session, address: Address, message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Answer at one more address. Its DNS name must lead to the gateway."""
    host, path = split_address(address)
    answer = session.write("POST", "routes", body={"host": host, "path": path, "reason": message})
    carry_out(session, answer, f"add {host}{path}", detach=detach, seconds=timeout)


@domains.command("remove")
@takes_session
def remove_domain(
    session: Session, address: Address, message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Answer no more at an address."""
    host, path = split_address(address)
    answer = session.write("DELETE", "routes", query={"host": host, "path": path, "reason": message})
    carry_out(session, answer, f"remove {host}{path}", detach=detach, seconds=timeout)


@takes_session
def list_routes(session: Session) -> None:
    """Every address of the team's components."""
    _table(session, session.client.items(session.team_path("routes")))


def split_address(text: str) -> tuple[str, str]:
    """`shop.example.com/api` as host and path prefix. Raises CliError for a URL with scheme or port."""
    host, slash, path = text.partition("/")
    if "://" in text or ":" in host or not host:
        raise CliError(
            f"expected a bare host like shop.example.com or shop.example.com/api, found {text!r}",
            exit_code=ExitCode.USAGE,
            hint="leave out the scheme and the port",
        )
    return host.lower(), slash + path if path else "/"


def _table(session: Session, found: list[Document]) -> None:
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [
            r.text("host"),
            r.text("path"),
            f"{r.text('app')}/{r.text('component')}",
            "platform" if r.flag("own") else "you",
            r.text("url"),
        ]
        for r in found
    ]
    session.out.table(_HEADINGS, rows, "no address yet: an app gets one with its first deploy")
