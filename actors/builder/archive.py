"""Tar in, tar out: extracts hostile archives safely, and writes deterministic ones.

Both directions treat names, links and sizes as an attacker's; it must not know where an archive comes from or goes to.
All functions block: call them in a thread.
"""

import errno
import io
import os
import posixpath
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, Protocol

import msgspec

from actors.builder.errors import ArtifactError, SourceError

_LONGEST_HEADER = 1024 * 1024
_COPY_BYTES = 1024 * 1024
_EXECUTABLE = 0o755
_PLAIN = 0o644


class ExtractLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one extraction: unpacked bytes (archive overhead included) and number of entries."""

    total_bytes: int
    entries: int


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """Whom extracted files belong to, and their modes; uid and gid None leave the extracting user's."""

    gid: int | None = None
    directory_mode: int = 0o755
    file_mode: int = _PLAIN
    executable_mode: int = _EXECUTABLE


class Readable(Protocol):
    """Anything that gives bytes: a file, a decompressor."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        ...


class _CountedReader(io.RawIOBase):
    """Ends a decompression bomb: counts what comes out of the decompressor and refuses more than allowed."""

    def __init__(self, stream: Readable, allowed: int) -> None:
        super().__init__()
        self._stream = stream
        self._left = allowed
        self._allowed = allowed

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes of the unpacked archive."""
        chunk = self._stream.read(size if size >= 0 else _COPY_BYTES)
        self._left -= len(chunk)
        if self._left < 0:
            raise SourceError(
                f"The archive unpacks to more than {self._allowed} bytes, the limit. Leave out what is not source "
                "(.gitignore is respected by `rayfold deploy`).",
                code="source_too_big",
            )
        return chunk


