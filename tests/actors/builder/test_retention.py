"""Sweeping the artifact store: what nothing refers to goes, what anything may refer to stays, wherever it dies."""

import asyncio
import os
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from actors.builder.artifacts import DirectoryArtifactStore, ImageRun, Manifest, put_bytes, put_manifest
from actors.builder.cache import LayerCache
from actors.builder.errors import ArtifactMissingError
from actors.builder.model import BuildState
from actors.builder.retention import ImagesGone, Swept, parts_of, sweep
from events.failpoints import FailpointError, arm, disarm
from tests.actors.builder.conftest import Bench, write_tree

HOUR = 3600.0


class Shelf:
    """A store with artifacts of which some are old."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = DirectoryArtifactStore(root / "artifacts")
        self.cache = LayerCache(root / "cache", self.store)

    async def blob(self, text: str, *, age: float = HOUR) -> str:
        blob = await put_bytes(self.store, text.encode(), scratch=self.root)
        self.make_older(blob.digest, age)
        return blob.digest

    def make_older(self, digest: str, seconds: float) -> None:
        then = time.time() - seconds
        os.utime(self.root / "artifacts" / digest[:2] / digest, (then, then))

    async def artifact(self, name: str, *, age: float = HOUR) -> tuple[str, set[str]]:
        """An artifact of its own layers; its digest, and all its blobs."""
        parts = [await put_bytes(self.store, f"{name} {part}".encode(), scratch=self.root) for part in ("app", "bill")]
        deps = await put_bytes(self.store, b"shared dependencies", scratch=self.root)
        manifest = Manifest(
            language="x", runtime="x", interpreter=None, app=parts[0], deps=deps, processes={}, sbom=parts[1]
        )
        digest = (await put_manifest(self.store, manifest, scratch=self.root)).digest
        blobs = {digest, *parts_of(manifest)}
        for blob in blobs:
            self.make_older(blob, age)
        return digest, blobs

    async def present(self) -> set[str]:
        return {blob.digest for blob in await self.store.blobs()}

    async def sweep(self, *artifacts: str, before: float | None = None) -> Swept:
        limit = time.time() - 60 if before is None else before
        return await sweep(self.store, self.cache, artifacts=artifacts, before=limit)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


async def test_what_no_artifact_refers_to_goes_and_shared_layers_stay(shelf: Shelf) -> None:
    kept, its = await shelf.artifact("kept")
    _, others = await shelf.artifact("gone")
    swept = await shelf.sweep(kept)
    assert await shelf.present() == its
    assert (swept.kept, swept.removed, swept.trouble) == (len(its), len(others - its), "")
    assert swept.removed_bytes > 0
    assert (await shelf.sweep(kept)).removed == 0


async def test_what_is_young_stays_for_a_build_may_be_about_to_refer_to_it(shelf: Shelf) -> None:
    _, young = await shelf.artifact("young", age=10.0)
    await shelf.blob("old")
    await shelf.sweep()
    assert await shelf.present() == young


async def test_a_cached_layer_stays_while_it_is_on_record(shelf: Shelf) -> None:
    layer = await put_bytes(shelf.store, b"a layer", scratch=shelf.root)
    shelf.make_older(layer.digest, HOUR)
    await shelf.cache.put("k", layer, [])
    await shelf.sweep()
    assert await shelf.present() == {layer.digest}


async def test_a_layer_that_a_build_took_from_the_cache_stays_although_its_record_goes(shelf: Shelf) -> None:
    layer = await put_bytes(shelf.store, b"a layer", scratch=shelf.root)
    await shelf.cache.put("k", layer, [])
    shelf.make_older(layer.digest, HOUR)
    begun = time.time() - 60
    assert (await shelf.cache.get("k")).layer == layer
    (shelf.root / "cache/k.json").unlink()
    await shelf.sweep(before=begun)
    assert await shelf.present() == {layer.digest}


async def test_a_layer_swept_away_is_no_hit(shelf: Shelf) -> None:
    layer = await put_bytes(shelf.store, b"a layer", scratch=shelf.root)
    await shelf.cache.put("k", layer, [])
    await shelf.store.delete(layer.digest)
    looked = await shelf.cache.get("k")
    assert looked.layer is None and looked.problem == "its layer is gone"


async def test_nothing_goes_while_a_manifest_that_is_needed_cannot_be_read(shelf: Shelf) -> None:
    kept, its = await shelf.artifact("kept")
    _, others = await shelf.artifact("gone")
    path = shelf.root / "artifacts" / kept[:2] / kept
    path.write_bytes(path.read_bytes()[:-1])
    swept = await shelf.sweep(kept)
    assert "Nothing was removed" in swept.trouble and kept in swept.trouble
    assert await shelf.present() == its | others


async def test_an_artifact_that_is_not_here_is_in_nobodys_way(shelf: Shelf) -> None:
    await shelf.blob("old")
    swept = await shelf.sweep("f" * 64)
    assert (swept.removed, swept.trouble, await shelf.present()) == (1, "", set())


async def test_what_is_renewed_while_it_goes_comes_back(shelf: Shelf) -> None:
    digest = await shelf.blob("wanted again")
    aside = shelf.root / "artifacts" / f"incoming-going-{digest}"

    # The sweeper has decided, and the blob is aside: a build renewed it just before.
    arm("builder-blob-aside", lambda: os.utime(aside))
    try:
        before = time.time() - 60
        os.utime(shelf.root / "artifacts" / digest[:2] / digest)
        assert await shelf.store.discard(digest, before=before) == 0
    finally:
        disarm("builder-blob-aside")
    await shelf.store.local_path(digest)


async def test_what_is_aside_is_missing_to_whoever_would_renew_it(shelf: Shelf) -> None:
    digest = await shelf.blob("going")
    seen: list[type[Exception]] = []

    def look() -> None:
        try:
            asyncio.run(shelf.store.renew(digest))
        except ArtifactMissingError as error:
            seen.append(type(error))

    arm("builder-blob-aside", look)
    try:
        assert await shelf.store.discard(digest, before=time.time() - 60) > 0
    finally:
        disarm("builder-blob-aside")
    assert seen == [ArtifactMissingError]


@pytest.mark.parametrize("line", ["builder-sweep", "builder-blob-aside"])
async def test_a_sweep_that_dies_leaves_what_is_needed_and_the_next_one_ends_it(shelf: Shelf, line: str) -> None:
    kept, its = await shelf.artifact("kept")
    await shelf.artifact("gone")
    arm(line, "error")
    try:
        with pytest.raises(FailpointError):
            await shelf.sweep(kept)
    finally:
        disarm(line)
    assert its <= await shelf.present()
    await shelf.sweep(kept)
    shelf.store.sweep(time.time())  # as a builder does when it starts
    assert await shelf.present() == its
    assert list((shelf.root / "artifacts").glob("incoming-*")) == []


async def test_an_artifact_that_is_kept_runs_after_a_sweep_and_the_next_build_hits_the_cache(
    bench: Bench, tmp_path: Path
) -> None:
    package = '{"name": "x", "version": "1.0.0", "scripts": {"start": "node server.js"}}'
    tree = write_tree(tmp_path, {"package.json": package, "server.js": "one"})
    first = await bench.build(tree)
    (tree / "server.js").write_text("two")
    second = await bench.build(tree)
    assert first.artifact is not None and second.artifact is not None
    engine = bench.engine
    before = time.time() + 1
    swept = await sweep(engine.store, engine.cache, artifacts=[second.artifact.digest], before=before)
    assert swept.removed == 2, "the first one's manifest and application; the bill is the same"
    with pytest.raises(ArtifactMissingError):
        await engine.store.local_path(first.artifact.digest)
    again = await bench.build(tree)
    assert again.state is BuildState.SUCCEEDED and again.artifact is not None
    assert again.artifact.digest == second.artifact.digest


class Registry:
    """Images that somebody may remove; what it is asked for, and what it does not let go."""

    def __init__(self, *stays: str) -> None:
        self.asked: list[set[str]] = []
        self.stays = set(stays)

    async def __call__(self, images: Collection[str]) -> ImagesGone:
        self.asked.append(set(images))
        return ImagesGone(references=frozenset(set(images) - self.stays), told="it stays" if self.stays else "")


async def image(shelf: Shelf, reference: str, *, age: float = HOUR, note: str = "", language: str = "x") -> str:
    manifest = Manifest(
        language=language, runtime="image", interpreter=None, app=None, deps=None, processes={"web": note},
        image=ImageRun(reference=reference, command="x", port=None),
    )  # fmt: skip
    digest = (await put_manifest(shelf.store, manifest, scratch=shelf.root)).digest
    shelf.make_older(digest, age)
    return digest


async def sweep_with(shelf: Shelf, registry: Registry, *artifacts: str) -> Swept:
    return await sweep(shelf.store, shelf.cache, artifacts=artifacts, before=time.time() - 60, images=registry)


async def test_an_image_goes_with_the_last_manifest_that_names_it(shelf: Shelf) -> None:
    kept = await image(shelf, "r/kept")
    await image(shelf, "r/kept", note="another release of the same image")
    await image(shelf, "r/gone")
    young = [await image(shelf, "r/young", age=1), await image(shelf, "r/young", note="the old one of it")]
    registry = Registry()
    swept = await sweep_with(shelf, registry, kept)

    assert registry.asked == [{"r/gone"}]
    assert await shelf.present() == {kept, young[0]}
    assert (swept.images, swept.told) == (1, "")


async def test_an_image_that_somebody_else_pushed_is_never_removed(shelf: Shelf) -> None:
    await image(shelf, "r/theirs", language="image")
    await image(shelf, "r/ours")
    deploys_ours = await image(shelf, "r/ours", language="image", age=1)
    registry = Registry()
    await sweep_with(shelf, registry)
    assert registry.asked == [set()] and await shelf.present() == {deploys_ours}


async def test_the_manifest_stays_on_record_while_its_image_cannot_be_removed(shelf: Shelf) -> None:
    stuck, _ = await image(shelf, "r/stuck"), await image(shelf, "r/gone")
    swept = await sweep_with(shelf, Registry("r/stuck"))
    assert (await shelf.present(), swept.told, swept.trouble) == ({stuck}, "it stays", "")
    await sweep_with(shelf, Registry())
    assert await shelf.present() == set()
