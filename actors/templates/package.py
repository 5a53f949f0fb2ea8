"""The file a template travels in: a plain tar of `template.json` and of every blob its artifacts need, by sha256.

Nothing of a file is believed: names, kinds, sizes, hashes, layers and manifests are checked before anything is kept.
"""

import hashlib
import io
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from actors.builder.archive import ExtractLimits, remove_tree, tar_header
from actors.builder.artifacts import ArtifactStore, BlobRef, Manifest, read_manifest
from actors.builder.errors import ArtifactError, SourceError
from actors.builder.model import GIB
from actors.builder.unpack import extract_layer
from events.failpoints import failpoint
from events.model.base import name_problem
from events.model.template_parts import MAX_DOCUMENT_BYTES, Document, document_problem, version_problem

HEAD = "template.json"
MOST_BLOBS = 500
_BLOCK = tarfile.BLOCKSIZE
_COPY_BYTES = 1024 * 1024
_LEFT_SECONDS = 3600
_BLOB = re.compile(r"blobs/([0-9a-f]{64})")
_MANIFEST_BYTES = 1024 * 1024
_LIMITS = ExtractLimits(total_bytes=4 * GIB, entries=1_000_000)
"""Of one layer, unpacked: more than a build of ours makes, less than fills a disk."""


class PackageError(Exception):
    """`code`: not_exportable, or package_invalid for a file that is none. Says what was expected, found, to be done."""

    def __init__(self, message: str, code: str = "package_invalid") -> None:
        super().__init__(message)
        self.code = code


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What stands first in the file. `digest` is the document's, `blobs` all that follows, in this order."""

    name: str
    version: str
    digest: str
    document: Document
    blobs: tuple[BlobRef, ...]
    rayfold_template: int = 1


# --- out --------------------------------------------------------------------------------------------------------------


async def head_of(store: ArtifactStore, name: str, version: str, document: Document) -> Head:
    """All that the file of a template is to hold. Raises PackageError for what cannot be put into a file."""
    blobs = dict[str, BlobRef]()
    for component in document.components:
        digest = component.artifact.digest
        try:
            manifest = await read_manifest(store, digest)
            size = (await store.local_path(digest)).stat().st_size
        except ArtifactError as error:
            raise PackageError(f"{component.name}: {error}", "not_exportable") from error
        if manifest.image is not None:
            raise PackageError(
                f"{component.name}: expected an artifact of layers, found the container image "
                f"{manifest.image.reference}, which is in a registry and not in this platform's store. Install the "
                "template from where that registry is reached.",
                "not_exportable",
            )
        blobs[digest] = BlobRef(digest=digest, size_bytes=size)
        blobs |= {blob.digest: blob for blob in parts(manifest)}
    ordered = tuple(blobs[digest] for digest in sorted(blobs))
    return Head(name=name, version=version, digest=document.digest(), document=document, blobs=ordered)


def parts(manifest: Manifest) -> list[BlobRef]:
    """The blobs that a manifest names."""
    return [blob for blob in (manifest.app, manifest.deps, manifest.sbom) if blob is not None]


def blocks(head: Head, paths: dict[str, Path]) -> Iterator[bytes]:
    """The file, piece by piece; the same bytes each time. `paths`: where each blob lies. Blocking."""
    text = msgspec.json.encode(head, order="deterministic")
    yield _entry(HEAD, len(text)) + text + _padding(len(text))
    for blob in head.blobs:
        yield _entry(f"blobs/{blob.digest}", blob.size_bytes)
        left = blob.size_bytes
        with paths[blob.digest].open("rb") as file:
            while left and (piece := file.read(min(left, _COPY_BYTES))):
                left -= len(piece)
                yield piece
        if left:
            raise PackageError(f"blob {blob.digest} is {left} bytes too short", "not_exportable")
        if padding := _padding(blob.size_bytes):  # an empty piece would look like the end
            yield padding
    yield bytes(2 * _BLOCK)


def _entry(name: str, size: int) -> bytes:
    return tar_header(name, size=size).tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


# --- in ---------------------------------------------------------------------------------------------------------------


