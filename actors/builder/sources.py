"""Brings a build's source into its directory, from an upload, a git URL or a directory of this machine.

Refuses what is unsafe or over the limits; it must not know how the source is built.
"""

import asyncio
import gzip
import hashlib
import os
import posixpath
import re
import tempfile
from pathlib import Path
from typing import IO

import msgspec

from actors.builder.archive import ExtractLimits, check_links, extract_tar, remove_tree
from actors.builder.errors import SourceError
from actors.builder.git import GitSource
from actors.builder.model import BuildLimits, SourceSpec
from actors.builder.pack import pack_directory
from actors.builder.submodules import fetch_submodules, lfs_note
from actors.builder.svn import SvnSource
from events.model.build import said_in

_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")
_GZIP = b"\x1f\x8b"
_READ_BYTES = 1024 * 1024


class FetchedSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the tree to build lies, and where it came from as far as that is known."""

    root: Path
    commit: str | None = None
    author: str | None = None
    notes: tuple[str, ...] = ()


def upload_path(uploads: Path, digest: str) -> Path:
    """Where the upload with this sha256 lies; raises `SourceError` when `digest` is none (it comes from outside)."""
    if not _SHA256.match(digest):
        raise SourceError(f"Expected the sha256 of an upload (64 hex digits), found {digest[:100]!r}.")
    return uploads / digest


async def fetch(
    source: SourceSpec, *, uploads: Path, into: Path, git: GitSource, svn: SvnSource, limits: BuildLimits
) -> FetchedSource:
    """Bring `source` into the new directory `into`. Raises `SourceError`, and then `into` may be half full."""
    if source.kind == "git":
        found = await git.fetch(source.url, source.ref, into)
        submodules = await fetch_submodules(git, source.url, into)
        notes = await asyncio.to_thread(_tidy_checkout, into, limits, submodules)
        got = FetchedSource(root=into, commit=found.commit, author=found.author, notes=notes)
    elif source.kind == "svn":
        exported = await svn.fetch(source.url, source.ref, into)
        await asyncio.to_thread(_check_tree, into, limits)
        got = FetchedSource(root=into, commit=exported.commit, author=exported.author, notes=exported.notes)
    elif source.kind == "upload":
        await asyncio.to_thread(extract_upload, upload_path(uploads, source.digest), source.digest, into, limits)
        commit, author = said_in(source.ref)
        got = FetchedSource(root=into, commit=commit or None, author=author or None)
    else:
        await asyncio.to_thread(_copy_directory, Path(source.path), into, limits)
        got = FetchedSource(root=into)
    root = await asyncio.to_thread(subdirectory, into, source.subdir)
    return msgspec.structs.replace(got, root=root)


def extract_upload(archive: Path, digest: str, into: Path, limits: BuildLimits) -> None:
    """Extract a tar or tar.gz whose sha256 is `digest`; blocking. Raises `SourceError`."""
    try:
        stream = archive.open("rb")
    except FileNotFoundError as error:
        raise SourceError(f"No upload {digest} is here. Upload the source again.", code="upload_missing") from error
    with stream:
        _check_digest(stream, digest)
        first = stream.read(2)
        stream.seek(0)
        into.mkdir(mode=0o755)
        bounds = ExtractLimits(total_bytes=limits.source_bytes, entries=limits.source_entries)
        if first != _GZIP:
            extract_tar(stream, into, limits=bounds)
            return
        with gzip.open(stream) as plain:
            extract_tar(plain, into, limits=bounds)


def _check_digest(stream: IO[bytes], digest: str) -> None:
    sha256 = hashlib.sha256()
    while chunk := stream.read(_READ_BYTES):
        sha256.update(chunk)
    if sha256.hexdigest() != digest:
        raise SourceError(
            f"The stored upload {digest} is damaged: its bytes hash to {sha256.hexdigest()}. Upload the source again.",
            code="upload_damaged",
        )
    stream.seek(0)


def _copy_directory(path: Path, into: Path, limits: BuildLimits) -> None:
    if not path.is_absolute() or not path.is_dir():
        raise SourceError(f"Expected an absolute path of a directory on the builder's machine, found {str(path)!r}.")
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        packed = pack_directory(path, Path(scratch) / "source.tar.gz", limit_bytes=limits.source_bytes)
        extract_upload(packed.path, packed.digest, into, limits)


def _tidy_checkout(root: Path, limits: BuildLimits, submodules: int) -> tuple[str, ...]:
    """Drop the repository, check links and size; notes about what git left out."""
    remove_tree(root / ".git")
    _check_tree(root, limits)
    pointers = lfs_note(root)
    if (root / ".gitmodules").is_file() and not submodules:
        return ("no submodule of .gitmodules is in this commit", *filter(None, [pointers]))
    return tuple(filter(None, [pointers]))


def _check_tree(root: Path, limits: BuildLimits) -> None:
    """Raise `SourceError` for a tree that is too big or links out of itself."""
    total = entries = 0
    for directory, names, files in os.walk(root):
        entries += len(names) + len(files)
        total += sum(os.lstat(posixpath.join(directory, name)).st_size for name in files)
        if entries > limits.source_entries or total > limits.source_bytes:
            raise SourceError(
                f"The repository holds more than {limits.source_entries} entries or {limits.source_bytes} bytes.",
                code="source_too_big",
            )
    check_links(root)


def subdirectory(root: Path, subdir: str) -> Path:
    """The directory `subdir` of the tree `root`; raises `SourceError` if there is none or it leads outside."""
    if not subdir or subdir == ".":
        return root
    if subdir.startswith("/") or ".." in subdir.split("/") or "\0" in subdir:
        raise SourceError(f"Expected a sub-directory inside the source, found {subdir[:200]!r}.", code="subdir_refused")
    found = (root / subdir).resolve()
    if not found.is_relative_to(root.resolve()):
        raise SourceError(f"The sub-directory {subdir!r} is a link out of the source.", code="subdir_refused")
    if not found.is_dir():
        held = ", ".join(sorted(path.name + "/" for path in root.iterdir() if path.is_dir())[:20]) or "none"
        raise SourceError(
            f"Expected a directory {subdir!r} in the source; its directories are: {held}.", code="subdir_missing"
        )
    return found
