"""Stores what builds make: compressed layers and the manifests that name them, each under its own sha256.

`ArtifactStore` is the port (a directory here; a registry or S3 later); it must not know what is in a layer.
"""

import asyncio
import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import zstandard

from actors.builder.archive import pack_tree
from actors.builder.errors import ArtifactDamagedError, ArtifactError, ArtifactMissingError
from events.durable import sync_directory
from events.failpoints import failpoint

_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")
_READ_BYTES = 1024 * 1024
_LEVEL = 3
_HALF_WRITTEN_SECONDS = 3600


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """A stored blob: the sha256 of its bytes, and how many they are."""

    digest: str
    size_bytes: int


class StoredBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob as a listing shows it; `stored_at` is unix seconds."""

    digest: str
    size_bytes: int
    stored_at: float


class ImageRun(msgspec.Struct, frozen=True, kw_only=True):
    """A container image to run. `reference` is `host/name@sha256:…`, or `sha256:…` of one machine's engine.

    `command` is what the image starts by itself, in words; a process with this very command runs the image as it is.
    `port`: where it listens inside; None: where PORT tells it to.
    """

    reference: str
    command: str
    port: int | None = None


FOREIGN = "image"
"""The language of an artifact whose image was taken from a registry as it was."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that running an artifact needs. Its canonical JSON is a blob, whose sha256 is the artifact's digest.

    `app` is the layer with the application, `deps` the layer with its dependencies. `links` maps a path in the unpacked
    application to a path in the unpacked dependencies. `interpreter` is the absolute path the build used; `runtime`
    names its kind and version (python3.11, node20, system). In `env`, `{app}` and `{deps}` stand for the unpacked
    directories. `image` holds the application as a container image: instead of `app`, or the same as `app` and `deps`.
    `sbom` is the bill of materials of what lies in `app` and `deps`.
    """

    format: int = 1
    language: str
    runtime: str
    interpreter: str | None
    app: BlobRef | None
    deps: BlobRef | None
    links: dict[str, str] = {}
    processes: dict[str, str]
    release_command: str | None = None
    env: dict[str, str] = {}
    image: ImageRun | None = None
    sbom: BlobRef | None = None


class ArtifactStore(Protocol):
    """Content-addressed blobs. Every method may be repeated; a blob, once stored, never changes."""

    async def put(self, source: Path) -> BlobRef:
        """Store the bytes of the file `source` (which is left). Half a blob is never seen by a reader."""
        ...

    async def local_path(self, digest: str) -> Path:
        """A local file with exactly the bytes of `digest`, checked now; not to be changed or removed.

        Raises `ArtifactMissingError`, or `ArtifactDamagedError` naming what was expected and found.
        """
        ...

    async def renew(self, digest: str) -> None:
        """Let a blob's age count anew: whoever refers to it from now on keeps it from `discard`.

        Raises `ArtifactMissingError`.
        """
        ...

    async def delete(self, digest: str) -> None:
        """Remove a blob; absent is fine."""
        ...

    async def discard(self, digest: str, *, before: float) -> int:
        """Remove a blob that was neither stored nor renewed since `before` (unix seconds); returns the bytes freed."""
        ...

    async def blobs(self) -> list[StoredBlob]:
        """All blobs, in the order of their digests."""
        ...


class DirectoryArtifactStore:
    """`ArtifactStore` in a directory: `{root}/ab/abcd…`, mode 0600, written aside, synced, then renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, source: Path) -> BlobRef:
        """See `ArtifactStore.put`."""
        return await asyncio.to_thread(self._put, source)

    async def local_path(self, digest: str) -> Path:
        """See `ArtifactStore.local_path`."""
        return await asyncio.to_thread(self._checked, digest)

    async def renew(self, digest: str) -> None:
        """See `ArtifactStore.renew`."""
        try:
            await asyncio.to_thread(os.utime, self._path(digest))
        except FileNotFoundError as error:
            raise ArtifactMissingError(f"Nothing is stored under {digest}. Build again.") from error

    async def discard(self, digest: str, *, before: float) -> int:
        """See `ArtifactStore.discard`."""
        return await asyncio.to_thread(self._discard, digest, before)

    async def delete(self, digest: str) -> None:
        """See `ArtifactStore.delete`."""
        await asyncio.to_thread(self._path(digest).unlink, missing_ok=True)

    async def blobs(self) -> list[StoredBlob]:
        """See `ArtifactStore.blobs`."""
        return await asyncio.to_thread(self._list)

    def _path(self, digest: str) -> Path:
        if not _SHA256.match(digest):
            raise ArtifactError(f"Expected a sha256 (64 hex digits), found {digest[:100]!r}.", code="digest_invalid")
        return self._root / digest[:2] / digest

    def _put(self, source: Path) -> BlobRef:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix="incoming-", dir=self._root)
        aside = Path(name)
        try:
            sha256, size = hashlib.sha256(), 0
            with os.fdopen(fd, "wb") as out, source.open("rb") as stream:
                while chunk := stream.read(_READ_BYTES):
                    sha256.update(chunk)
                    size += out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            failpoint("builder-blob-written")
            target = self._path(sha256.hexdigest())
            target.parent.mkdir(mode=0o700, exist_ok=True)
            # Also over a blob that is there: that heals a damaged one, and makes its age count anew.
            aside.rename(target)
            sync_directory(target.parent)
            return BlobRef(digest=target.name, size_bytes=size)
        finally:
            aside.unlink(missing_ok=True)

    def _discard(self, digest: str, before: float) -> int:
        path = self._path(digest)
        # Aside first, then its age: who renews it in between either is seen here, or finds nothing and builds anew.
        aside = self._root / f"incoming-going-{digest}"
        try:
            path.rename(aside)
            status = aside.stat()
        except FileNotFoundError:
            return 0
        failpoint("builder-blob-aside")
        if status.st_mtime >= before:
            aside.rename(path)
            return 0
        aside.unlink()
        return status.st_size

    def _checked(self, digest: str) -> Path:
        path = self._path(digest)
        try:
            found = _sha256(path)
        except FileNotFoundError as error:
            raise ArtifactMissingError(f"Nothing is stored under {digest}. Build again.") from error
        if found != digest:
            raise ArtifactDamagedError(
                f"The stored file {digest} is damaged: its bytes hash to {found}. Delete it and build again, or "
                "restore it from a backup."
            )
        return path

    def _list(self) -> list[StoredBlob]:
        found = []
        for path in sorted(self._root.glob("??/*")):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append(StoredBlob(digest=path.name, size_bytes=status.st_size, stored_at=status.st_mtime))
        return found

    def sweep(self, now: float) -> None:
        """Remove what a writer left half written more than an hour ago; blocking."""
        for path in self._root.glob("incoming-*"):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > _HALF_WRITTEN_SECONDS:
                    path.unlink()


