"""Where what left etcd is kept: whole blobs by name, in a directory, an object store that speaks S3, or memory.

Knows names and bytes; nothing of segments, snapshots or the log. Callers put a content hash into each name.
"""

import asyncio
import os
import re
import secrets
import tomllib
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
import obstore
from obstore.store import S3Store

from events.durable import sync_directory
from events.failpoints import failpoint
from events.log.errors import ArchiveUnavailable, BlobMissing

if TYPE_CHECKING:
    from obstore.store import S3Config

CALL_TIMEOUT_S = 60.0
"""One blob up or down, its retries included. A blob is a segment or a snapshot: some MiB."""
RETRIES = 3
RETRY_FOR = timedelta(seconds=20)
PART_BYTES = 8 << 20
PARTS_MOST = 9_000
"""S3 takes at most 10,000 parts of one object."""
PARTS_AT_ONCE = 4
SLOWEST_BYTES_A_SECOND = 1 << 20
"""What goes up slower than this is given up."""
DEFAULT_REGION = "us-east-1"
"""What S3-compatible servers take when they have no regions; a signature needs one."""

_NAME = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")
_T = TypeVar("_T")


class BlobStore(Protocol):
    """Blobs by name. Names are slash-separated words of letters, digits and `._=-`, none beginning with a dot.

    Every method raises ArchiveUnavailable if the store does not answer or refuses (the message says why, never a
    credential), and ValueError for a name that is none.
    """

    async def put(self, name: str, data: bytes) -> None:
        """Keep `data` durably under `name`, all or nothing; replaces what was there. May be repeated."""
        ...

    async def get(self, name: str) -> bytes:
        """The whole blob. Raises BlobMissing."""
        ...

    async def delete(self, name: str) -> None:
        """Forget the blob; nothing happens if there is none."""
        ...

    async def names(self, prefix: str) -> list[str]:
        """Names below `prefix`, which is whole words ("segments/03" is not above "segments/031/x"), sorted."""
        ...


class ArchiveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where blobs are. `url`: a directory's path, `file:///path`, or `s3://bucket/prefix`.

    `endpoint` is the URL of an S3-compatible server. `credentials_file` names a TOML file of mode 0600 with
    `access_key_id`, `secret_access_key` and perhaps `session_token`; empty: the environment's or the machine's own.
    """

    url: str
    endpoint: str = ""
    region: str = DEFAULT_REGION
    credentials_file: str = ""


class _Credentials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    access_key_id: str
    secret_access_key: str
    session_token: str = ""


def open_blobs(settings: ArchiveSettings) -> BlobStore:
    """The store that `settings` names. Reads the credentials' file; raises ValueError saying what is wrong."""
    url = urlsplit(settings.url)
    if url.scheme in ("", "file"):
        path = Path(url.path if url.scheme else settings.url)
        if not path.is_absolute():
            raise ValueError(f"expected an archive directory with an absolute path, found {settings.url!r}")
        return DirectoryBlobs(path)
    if url.scheme == "s3" and url.netloc:
        return S3Blobs(settings)
    raise ValueError(f"expected an archive like /path, file:///path or s3://bucket/prefix, found {settings.url!r}")


