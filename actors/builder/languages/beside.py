"""Puts files of the platform's own beside an application that a build's user has written to.

Whatever stands in the place is taken away first and never followed; it must not know what the files are for.
"""

import os
from pathlib import Path

from actors.builder.archive import remove_tree

BESIDE = ".rayfold"


def put_beside(root: Path, source: Path, name: str, user: tuple[int, int] | None) -> None:
    """Copy `source` to a new directory `.rayfold` of `root` as `name`. Blocking; no command of the build may run."""
    own = root / BESIDE
    forget(own)
    own.mkdir(mode=0o755)
    write_new(own / name, source.read_bytes(), user)
    if user is not None:
        os.chown(own, *user)


def write_new(path: Path, content: bytes, user: tuple[int, int] | None) -> None:
    """Write a file that is new, even if a build has made a link of that name. Blocking."""
    forget(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(fd, "wb") as out:
        out.write(content)
        if user is not None:
            os.fchown(out.fileno(), *user)


def forget(path: Path) -> None:
    """Remove what is there, a link itself and never what it leads to. Blocking."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        remove_tree(path)
