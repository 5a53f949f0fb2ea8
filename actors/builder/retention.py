"""Removes from the artifact store what nothing refers to: no release, no build on its way to one, no cached layer.

It must not know how references are found. Every step may be repeated or cut off: a blob goes in one rename and one
unlink, and what refers to it was checked before.
"""

from collections.abc import Iterable

import msgspec
import structlog

from actors.builder.artifacts import ArtifactStore, Manifest, read_manifest
from actors.builder.cache import LayerCache
from actors.builder.errors import ArtifactError
from events.failpoints import failpoint

SWEEPER = "builder-0"
"""The builder that does it for all of them."""

log = structlog.get_logger("builder")


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What a round did. `trouble`: why it removed nothing, in words; sizes in bytes."""

    kept: int = 0
    kept_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    trouble: str = ""


async def sweep(store: ArtifactStore, cache: LayerCache, *, artifacts: Iterable[str], before: float) -> Swept:
    """Remove every blob that is older than `before` (unix seconds) and is part neither of `artifacts` nor of a cached
    layer. Removes nothing when a manifest cannot be read, for then nobody knows what belongs to it."""
    stored = await store.blobs()
    # After the list: what is put on record from here on is younger than the list, and so stays.
    needed = set(await cache.layers())
    present = {blob.digest for blob in stored}
    for digest in sorted(artifacts):
        if digest not in present:
            continue  # of another machine's store, or lost: nothing here belongs to it alone
        try:
            needed |= {digest, *parts_of(await read_manifest(store, digest))}
        except ArtifactError as error:
            trouble = f"{error} Nothing was removed: restore it, or prune the release that refers to it."
            return Swept(kept=len(stored), kept_bytes=sum(b.size_bytes for b in stored), trouble=trouble)
    failpoint("builder-sweep")
    removed, removed_bytes, kept_bytes = 0, 0, 0
    for blob in stored:
        if blob.digest in needed or blob.stored_at >= before:
            kept_bytes += blob.size_bytes
            continue
        freed = await store.discard(blob.digest, before=before)
        removed += bool(freed)
        removed_bytes += freed
    return Swept(kept=len(stored) - removed, kept_bytes=kept_bytes, removed=removed, removed_bytes=removed_bytes)


def parts_of(manifest: Manifest) -> set[str]:
    """The digests of the blobs that a manifest names."""
    return {blob.digest for blob in (manifest.app, manifest.deps, manifest.sbom) if blob is not None}
