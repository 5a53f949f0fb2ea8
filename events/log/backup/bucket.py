"""A backup that is kept in a bucket: taken there from a local file, fetched back into one, whole or not at all.

Knows addresses and bytes; nothing of what a backup holds.
"""

import asyncio
import errno
import hashlib
import os
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import msgspec

from events.log.blobs import ArchiveSettings, S3Blobs, is_blob_name
from events.log.errors import ArchiveUnavailable, BlobMissing

SUFFIX = ".tar"


def local_path(address: str) -> Path | None:
    """The path that `address` names, as a path or as `file:///path`; None where it names a bucket.

    Raises ValueError for any other URL.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        return Path(address)
    if scheme == "file" and rest.startswith("/"):
        return Path(urlsplit(address).path)
    if scheme == "s3":
        return None
    raise ValueError(f"expected a path, file:///path or s3://bucket/prefix/name{SUFFIX}, found {address!r}")


class BucketBackup:
    """One backup in a bucket. `settings.url` is its own, `s3://bucket/prefix/name.tar`, or a prefix for `name`."""

    def __init__(self, settings: ArchiveSettings, name: str = "") -> None:
        """Raises ValueError for an address that is none, or credentials that cannot be used."""
        url = settings.url.rstrip("/")
        if url.endswith(SUFFIX):
            url, _, name = url.rpartition("/")
        if not urlsplit(url).netloc or not is_blob_name(name):
            expected = f"s3://bucket/prefix/name{SUFFIX} (letters, digits and ._=- in the name)"
            raise ValueError(f"expected {expected}, found {settings.url!r}")
        self.address = f"{url}/{name}"
        self._name = name
        self._blobs = S3Blobs(msgspec.structs.replace(settings, url=url))

    async def exists(self) -> bool:
        """Whether there is one of this name already. Raises ArchiveUnavailable."""
        try:
            await self._blobs.size(self._name)
        except BlobMissing:
            return False
        return True

    async def keep(self, path: Path) -> None:
        """Take the file there, and read it back: what a restore would get is what was written.

        Raises ArchiveUnavailable; the same again replaces what may be there.
        """
        await self._blobs.put_file(self._name, path)
        wanted, found = await asyncio.to_thread(_sha256, path), hashlib.sha256()
        async for part in self._blobs.parts(self._name):
            await asyncio.to_thread(found.update, part)
        if found.hexdigest() != wanted:
            raise ArchiveUnavailable(
                f"expected {self.address} to read back with sha256 {wanted}, found {found.hexdigest()}; look at the "
                "bucket and take the backup again"
            )

    async def fetch(self, path: Path) -> None:
        """Bring it into a new local file. Raises FileNotFoundError, ArchiveUnavailable, OSError."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            try:
                await self._copy(file)
            except BlobMissing:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.address) from None

    async def _copy(self, file: IO[bytes]) -> None:
        async for part in self._blobs.parts(self._name):
            await asyncio.to_thread(file.write, part)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
