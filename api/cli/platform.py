"""`rayfold up` and `rayfold down`: starting and stopping the platform on this machine.

Knows the options; the work is done by `api.up` and `api.down`, imported only here and only then.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from api.cli.errors import CliError
from api.cli.place import read_api_file
from api.cli.session import Session, takes_session

ApiPort = Annotated[int | None, typer.Option("--api-port", min=0, max=65535, help="The API's port; 0: any free one.")]
GatewayPort = Annotated[
    int | None, typer.Option("--gateway-port", min=0, max=65535, help="The gateway's port; 0: any free one.")
]


@takes_session
def up(
    session: Session,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it is ready; it goes on.")] = False,
    api_port: ApiPort = None,
    gateway_port: GatewayPort = None,
) -> None:
    """Start the platform on this machine, or what is missing of it. Running applications are adopted."""
    code = _up(session.data_dir, api_port, gateway_port, detach)
    if code:
        raise typer.Exit(code)
    if detach:
        _tell(session)


@takes_session
def down(
    session: Session,
    keep_apps: Annotated[bool, typer.Option("--keep-apps", help="Leave the applications running.")] = False,
) -> None:
    """Stop the platform on this machine; with --keep-apps its applications go on until the next `up` adopts them."""
    from api.down import down as stop

    code = stop(data=session.data_dir, keep_apps=keep_apps)
    if code:
        raise typer.Exit(code)
    if session.out.as_json:
        session.out.json({"data": str(session.data_dir), "running": False})
    session.out.say("the platform has stopped")


def _up(data: Path, api_port: int | None, gateway_port: int | None, detach: bool) -> int:
    # Ray, SQLAlchemy and gRPC come in with these: no other command pays for them.
    from actors.cluster.ray_joined import JOB_CONFIG

    if not detach and JOB_CONFIG in os.environ:
        from api.job import run as run_in_job

        return run_in_job(data=data, api_port=api_port, gateway_port=gateway_port)
    from api.up import run

    return run(data=data, api_port=api_port, gateway_port=gateway_port, detach=detach)


def _tell(session: Session) -> None:
    running = read_api_file(session.data_dir)
    if not running:
        raise CliError(f"expected {session.data_dir / 'api.json'} from a platform that started, found none")
    if session.out.as_json:
        session.out.json({**running.raw, "data": str(session.data_dir)})
        return
    session.out.facts([("api", running.text("url")), ("gateway", running.text("gateway_url"))])
    session.out.say("next: rayfold deploy PATH")