async def put_layer(
    store: ArtifactStore, tree: Path, *, scratch: Path, owner: int | None, limit_bytes: int, skip: frozenset[str]
) -> BlobRef:
    """Store the tree as a deterministic tar.zst; `scratch` is a directory for it.

    Raises `ArtifactError` when the content is over the limit.
    """
    packed = scratch / "layer.tar.zst"

    def pack() -> None:
        with packed.open("wb") as raw, zstandard.ZstdCompressor(level=_LEVEL).stream_writer(raw) as out:
            size = pack_tree(tree, out, owner=owner, skip=skip)
        if size > limit_bytes:
            raise ArtifactError(
                f"The build made {size} bytes, over the limit of {limit_bytes}. Remove what running does not need.",
                code="artifact_too_big",
            )

    try:
        await asyncio.to_thread(pack)
        return await store.put(packed)
    finally:
        await asyncio.to_thread(packed.unlink, missing_ok=True)


async def put_bytes(store: ArtifactStore, content: bytes, *, scratch: Path) -> BlobRef:
    """Store what is in memory."""
    written = scratch / "blob"
    await asyncio.to_thread(written.write_bytes, content)
    return await store.put(written)


async def put_manifest(store: ArtifactStore, manifest: Manifest, *, scratch: Path) -> BlobRef:
    """Store the manifest; the digest is the artifact's."""
    return await put_bytes(store, msgspec.json.encode(manifest, order="deterministic"), scratch=scratch)


async def read_manifest(store: ArtifactStore, digest: str) -> Manifest:
    """The manifest of an artifact. Raises `ArtifactError` if it is missing, damaged, or no manifest."""
    path = await store.local_path(digest)
    try:
        return msgspec.json.decode(await asyncio.to_thread(path.read_bytes), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{digest} is no artifact but something else: {error}.") from error


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()
