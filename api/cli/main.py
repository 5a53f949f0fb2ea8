"""The command `rayfold`: every command's name, and what becomes of errors.

Knows which module tells which command; nothing of what they do.
"""

import os
import sys
from collections.abc import Sequence

import typer

from api.cli import (
    apps,
    backup,
    builds,
    cluster,
    comparing,
    composing,
    config,
    credentials,
    crons,
    deploying,
    detecting,
    doctor,
    domains,
    exporting,
    history,
    instances,
    line_rules,
    log_commands,
    logs,
    machines,
    operations,
    parked,
    platform,
    pools,
    pushing,
    queue,
    releases,
    replaying,
    secrets,
    tasks,
    templates,
    top,
    trying,
)
from api.cli.errors import CliError, ExitCode
from api.cli.session import Session, takes_session

_EPILOG = "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 refused, 5 conflict, 6 deploy failed, 7 still going, 130 interrupted."  # noqa: E501

cli = typer.Typer(
    name="rayfold",
    help="Source in, URL out, every moment of it replayable. Begin with: rayfold up --detach, then rayfold deploy.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cli.callback()
@takes_session
def root(session: Session) -> None:
    """Source in, URL out, every moment of it replayable. Begin with: rayfold up --detach, then rayfold deploy."""


_COMMANDS = (
    ("The platform", (
        ("up", platform.up), ("down", platform.down), ("status", cluster.status), ("doctor", doctor.doctor),
    )),
    ("Apps", (
        ("deploy", deploying.deploy), ("detect", detecting.detect), ("compose", composing.compose),
        ("components", apps.list_components),
        ("rollback", releases.rollback),
        ("logs", logs.logs), ("run", tasks.run), ("routes", domains.list_routes),
    )),
    ("The past", (
        ("operations", operations.operations), ("events", history.events), ("replay", replaying.replay),
        ("diff", comparing.diff), ("why", comparing.why), ("whatif", trying.whatif), ("check", trying.check),
        ("export", exporting.export), ("import", exporting.import_file),
    )),
    ("The platform", (("top", top.top),)),
)  # fmt: skip
_GROUPS = (
    ("Apps", (
        ("apps", apps.apps), ("ps", instances.ps), ("releases", releases.releases), ("builds", builds.builds),
        ("config", config.config), ("settings", config.settings), ("domains", domains.domains),
        ("placement", machines.placement), ("cron", crons.cron), ("git", pushing.git), ("template", templates.template),
        ("credentials", credentials.credentials),
        ("log-rules", line_rules.log_rules),
    )),
    ("The platform", (
        ("teams", apps.teams), ("nodes", machines.nodes), ("secrets", secrets.secrets),
        ("projections", cluster.projections), ("pool", pools.pool), ("parked", parked.parked),
        ("log", log_commands.log), ("queue", queue.queue), ("backup", backup.backup),
    )),
)  # fmt: skip

for _panel, _commands in _COMMANDS:
    for _name, _function in _commands:
        _raw = {"ignore_unknown_options": True, "allow_interspersed_args": False} if _name == "run" else None
        cli.command(_name, rich_help_panel=_panel, context_settings=_raw)(_function)
for _panel, _groups in _GROUPS:
    for _name, _group in _groups:
        cli.add_typer(_group, name=_name, rich_help_panel=_panel)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code."""
    session = Session()
    command = typer.main.get_command(cli)
    try:
        command.main(args=list(arguments) if arguments is not None else None, prog_name="rayfold", obj=session)
    except CliError as error:
        session.out.error(session.in_their_words(error))
        return int(error.exit_code)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); nothing more can be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.FAILED)
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ExitCode.FAILED)
    return int(ExitCode.DONE)
