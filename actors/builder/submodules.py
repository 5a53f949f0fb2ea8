"""Fetches a repository's submodules at the commits it names, and finds files that Git LFS keeps elsewhere.

Trusts neither .gitmodules nor what it points to; it must not know what is built from the tree.
"""

import asyncio
import os
import posixpath
import re
from pathlib import Path

from actors.builder.archive import remove_tree
from actors.builder.errors import SourceError
from actors.builder.git import GitSource, check_url

_FILE = ".gitmodules"
_DEEPEST = 4
_MOST = 50
_KEY = re.compile(r"^submodule\.(?P<name>.+)\.(?P<key>path|url) (?P<value>.+)$")
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_LONGEST_POINTER = 1024
_SHOWN = 5


async def fetch_submodules(git: GitSource, url: str, root: Path, *, depth: int = 0) -> int:
    """Fetch the submodules of the checkout `root` of `url`, theirs too; how many. Their .git directories are removed.

    Raises `SourceError`: as `GitSource.fetch`, or submodule_refused for one that leads out of the tree, to this
    machine's own files or too deep.
    """
    if not (root / _FILE).is_file() or (root / _FILE).is_symlink():
        return 0
    named = await _named(git, root)
    if depth >= _DEEPEST or len(named) > _MOST:
        raise SourceError(
            f"Expected at most {_MOST} submodules and {_DEEPEST} levels of them, found more. Deploy the source "
            "with its submodules as a directory: rayfold deploy DIR.",
            code="submodule_refused",
        )
    count = 0
    for path, wanted in named.items():
        commit = await git.gitlink(root, path)
        if commit is None:
            continue  # named and not in this commit, as git itself passes over it
        target, place = resolve_url(url, wanted), root / path
        _check(root, place, path, target, url)
        await asyncio.to_thread(remove_tree, place)
        await git.fetch(target, commit, place)
        count += 1 + await fetch_submodules(git, target, place, depth=depth + 1)
        await asyncio.to_thread(remove_tree, place / ".git")
    return count


async def _named(git: GitSource, root: Path) -> dict[str, str]:
    """Path → URL of each submodule that .gitmodules names whole."""
    found: dict[str, dict[str, str]] = {}
    for line in await git.config_of(root, _FILE, r"^submodule\..*\.(path|url)$"):
        if match := _KEY.match(line):
            found.setdefault(match["name"], {})[match["key"]] = match["value"]
    return {each["path"]: each["url"] for each in found.values() if len(each) == 2}


def resolve_url(parent: str, url: str) -> str:
    """`url` as git resolves it: `./` and `../` are relative to the repository that names it."""
    base = parent.rstrip("/")
    relative = url.startswith(("./", "../"))
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            cut = max(base.rfind("/"), base.rfind(":"))
            base = base[:cut] if base[cut : cut + 1] == "/" else base[: cut + 1]
        url = url.split("/", 1)[1]
    return f"{base}{'' if base.endswith(':') else '/'}{url}" if relative else url


def _check(root: Path, place: Path, path: str, target: str, parent: str) -> None:
    inside = place.parent.resolve().is_relative_to(root.resolve()) and not place.is_symlink()
    if not inside or posixpath.normpath(path) != path or path.startswith(("/", "..")) or ".git" in path.split("/"):
        raise SourceError(
            f"Expected a submodule inside the source, found the path {path[:200]!r}. Correct .gitmodules.",
            code="submodule_refused",
        )
    check_url(target)
    if _is_local(target) and not _is_local(parent):
        raise SourceError(
            f"The submodule {path[:200]!r} points to files of the builder's machine. Give it an https or ssh URL in "
            ".gitmodules.",
            code="submodule_refused",
        )


def _is_local(url: str) -> bool:
    return url.startswith(("/", "file:"))


def lfs_note(root: Path) -> str | None:
    """What to say of files that are only pointers to Git LFS; None when there are none. Blocking."""
    pointers: list[str] = []
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name != ".git")
        for name in sorted(files):
            path = Path(directory, name)
            if not path.is_symlink() and path.stat().st_size <= _LONGEST_POINTER and _starts_as_pointer(path):
                pointers.append(str(path.relative_to(root)))
    if not pointers:
        return None
    shown = ", ".join(pointers[:_SHOWN]) + (f" and {len(pointers) - _SHOWN} more" if len(pointers) > _SHOWN else "")
    return (
        f"{shown}: only pointers, the content is kept by Git LFS, which builds do not fetch. Run `git lfs pull` and "
        "deploy the directory (rayfold deploy DIR), or commit the files themselves"
    )


def _starts_as_pointer(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER
