"""Packs a directory for upload: what .gitignore keeps, never .git, and the same content gives the same bytes.

Runs at the client too (the command line imports it), so it must not know anything of the platform. Blocking.
"""

import os
import posixpath
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import pathspec

from actors.builder.archive import add_link, add_open_file
from actors.builder.errors import PackError
from actors.builder.model import GIB
from actors.builder.parts import Part, PartedFile

_GIT_SECONDS = 60
_ALWAYS_LEFT_OUT = frozenset({".git", ".hg", ".svn", "__pycache__", ".rayfold", ".DS_Store"})
_LEFT_OUT_WITHOUT_GITIGNORE = frozenset({".venv", "venv", "node_modules", ".mypy_cache", ".pytest_cache", ".tox"})
_SHOWN = 5


class PackedSource(msgspec.Struct, frozen=True, kw_only=True):
    """A packed directory: a tar.gz at `path`, its sha256, and its size in bytes, packed and unpacked.

    `parts` one behind the other are the archive.
    """

    path: Path
    digest: str
    size_bytes: int
    content_bytes: int
    files: int
    parts: tuple[Part, ...]


def pack_directory(directory: Path, out: Path, *, limit_bytes: int = 1 * GIB) -> PackedSource:
    """Pack `directory` into the new file `out` (mode 0600). Raises `PackError` (too big, link out, …)."""
    if not directory.is_dir():
        raise PackError(f"Expected a directory to pack, found {str(directory)!r}.")
    names = sorted(kept_files(directory))
    if not names:
        raise PackError(f"{directory} holds no file that .gitignore keeps: nothing to build.", code="pack_empty")
    sizes: dict[str, int] = {}
    fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        # Level, names and times are fixed: an unchanged directory is uploaded and stored once.
        with (
            os.fdopen(fd, "wb") as raw,
            PartedFile(raw) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            total = 0
            for name in names:
                sizes[name] = _add(archive, directory, name)
                total += sizes[name]
                if total > limit_bytes:
                    raise _too_big(sizes, limit_bytes)
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return PackedSource(
        path=out,
        digest=packed.digest,
        size_bytes=packed.size_bytes,
        content_bytes=sum(sizes.values()),
        files=len(names),
        parts=tuple(packed.parts),
    )


def kept_files(directory: Path) -> list[str]:
    """Names, relative with '/', of the files and links to pack: git's own answer in a work tree, else .gitignore's."""
    names = _by_git(directory)
    if not names:
        names = list(_by_patterns(directory))
    return [name for name in names if not _ALWAYS_LEFT_OUT.intersection(name.split("/"))]


def _by_git(directory: Path) -> list[str] | None:
    """What git tracks or would track; None when it is no work tree, git is absent, or git ignores all of it."""
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(directory)]
    command += ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_SECONDS, check=False, env=env)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    names = [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
    # Deleted but still tracked: not there. A directory: a submodule or a repository inside, which is out.
    return [name for name in names if _is_file_or_link(directory / name)]


def _is_file_or_link(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _by_patterns(directory: Path) -> Iterator[str]:
    specs: dict[str, pathspec.GitIgnoreSpec] = {}
    has_any = (directory / ".gitignore").exists()
    for found, names, files in os.walk(directory):
        here = posixpath.normpath(os.path.relpath(found, directory))
        here = "" if here == "." else here + "/"
        if ".gitignore" in files:
            lines = (Path(found) / ".gitignore").read_text("utf-8", "replace").splitlines()
            specs[here] = pathspec.GitIgnoreSpec.from_lines(lines)
        if not has_any:
            names[:] = [name for name in names if name not in _LEFT_OUT_WITHOUT_GITIGNORE]
        # An ignored directory is not entered, as in git: nothing below it can be taken back.
        links = [name for name in names if (Path(found) / name).is_symlink()]
        names[:] = [name for name in names if name not in links and not _ignored(specs, here + name + "/")]
        names[:] = [name for name in names if name not in _ALWAYS_LEFT_OUT]
        for name in [*files, *links]:
            if not _ignored(specs, here + name) and _is_file_or_link(Path(found) / name):
                yield here + name


def _ignored(specs: dict[str, pathspec.GitIgnoreSpec], name: str) -> bool:
    """Whether the .gitignore files from the root down to `name` ignore it; the deepest that says anything wins."""
    verdict = False
    for base, spec in specs.items():
        if name.startswith(base):
            result = spec.check_file(name[len(base) :])
            if result.include is not None:
                verdict = result.include
    return verdict


def _add(archive: tarfile.TarFile, directory: Path, name: str) -> int:
    path = directory / name
    try:
        name.encode()
        if path.is_symlink():
            target = os.readlink(path)  # noqa: PTH115 - the text as it stands, not a Path made of it
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            if target.startswith("/") or inside == ".." or inside.startswith("../"):
                raise PackError(
                    f"{name!r} is a link to {target!r}, outside the directory. Replace it by the file, or ignore it "
                    "in .gitignore.",
                    code="pack_link_out",
                )
            add_link(archive, name, target)
            return 0
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as content:
            return _add_file(archive, name, content)
    except UnicodeEncodeError as error:
        raise PackError(f"The name {name!r} is not UTF-8. Rename the file.") from error
    except OSError as error:
        raise PackError(
            f"{name!r} cannot be read: {error.strerror}. Correct it, or ignore it in .gitignore."
        ) from error


def _add_file(archive: tarfile.TarFile, name: str, content: BinaryIO) -> int:
    status = os.fstat(content.fileno())
    add_open_file(archive, name, content, status)
    return status.st_size


def _too_big(sizes: dict[str, int], limit_bytes: int) -> PackError:
    biggest = sorted(sizes.items(), key=lambda item: -item[1])[:_SHOWN]
    shown = ", ".join(f"{name} ({size} bytes)" for name, size in biggest)
    return PackError(
        f"The directory is over the limit of {limit_bytes} bytes. The biggest files so far: {shown}. Add what is not "
        "source to .gitignore.",
        code="pack_too_big",
    )
