"""Writes an answer of the platform to a file: all of it, or none.

Knows files; nothing of what is in them.
"""

import os
from contextlib import suppress
from pathlib import Path

from api.cli.client import Query
from api.cli.errors import CliError, ExitCode
from api.cli.session import Session
from events.durable import sync_directory


def save_whole(session: Session, path: str, query: Query | None, output: Path) -> None:
    """All of it or nothing, for its owner's eyes only: it tells what an application is configured with."""
    draft = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            session.client.save(path, query, target)
            target.flush()
            os.fsync(descriptor)
        draft.replace(output)
        sync_directory(output.absolute().parent)
    except OSError as error:
        raise CliError(f"{output} cannot be written: {error.strerror}", exit_code=ExitCode.USAGE) from error
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
