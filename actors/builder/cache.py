"""Remembers which stored layer holds the dependencies for a lock file, so that they are installed once.

An index only: the bytes lie in the artifact store. Bounded by bytes, and never wrong: a record that is half written,
changed, or points at a missing or damaged layer counts as absent. It must not know what a lock file is.
"""

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from actors.builder.artifacts import ArtifactStore, BlobRef
from actors.builder.errors import ArtifactDamagedError, ArtifactError, ArtifactMissingError
from actors.builder.model import GIB
from actors.builder.packages import Package
from events.failpoints import failpoint


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    layer: BlobRef
    stored_at: float
    packages: tuple[Package, ...] = ()
    listed: bool = False
    checksum: str = ""


class CacheLookup(msgspec.Struct, frozen=True, kw_only=True):
    """A layer if there is a sound one, and the packages in it; else `problem` says what was wrong with the one that was
    there (None: none was)."""

    layer: BlobRef | None = None
    packages: tuple[Package, ...] = ()
    problem: str | None = None


def cache_key(*parts: str) -> str:
    """A key from all that the layer's content depends on, the team included: teams share no layers."""
    sha256 = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        sha256.update(len(data).to_bytes(8, "big") + data)
    return sha256.hexdigest()


def _checksum(record: _Record) -> str:
    text = f"{record.key} {record.layer.digest} {record.layer.size_bytes} {record.stored_at!r}"
    return hashlib.sha256(text.encode() + msgspec.json.encode([record.packages, record.listed])).hexdigest()


class LayerCache:
    """Records in `{directory}/{key}.json`; the modification time is when a layer was last used."""

    def __init__(self, directory: Path, store: ArtifactStore, *, limit_bytes: int = 10 * GIB) -> None:
        self._directory = directory
        self._store = store
        self._limit = limit_bytes

    async def get(self, key: str) -> CacheLookup:
        """The layer under `key`, its bytes checked; an unsound record is removed."""
        path = self._directory / f"{key}.json"
        record = await asyncio.to_thread(_read, path)
        if record is None:
            return CacheLookup()
        problem: str | None = "its record is damaged"
        if not record.listed and record.layer.digest:
            problem = "its packages were not written down"
        elif record.key == key and record.checksum == _checksum(record):
            problem = await self._problem_with(record.layer.digest)
        if problem is None:
            with suppress(FileNotFoundError):
                await asyncio.to_thread(os.utime, path)
            return CacheLookup(layer=record.layer, packages=record.packages)
        await asyncio.to_thread(path.unlink, missing_ok=True)
        return CacheLookup(problem=problem)

    async def _problem_with(self, digest: str) -> str | None:
        try:
            await self._store.local_path(digest)
            await self._store.renew(digest)
        except ArtifactMissingError:
            return "its layer is gone"
        except ArtifactDamagedError as error:
            await self._store.delete(digest)
            return str(error)
        except ArtifactError as error:
            return str(error)
        return None

    async def layers(self) -> frozenset[str]:
        """The digests of all layers on record."""
        return await asyncio.to_thread(self._layers)

    def _layers(self) -> frozenset[str]:
        records = (_read(path) for path in self._directory.glob("*.json"))
        return frozenset(record.layer.digest for record in records if record is not None and record.layer.digest)

    async def put(self, key: str, layer: BlobRef, packages: Iterable[Package]) -> None:
        """Record `layer` under `key`, replacing another, and forget the least recently used over the limit."""
        record = _Record(key=key, layer=layer, stored_at=time.time(), packages=tuple(packages), listed=True)
        await asyncio.to_thread(self._write, msgspec.structs.replace(record, checksum=_checksum(record)))
        await asyncio.to_thread(self._evict)

    def _write(self, record: _Record) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix="incoming-", dir=self._directory)
        try:
            with os.fdopen(fd, "wb") as out:
                out.write(msgspec.json.encode(record))
                out.flush()
                os.fsync(out.fileno())
            failpoint("builder-cache-written")
            Path(name).rename(self._directory / f"{record.key}.json")
        finally:
            Path(name).unlink(missing_ok=True)

    def _evict(self) -> None:
        by_use: list[tuple[float, Path, int]] = []
        for path in self._directory.glob("*.json"):
            with suppress(FileNotFoundError):
                record = _read(path)
                by_use.append((path.stat().st_mtime, path, record.layer.size_bytes if record else 0))
        total = sum(size for _, _, size in by_use)
        for _, path, size in sorted(by_use)[:-1]:
            if total <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size


def _read(path: Path) -> _Record | None:
    """The record, None when there is none; one that does not decode comes back as one that never checks."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Record(key="", layer=BlobRef(digest="", size_bytes=0), stored_at=0.0)
