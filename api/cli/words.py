"""Options that several commands share: the reason, detaching, the time to wait.

Only their names, help and types.
"""

from typing import Annotated

import typer

Why = Annotated[str, typer.Option("--message", "-m", help="Why, in your words; kept with the event.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait; print the operation's id.")]
Wait = Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait before leaving it to itself (exit 7).")]
Limit = Annotated[int, typer.Option("-n", "--limit", min=1, help="At most this many.")]
