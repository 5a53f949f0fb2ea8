"""Lays out an artifact once per application on a node, readable and not writable for it, for instances to run in.

Knows nothing of builds, registries or processes: it is given a directory or a tar file and a digest.
"""

import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import zstandard

from actors.runtime.errors import ArtifactRefused
from actors.runtime.users import Owner

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_DIRECTORY_MODE = 0o750
_FILE_MODE = 0o640
_PROGRAM_MODE = 0o750


def lay_out(target: Path, source: Path, owner: Owner) -> Path:
    """`target` with the content of `source` (a directory or a tar: plain, gz, bz2, xz, zstd), owned root:app-gid.

    All or nothing, and nothing to do when it is there already. Blocking. Raises ArtifactRefused for an archive with
    absolute names, `..`, devices, or names below a link.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    try:
        content = draft / "content"
        if source.is_dir():
            shutil.copytree(source, content, symlinks=True)
        else:
            content.mkdir()
            with _opened(source) as archive:
                _unpack(archive, content)
        _hand_over(content, owner)
        try:
            content.rename(target)
        except OSError:
            if not target.is_dir():  # else someone else was first with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    with source.open("rb") as file:
        zstd = file.read(len(_ZSTD_MAGIC)) == _ZSTD_MAGIC
        file.seek(0)
        if not zstd:
            with tarfile.open(fileobj=file, mode="r:*") as archive:
                yield archive
            return
        with zstandard.ZstdDecompressor().stream_reader(file) as stream, _streamed(stream) as archive:
            yield archive


def _streamed(stream: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r|")


def _unpack(archive: tarfile.TarFile, root: Path) -> None:
    """Links come last, so that nothing is ever written through one; where they point is the sandbox's business."""
    links: list[tuple[Path, str]] = []
    for member in archive:
        path = root / _safe_name(member.name, archive)
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
        elif member.issym():
            links.append((path, member.linkname))
        elif member.islnk():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / _safe_name(member.linkname, archive), path, follow_symlinks=False)
        elif member.isfile():
            path.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            with path.open("wb") as file:
                shutil.copyfileobj(content or _nothing(), file, 1 << 20)
            path.chmod(member.mode & 0o777 | stat.S_IRUSR)
        else:
            raise ArtifactRefused(f"expected files, directories and links, found {member.name!r}, a device or pipe")
    for path, goal in links:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(goal)


def _nothing() -> IO[bytes]:
    raise ArtifactRefused("expected a file with content, found none; build the artifact again")


def _safe_name(name: str, archive: tarfile.TarFile) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ArtifactRefused(f"expected names inside the archive's own tree, found {name!r}")
    return str(path)


def _hand_over(root: Path, owner: Owner) -> None:
    """Owned by root and readable for the application's group, links untouched; as any other user only the modes."""
    root_too = os.geteuid() == 0
    for folder, _, names in os.walk(root):
        _set(folder, _DIRECTORY_MODE, owner, root_too)
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 -- tens of thousands of files: Path objects double the time
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                _set(path, _PROGRAM_MODE if mode & 0o111 else _FILE_MODE, owner, root_too)


def _set(path: str, mode: int, owner: Owner, root_too: bool) -> None:
    if root_too:
        os.chown(path, 0, owner.gid)
    os.chmod(path, mode)  # noqa: PTH101 -- as above
