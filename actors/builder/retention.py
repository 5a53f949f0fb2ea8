"""Removes from the artifact store what nothing refers to: no release, no build on its way to one, no cached layer.

The images that such artifacts are go with them. It must not know how references are found. Every step may be repeated
or cut off: a blob goes in one rename and one unlink, what refers to it was checked before, and an image goes before the
manifest that names it.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable

import msgspec
import structlog

from actors.builder.artifacts import FOREIGN, ArtifactStore, Manifest, StoredBlob, read_manifest
from actors.builder.cache import LayerCache
from actors.builder.errors import ArtifactError
from events.failpoints import failpoint

SWEEPER = "builder-0"
"""The builder that does it for all of them."""

_MANIFEST_BYTES = 256 * 1024  # no manifest is nearly as large

log = structlog.get_logger("builder")


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What a round did. `trouble`: why it removed nothing, in words, and `told` why something stays although nothing
    needs it; sizes in bytes. `outputs`: builders' copies of the output of builds."""

    kept: int = 0
    kept_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    images: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    outputs: int = 0
    trouble: str = ""
    told: str = ""

    @property
    def freed_bytes(self) -> int:
        """Of this machine's disk."""
        return self.removed_bytes + self.upload_bytes


class InUse(msgspec.Struct, frozen=True, kw_only=True):
    """`services`: ids of components that have a release or a build on its way. `building`: those with a build that
    waits or runs, as TEAM/APP/COMPONENT, and `building_services` by their ids. `images`: what such builds take."""

    images: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    building: frozenset[str] = frozenset()
    building_services: frozenset[str] = frozenset()


class ImagesGone(msgspec.Struct, frozen=True, kw_only=True):
    """`references`: what is nowhere any more. `told`: why something stays, in words."""

    references: frozenset[str] = frozenset()
    told: str = ""


Images = Callable[[Collection[str]], Awaitable[ImagesGone]]
"""Removes images that nothing refers to; see `Executor.prune`."""


async def no_images(_: Collection[str]) -> ImagesGone:
    """There are none."""
    return ImagesGone()


async def sweep(
    store: ArtifactStore,
    cache: LayerCache,
    *,
    artifacts: Iterable[str],
    before: float,
    images: Images = no_images,
) -> Swept:
    """Remove every blob that is older than `before` (unix seconds) and is part neither of `artifacts` nor of a cached
    layer. Removes nothing when a manifest cannot be read, for then nobody knows what belongs to it."""
    stored = await store.blobs()
    # After the list: what is put on record from here on is younger than the list, and so stays.
    needed = set(await cache.layers())
    present = {blob.digest for blob in stored}
    kept_images: set[str] = set()
    for digest in sorted(artifacts):
        if digest not in present:
            continue  # of another machine's store, or lost: nothing here belongs to it alone
        try:
            manifest = await read_manifest(store, digest)
            needed |= {digest, *parts_of(manifest)}
            kept_images |= {manifest.image.reference} if manifest.image else set()
        except ArtifactError as error:
            trouble = f"{error} Nothing was removed: restore it, or prune the release that refers to it."
            return Swept(kept=len(stored), kept_bytes=sum(b.size_bytes for b in stored), trouble=trouble)
    failpoint("builder-sweep")
    others = [blob for blob in stored if blob.digest not in needed]
    young = await _images_of(store, [blob for blob in others if blob.stored_at >= before])
    kept_images |= {image for image, _ in young.values()}
    made = await _images_of(store, [blob for blob in others if blob.stored_at < before])
    # What was taken from a registry as it was is somebody else's.
    named = {digest: image for digest, (image, foreign) in made.items() if not foreign}
    going = await images(set(named.values()) - kept_images)
    # A manifest is all that is known of its image: while that cannot be removed, it stays.
    settled = kept_images | going.references
    needed |= {digest for digest, image in named.items() if image not in settled}
    removed, removed_bytes, kept_bytes = 0, 0, 0
    for blob in stored:
        if blob.digest in needed or blob.stored_at >= before:
            kept_bytes += blob.size_bytes
            continue
        freed = await store.discard(blob.digest, before=before)
        removed += bool(freed)
        removed_bytes += freed
    return Swept(
        kept=len(stored) - removed,
        kept_bytes=kept_bytes,
        removed=removed,
        removed_bytes=removed_bytes,
        images=len(going.references),
        told=going.told,
    )


async def _images_of(store: ArtifactStore, blobs: Iterable[StoredBlob]) -> dict[str, tuple[str, bool]]:
    """Digest → image, and whether it was made elsewhere, of those blobs that are manifests of images."""
    found: dict[str, tuple[str, bool]] = {}
    for blob in blobs:
        if blob.size_bytes > _MANIFEST_BYTES:
            continue
        try:
            manifest = await read_manifest(store, blob.digest)
        except ArtifactError:
            continue
        if manifest.image is not None:
            found[blob.digest] = (manifest.image.reference, manifest.language == FOREIGN)
    return found


def parts_of(manifest: Manifest) -> set[str]:
    """The digests of the blobs that a manifest names."""
    return {blob.digest for blob in (manifest.app, manifest.deps, manifest.sbom) if blob is not None}