class _BoundedTarInfo(tarfile.TarInfo):
    """Refuses an extended header that is itself a bomb: tarfile would read all of it into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        ordinary = {*tarfile.REGULAR_TYPES, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE}
        if self.type not in ordinary and self.size > _LONGEST_HEADER:
            raise SourceError(f"The archive has an extended header of {self.size} bytes; at most {_LONGEST_HEADER}.")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


class _Extraction:
    """One extraction into an empty directory. Links are made last, so that no path can go through one."""

    def __init__(self, root: Path, limits: ExtractLimits, ownership: Ownership) -> None:
        self._root = root
        self._limits = limits
        self._own = ownership
        self._files: dict[str, int] = {}
        self._directories: set[str] = set()
        self._symlinks: dict[str, str] = {}
        self._entries = 0
        self._bytes = 0

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Extract one member, or raise `SourceError` that names it."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise SourceError(f"The archive has more than {self._limits.entries} entries.", code="source_too_big")
        name = _safe_name(member.name)
        if not name:
            return
        if member.isdir():
            self._directory(name)
        elif member.issym():
            self._symlink(name, member.linkname)
        elif member.islnk():
            self._hard_link(name, member.linkname)
        elif member.isreg() or member.type == tarfile.GNUTYPE_SPARSE:
            self._regular(name, member, archive.extractfile(member))
        else:
            raise SourceError(
                f"Archive entry {member.name!r} is a device, a pipe or of an unknown type; expected files, "
                "directories and links. Leave it out."
            )

    def finish(self) -> None:
        """Make the links, and check where each one really leads."""
        for name, target in self._symlinks.items():
            (self._root / name).symlink_to(target)
        check_links(self._root)

    def _directory(self, name: str) -> None:
        missing = []
        while name and name not in self._directories:
            if name in self._files or name in self._symlinks:
                raise SourceError(f"Archive entry {name!r} is a file or link, and other entries lie below it.")
            missing.append(name)
            name = posixpath.dirname(name)
        for each in reversed(missing):
            path = self._root / each
            path.mkdir(mode=0o700)
            self._give(path, self._own.directory_mode)
            self._directories.add(each)

    def _claim(self, name: str) -> Path:
        if name in self._files or name in self._symlinks or name in self._directories:
            raise SourceError(f"Archive entry {name!r} is there twice. Pack it again.")
        self._directory(posixpath.dirname(name))
        return self._root / name

    def _regular(self, name: str, member: tarfile.TarInfo, content: IO[bytes] | None) -> None:
        path = self._claim(name)
        self._bytes += member.size
        if self._bytes > self._limits.total_bytes:
            raise SourceError(
                f"The archive unpacks to more than {self._limits.total_bytes} bytes (at {name!r}), the limit.",
                code="source_too_big",
            )
        executable = bool(member.mode & 0o111)
        with path.open("xb") as out:
            if content is not None:
                shutil.copyfileobj(content, out, _COPY_BYTES)
        mode = self._own.executable_mode if executable else self._own.file_mode
        self._give(path, mode)
        self._files[name] = mode

    def _hard_link(self, name: str, target: str) -> None:
        wanted = _safe_name(target)
        if wanted not in self._files:
            raise SourceError(f"Archive entry {name!r} is a hard link to {target!r}, which is no file before it.")
        path = self._claim(name)
        self._bytes += (self._root / wanted).stat().st_size
        if self._bytes > self._limits.total_bytes:
            raise SourceError(
                f"The archive unpacks to more than {self._limits.total_bytes} bytes.", code="source_too_big"
            )
        shutil.copyfile(self._root / wanted, path)
        self._give(path, self._files[wanted])
        self._files[name] = self._files[wanted]

    def _symlink(self, name: str, target: str) -> None:
        self._claim(name)
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        if not target or target.startswith("/") or "\0" in target or inside == ".." or inside.startswith("../"):
            raise _link_out(name, target)
        self._symlinks[name] = target

    def _give(self, path: Path, mode: int) -> None:
        if self._own.gid is not None:
            os.chown(path, -1, self._own.gid)
        path.chmod(mode)


def _link_out(name: str, target: str) -> SourceError:
    return SourceError(
        f"Link {name!r} points to {target!r}, outside the source tree. Replace it by a relative link inside the tree "
        "or by the file itself."
    )


def _safe_name(name: str) -> str:
    """`name` normalised ("" is the root); raises when it is absolute, climbs, or holds control characters."""
    if name.startswith("/") or ".." in name.split("/"):
        raise SourceError(
            f"Archive entry {name!r} leads outside the source tree; expected relative names without '..'. Pack the "
            "directory again from inside it."
        )
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise SourceError(f"Archive entry {name!r} has control characters in its name. Rename it.")
    normal = posixpath.normpath(name) if name else ""
    return "" if normal == "." else normal


def extract_tar(stream: Readable, root: Path, *, limits: ExtractLimits, ownership: Ownership | None = None) -> None:
    """Extract an uncompressed tar stream into the empty directory `root`.

    Refuses (`SourceError`) absolute names, `..`, links out of the tree, devices, duplicates and anything over the
    limits. Set-user bits and owners in the archive are ignored. What was extracted before a refusal is left: the
    caller removes the directory.
    """
    counted = _CountedReader(stream, limits.total_bytes + limits.entries * 2 * tarfile.BLOCKSIZE + _LONGEST_HEADER)
    work = _Extraction(root, limits, ownership or Ownership())
    try:
        with tarfile.open(fileobj=counted, mode="r|", tarinfo=_BoundedTarInfo, errorlevel=2) as archive:
            for member in archive:
                work.take(archive, member)
                archive.members = []  # type: ignore[attr-defined]  # else it remembers every entry
        work.finish()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise SourceError(f"Expected a tar archive, found something else or half of one: {error}.") from error
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the machine's fault, not the archive's
        raise SourceError(f"The archive cannot be unpacked: {error}.") from error


def check_links(root: Path) -> None:
    """Raise `SourceError` for the first symbolic link below `root` that leads out of it, through other links too."""
    real_root = os.path.realpath(root)
    for directory, names, files in os.walk(root):
        if directory == str(root):
            names[:] = [name for name in names if name != ".git"]
        for name in names + files:
            path = os.path.join(directory, name)  # noqa: PTH118 - hot loop over every file
            if os.path.islink(path):  # noqa: PTH114
                real = os.path.realpath(path)
                if real != real_root and not real.startswith(real_root + "/"):
                    raise _link_out(os.path.relpath(path, root), os.readlink(path))  # noqa: PTH115


def tar_header(name: str, *, size: int = 0, mode: int = _PLAIN, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """A header without anything that differs between two packings of the same content."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type = size, mode, kind
    return info


def add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    """Add a symbolic link."""
    info = tar_header(name, mode=0o777, kind=tarfile.SYMTYPE)
    info.linkname = target
    archive.addfile(info)