class Package:
    """A checked file: its head, and each blob's bytes in a directory of its own, until `close`. Blocking."""

    def __init__(self, path: Path, scratch: Path) -> None:
        """Read and check all of it. Raises PackageError, OSError; then nothing is left in `scratch`."""
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        _forget_old(scratch)
        self._directory = Path(tempfile.mkdtemp(prefix="template-", dir=scratch))
        try:
            with path.open("rb") as file:
                self.head = self._read(file)
            self._check_artifacts()
        except BaseException:
            self.close()
            raise

    @property
    def blobs(self) -> list[Path]:
        """Every blob as a file, parts before the manifests that name them."""
        manifests = {component.artifact.digest for component in self.head.document.components}
        return sorted(
            (self._directory / b.digest for b in self.head.blobs), key=lambda p: (p.name in manifests, p.name)
        )

    def close(self) -> None:
        """Leave nothing behind."""
        remove_tree(self._directory)

    def _read(self, file: BinaryIO) -> Head:
        name, size = _next(file)
        if name != HEAD or size > 2 * MAX_DOCUMENT_BYTES:
            raise PackageError(
                f"expected {HEAD} of at most {2 * MAX_DOCUMENT_BYTES} bytes first, found {name[:80]!r} of {size}. "
                "Is it a file of rayfold template export?"
            )
        try:
            head = msgspec.json.decode(_exactly(file, size), type=Head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PackageError(f"{HEAD} is no description of a template: {error}") from error
        _skip_padding(file, size)
        if head.rayfold_template != 1:
            raise PackageError(f"expected a file of format 1, found {head.rayfold_template}: upgrade this rayfold")
        problem = name_problem("a template name", head.name) or version_problem(head.version)
        if problem := problem or document_problem(head.document):
            raise PackageError(problem.message)
        if head.document.digest() != head.digest:
            raise PackageError(f"expected a template of digest {head.digest[:80]}, found {head.document.digest()}")
        if len(head.blobs) > MOST_BLOBS:
            raise PackageError(f"expected at most {MOST_BLOBS} blobs, found {len(head.blobs)}")
        for blob in head.blobs:
            self._read_blob(file, blob)
        if _exactly(file, _BLOCK) != bytes(_BLOCK):
            raise PackageError("expected the end of the file after the last blob it names, found more")
        return head

    def _read_blob(self, file: BinaryIO, blob: BlobRef) -> None:
        name, size = _next(file)
        found = _BLOB.fullmatch(name)
        if found is None or found[1] != blob.digest or size != blob.size_bytes:
            raise PackageError(
                f"expected blobs/{blob.digest[:80]} of {blob.size_bytes} bytes, found {name[:120]!r} of {size}"
            )
        sha256, left = hashlib.sha256(), size
        with (self._directory / blob.digest).open("xb") as out:
            while left:
                piece = file.read(min(left, _COPY_BYTES))
                if not piece:
                    raise PackageError(f"the file ends in the middle of blob {blob.digest}: it was cut off")
                sha256.update(piece)
                left -= out.write(piece)
        if sha256.hexdigest() != blob.digest:
            raise PackageError(f"expected content of sha256 {blob.digest}, found {sha256.hexdigest()}: it was changed")
        _skip_padding(file, size)

    def _check_artifacts(self) -> None:
        named, layers = set[str](), set[str]()
        for component in self.head.document.components:
            digest = component.artifact.digest
            manifest = self._manifest(component.name, digest)
            if manifest.processes != component.artifact.processes:
                raise PackageError(f"{component.name}: its artifact starts other processes than the template says")
            layers |= {blob.digest for blob in (manifest.app, manifest.deps) if blob is not None}
            named |= {digest, *(blob.digest for blob in parts(manifest))}
        here = {blob.digest for blob in self.head.blobs}
        if named != here:
            odd = sorted(named ^ here)[0]
            raise PackageError(f"expected just the blobs that the artifacts are made of; {odd[:80]} is not both")
        for digest in sorted(layers):
            self._check_layer(digest)

    def _manifest(self, component: str, digest: str) -> Manifest:
        path = self._directory / digest
        if not path.is_file() or path.stat().st_size > _MANIFEST_BYTES:
            raise PackageError(f"{component}: its artifact {digest} is not in the file, or is no manifest")
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PackageError(f"{component}: its artifact is no manifest: {error}") from error
        if manifest.image is not None or manifest.app is None:
            raise PackageError(f"{component}: expected an artifact of layers, found a container image")
        for place, target in manifest.links.items():
            if not (_inside(place) and _inside(target)):
                raise PackageError(f"{component}: its artifact has a link that leads out of it: {place[:80]!r}")
        return manifest

    def _check_layer(self, digest: str) -> None:
        """Unpack it as a node would, aside: a link or a path that leads out is found here and not there."""
        aside = self._directory / f"{digest}.tree"
        aside.mkdir(mode=0o700)
        try:
            failpoint("template.layer")
            extract_layer(self._directory / digest, aside, limits=_LIMITS)
        except (SourceError, ArtifactError) as error:
            raise PackageError(f"layer {digest}: {error}") from error
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise PackageError(f"layer {digest} cannot be unpacked: {type(error).__name__}") from error
        finally:
            remove_tree(aside)


def _forget_old(scratch: Path) -> None:
    """Remove what an import left that was cut off; none takes as long."""
    for path in scratch.glob("template-*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                remove_tree(path)


def _inside(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in path.split("/") and "\0" not in path


def _next(file: BinaryIO) -> tuple[str, int]:
    """Name and size of the next entry; only plain files are any. Python's own reader would follow extensions."""
    block = _exactly(file, _BLOCK)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise PackageError(f"expected a tar entry, found something else: {error}") from error
    if info.type != tarfile.REGTYPE or info.size < 0 or info.linkname:
        raise PackageError(f"expected plain files only, found {info.name[:80]!r}: a link, a device, or an extension")
    return info.name, info.size


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise PackageError("the file ends too soon: it was cut off, or is no file of rayfold template export")
    return found


def _skip_padding(file: BinaryIO, size: int) -> None:
    file.seek(-size % _BLOCK, io.SEEK_CUR)
