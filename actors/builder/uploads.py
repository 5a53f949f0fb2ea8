"""Which uploaded sources and kept outputs of builds are old enough to go: by when they were last used, nothing else.

Blocking, for threads. Whoever uses an upload renews it under the directory's lock, and what is removed is looked at
under it again. Partial uploads (`parts/`, `.partial-*`) are their writer's; it must not know who refers to an upload.
"""

import fcntl
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from events.failpoints import failpoint

UPLOAD_KEPT_SECONDS = 86_400.0
"""After its last use: nothing builds an upload again, and what is sent again is mostly there in parts."""
OUTPUT_KEPT_SECONDS = 30 * 86_400.0
"""Of a builder's own copy of a build's output, as long as the log service keeps lines by default."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@contextmanager
def uploads_locked(directory: Path) -> Iterator[None]:
    """Alone with the directory, among all processes of this machine. Raises FileNotFoundError where there is none."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def renew(*paths: Path) -> bool:
    """Make the age of these begin anew; False when one is not there. Call it under the lock."""
    try:
        for path in paths:
            os.utime(path)
    except FileNotFoundError:
        return False
    return True


def prune_uploads(directory: Path, *, needed: Collection[str], before: float) -> tuple[int, int]:
    """Remove uploads, and teams' marks of them, last used before `before` (unix seconds) and not `needed`.

    How many went, and their bytes. Each goes by itself: dying on any line leaves the rest to the next round.
    """
    removed = freed = 0
    for path in [*entries(directory), *(mark for team in entries(directory / "teams") for mark in entries(team))]:
        if not _SHA256.match(path.name) or path.name in needed:
            continue
        failpoint("builder-upload-going")
        with suppress(FileNotFoundError), uploads_locked(directory):
            status = path.stat()
            if status.st_mtime < before:
                path.unlink()
                removed += path.parent == directory
                freed += status.st_size
    return removed, freed


def prune_outputs(directory: Path, *, running: Collection[str], now: float | None = None) -> int:
    """Remove a builder's copies of outputs that nothing was written to for OUTPUT_KEPT_SECONDS; how many went."""
    removed = 0
    for path in entries(directory):
        if path.suffix == ".log" and path.stem not in running:
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < (now or time.time()) - OUTPUT_KEPT_SECONDS:
                    path.unlink()
                    removed += 1
    return removed


def entries(directory: Path) -> Iterable[Path]:
    """What is in a directory, in order; nothing where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(directory.iterdir())
    return ()