def add_open_file(archive: tarfile.TarFile, name: str, content: BinaryIO, status: os.stat_result) -> None:
    """Add an open regular file; its mode is reduced to executable or not."""
    mode = _EXECUTABLE if status.st_mode & 0o111 else _PLAIN
    archive.addfile(tar_header(name, size=status.st_size, mode=mode), content)


def pack_tree(root: Path, out: IO[bytes], *, owner: int | None, skip: frozenset[str] = frozenset()) -> int:
    """Write all below `root` as a deterministic tar to `out`; returns the number of bytes of file content.

    `owner` is the only uid whose files are taken: a build could have made a hard link to a file it cannot read.
    Directories are opened relative to their parents and links never followed, so nothing outside can be packed even
    while someone changes the tree. `skip` names entries directly below `root`. Raises `ArtifactError`.
    """
    total = 0
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for directory, directory_fd, name in _walk(root, skip):
            relative = posixpath.relpath(posixpath.join(directory, name), str(root))
            status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                archive.addfile(tar_header(relative, mode=_EXECUTABLE, kind=tarfile.DIRTYPE))
            elif stat.S_ISLNK(status.st_mode):
                add_link(archive, relative, os.readlink(name, dir_fd=directory_fd))
            elif stat.S_ISREG(status.st_mode):
                total += _add_owned(archive, relative, name, directory_fd, owner)
            # Sockets and pipes that a build left behind mean nothing without the process that made them.
    return total


def _walk(root: Path, skip: frozenset[str]) -> Iterator[tuple[str, int, str]]:
    for directory, names, files, directory_fd in os.fwalk(root, follow_symlinks=False):
        if directory == str(root):
            names[:] = [name for name in names if name not in skip]
            files = [name for name in files if name not in skip]
        names.sort()
        for name in sorted([*names, *files]):
            yield directory, directory_fd, name


def _add_owned(archive: tarfile.TarFile, relative: str, name: str, directory_fd: int, owner: int | None) -> int:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory_fd)
    with os.fdopen(fd, "rb") as content:
        status = os.fstat(fd)
        if owner is not None and status.st_uid != owner:
            raise ArtifactError(
                f"{relative!r} does not belong to the build's user; expected only files the build made. "
                "Copy files instead of hard-linking them.",
                code="foreign_file",
            )
        add_open_file(archive, relative, content, status)
        return status.st_size


def chown_tree(root: Path, user: tuple[int, int] | None) -> None:
    """Give `root` and all below it to `user`, never following a link; None leaves it."""
    if user is None:
        return
    for directory, names, files, directory_fd in os.fwalk(root, follow_symlinks=False):
        os.chown(directory_fd, *user)
        for name in [*names, *files]:
            os.chown(name, *user, dir_fd=directory_fd, follow_symlinks=False)
        del directory


def share_tree(root: Path, user: tuple[int, int] | None) -> None:
    """Let the group of `user` read `root` and all below it, which stays the platform's; None leaves it."""
    if user is None:
        return
    for directory, names, files, directory_fd in os.fwalk(root, follow_symlinks=False):
        os.chown(directory_fd, os.getuid(), user[1])
        os.fchmod(directory_fd, _EXECUTABLE)
        for name in [*names, *files]:
            mode = os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode
            os.chown(name, os.getuid(), user[1], dir_fd=directory_fd, follow_symlinks=False)
            if stat.S_ISREG(mode):
                os.chmod(name, _EXECUTABLE if mode & 0o111 else _PLAIN, dir_fd=directory_fd)
        del directory


def copy_tree(root: Path, target: Path, user: tuple[int, int] | None) -> None:
    """Copy `root`, links as links, to `target` and give that to `user`; what was at `target` goes."""
    remove_tree(target)
    shutil.copytree(root, target, symlinks=True)
    chown_tree(target, user)


def remove_tree(root: Path) -> None:
    """Remove `root` and all below it, also directories that a build made unreadable; absent is fine."""

    def unlock(_function: object, path: str, _info: object) -> None:
        with suppress(OSError):
            Path(path).parent.chmod(0o700)
            if Path(path).is_dir() and not Path(path).is_symlink():
                Path(path).chmod(0o700)
                shutil.rmtree(path, ignore_errors=True)
            else:
                Path(path).unlink()

    if root.is_symlink() or root.is_file():
        root.unlink()
    elif root.exists():
        shutil.rmtree(root, onerror=unlock)