class DirectoryBlobs:
    """Files below a directory, made when it is first written to. When `put` returns, file and name are synced."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, name: str, data: bytes) -> None:
        await self._call(name, asyncio.to_thread(self._put, self._path(name), data))

    async def get(self, name: str) -> bytes:
        return await self._call(name, asyncio.to_thread(self._get, self._path(name), name))

    async def delete(self, name: str) -> None:
        await self._call(name, asyncio.to_thread(self._delete, self._path(name)))

    async def names(self, prefix: str) -> list[str]:
        return await self._call(prefix, asyncio.to_thread(self._names, self._path(prefix)))

    async def _call(self, name: str, work: Awaitable[_T]) -> _T:
        try:
            return await work
        except OSError as error:
            raise ArchiveUnavailable(f"archive {self._root}: {name}: {error.strerror or error}") from error

    def _path(self, name: str) -> Path:
        return self._root / _checked(name)

    def _put(self, path: Path, data: bytes) -> None:
        self._make(path.parent)
        # A name of its own for each try: two writers of one blob must not write into one file.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            failpoint("log.blobs.written")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(path.parent)

    def _make(self, directory: Path) -> None:
        """The directory and those above it, each name synced: a crash must not take a new directory with its blobs."""
        missing = [directory, *directory.parents]
        for path in reversed(missing[: next(i for i, path in enumerate(missing) if path.is_dir())]):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)

    def _get(self, path: Path, name: str) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise BlobMissing(name) from None

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _names(self, directory: Path) -> list[str]:
        """Drafts begin with a dot; those that a crash left are no blobs."""
        return sorted(
            path.relative_to(self._root).as_posix()
            for path in directory.rglob("*")
            if not path.name.startswith(".") and path.is_file()
        )


class S3Blobs:
    """Objects in a bucket of anything that speaks S3. The bucket must exist; everything else is made as needed."""

    def __init__(self, settings: ArchiveSettings) -> None:
        url = urlsplit(settings.url)
        self._name = f"{settings.url} at {settings.endpoint}" if settings.endpoint else settings.url
        self._prefix = url.path.strip("/") + "/" if url.path.strip("/") else ""
        credentials = _load_credentials(settings.credentials_file)
        self._secrets = [text for text in msgspec.structs.astuple(credentials) if text] if credentials else []
        self._store = S3Store(
            url.netloc,
            config=_s3_config(settings, credentials),
            client_options={
                # http: only to an endpoint that was named so.
                "allow_http": settings.endpoint.startswith("http://"),
                "connect_timeout": "5s",
                "timeout": "30s",
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_FOR},
        )

    async def put(self, name: str, data: bytes) -> None:
        # An object appears whole or not at all, also when it goes up in parts.
        await self._call(name, obstore.put_async(self._store, self._key(name), data))

    async def get(self, name: str) -> bytes:
        try:
            return await self._call(name, self._download(self._key(name)))
        except FileNotFoundError:
            raise BlobMissing(name) from None

    async def put_file(self, name: str, path: Path) -> None:
        """As `put`, of a file of any size that does not change meanwhile: a few MiB of it are in memory."""
        size = (await asyncio.to_thread(path.stat)).st_size
        part = max(PART_BYTES, -(-size // PARTS_MOST))
        work = obstore.put_async(self._store, self._key(name), path, chunk_size=part, max_concurrency=PARTS_AT_ONCE)
        await self._call(name, work, CALL_TIMEOUT_S + size / SLOWEST_BYTES_A_SECOND)

    async def size(self, name: str) -> int:
        """Bytes. Raises BlobMissing."""
        try:
            return (await self._call(name, obstore.head_async(self._store, self._key(name))))["size"]
        except FileNotFoundError:
            raise BlobMissing(name) from None

    async def parts(self, name: str) -> AsyncIterator[bytes]:
        """The blob from its beginning to its end, in parts of some MiB. Raises BlobMissing."""
        size = await self.size(name)
        for start in range(0, size, PART_BYTES):
            end = min(start + PART_BYTES, size)
            yield bytes(
                await self._call(name, obstore.get_range_async(self._store, self._key(name), start=start, end=end))
            )

    async def delete(self, name: str) -> None:
        try:
            await self._call(name, obstore.delete_async(self._store, self._key(name)))
        except FileNotFoundError:
            pass  # S3 does not say so, some of its likes do

    async def names(self, prefix: str) -> list[str]:
        found = await self._call(prefix, self._list(self._key(prefix)))
        return sorted(path.removeprefix(self._prefix) for path in found)

    async def _download(self, key: str) -> bytes:
        return bytes(await (await obstore.get_async(self._store, key)).bytes_async())

    async def _list(self, key: str) -> list[str]:
        return [item["path"] async for page in obstore.list(self._store, key, chunk_size=1000) for item in page]

    def _key(self, name: str) -> str:
        return self._prefix + _checked(name)

    async def _call(self, name: str, work: Awaitable[_T], seconds: float = CALL_TIMEOUT_S) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await work
        except FileNotFoundError:
            raise
        except TimeoutError as error:
            raise ArchiveUnavailable(f"archive {self._name}: {name}: no answer in {seconds:g} s") from error
        except Exception as error:
            # The library raises builtin and own types by cause; none of them may carry a credential on.
            raise ArchiveUnavailable(f"archive {self._name}: {name}: {self._say(error)}") from None

    def _say(self, error: Exception) -> str:
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:500]}"
        for secret in self._secrets:
            text = text.replace(secret, "••••")
        return text


class MemoryBlobs:
    """Blobs in this process's memory, for tests and tools."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    async def put(self, name: str, data: bytes) -> None:
        self._blobs[_checked(name)] = bytes(data)

    async def get(self, name: str) -> bytes:
        try:
            return self._blobs[_checked(name)]
        except KeyError:
            raise BlobMissing(name) from None

    async def delete(self, name: str) -> None:
        self._blobs.pop(_checked(name), None)

    async def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._blobs if name.startswith(_checked(prefix) + "/"))


def is_blob_name(name: str) -> bool:
    """Whether a store takes it: see `BlobStore`."""
    return _NAME.fullmatch(name) is not None


def _checked(name: str) -> str:
    if not is_blob_name(name):
        raise ValueError(f"expected a blob name of words like segments/03/0a-9f.seg, found {name[:200]!r}")
    return name


def _s3_config(settings: ArchiveSettings, credentials: _Credentials | None) -> "S3Config":
    config: S3Config = {"region": settings.region}
    if settings.endpoint:
        config["endpoint"] = settings.endpoint
    if credentials is not None:
        config["access_key_id"] = credentials.access_key_id
        config["secret_access_key"] = credentials.secret_access_key
        if credentials.session_token:
            config["session_token"] = credentials.session_token
    return config


def _load_credentials(path: str) -> _Credentials | None:
    if not path:
        return None
    file = Path(path)
    try:
        if file.stat().st_mode & 0o077:
            raise ValueError(f"expected {file} to be readable by its owner only; run: chmod 600 {file}")
        return msgspec.convert(tomllib.loads(file.read_text()), _Credentials)
    except OSError as error:
        raise ValueError(f"expected the archive's credentials in {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError):
        # Without the parser's words: they may quote the file.
        raise ValueError(
            f'expected {file} to hold access_key_id = "…" and secret_access_key = "…" (TOML), found otherwise'
        ) from None
