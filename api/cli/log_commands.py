"""`rayfold log`: the event log itself, as stored.

Knows which module tells which command; nothing of what they do.
"""

import typer

from api.cli.log_keeping import archive, stats
from api.cli.log_verify import verify

log = typer.Typer(help="The event log as stored: stats, archive, verify.", no_args_is_help=True)
log.command("stats")(stats)
log.command("archive")(archive)
log.command("verify")(verify)
