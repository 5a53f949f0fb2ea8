"""Where a command about the past finds it: a file that was exported before, or one that the platform sends now.

Knows both ways in; what is done with the history is the command's.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.client import Query
from api.cli.loglines import since_time
from api.cli.session import Session

if TYPE_CHECKING:
    from api.cli.offline import Moment, Offline


def offline(file: Path) -> "Offline":
    """The tools over a file. They are loaded here: a command that needs none of them starts fast."""
    from api.cli.offline import Offline

    return Offline(file)


@contextmanager
def history_of(session: Session, file: Path | None, path: str, query: Query | None = None) -> "Iterator[Offline]":
    """The tools over `file`; without one over what the platform sends for `path`, kept for as long as this is open."""
    if file is not None:
        yield offline(file)
        return
    with tempfile.TemporaryDirectory(prefix="rayfold-history-") as directory:
        fetched = Path(directory) / "history.jsonl"
        with fetched.open("xb") as target:
            session.client.save(path, query, target)
        yield offline(fetched)


def moment_in(tools: "Offline", at: str, offset: int | None, version: int | None) -> "Moment":
    """The moment that --at, --offset or --version name, as the tools take it; none of them: now."""
    if at:
        return {"at": tools.time(since_time(at))}
    if offset is not None:
        return {"offset": offset}
    return {} if version is None else {"version": version}
