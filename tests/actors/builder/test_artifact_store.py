"""Stored artifacts: the directory store, the layer cache over it, and unpacking on a node."""

import asyncio
import os
import stat
import time
from pathlib import Path

import pytest

from actors.builder.artifacts import (
    ArtifactStore,
    BlobRef,
    DirectoryArtifactStore,
    Manifest,
    put_layer,
    put_manifest,
    read_manifest,
)
from actors.builder.cache import LayerCache, cache_key
from actors.builder.errors import ArtifactDamagedError, ArtifactError
from actors.builder.unpack import run_env, unpack_artifact
from events import failpoints
from tests.actors.builder.artifact_store_contract import ArtifactStoreContract
from tests.actors.builder.conftest import write_tree


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def stored(store_root: Path, digest: str) -> Path:
    return store_root / digest[:2] / digest


class TestDirectoryArtifactStore(ArtifactStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        return DirectoryArtifactStore(tmp_path / "store")

    def damage(self, store: ArtifactStore, digest: str, tmp_path: Path) -> None:
        flip(stored(tmp_path / "store", digest))

    async def test_a_writer_that_dies_leaves_nothing_a_reader_sees(self, tmp_path: Path) -> None:
        store = DirectoryArtifactStore(tmp_path / "store")
        failpoints.arm("builder-blob-written", "error")
        try:
            with pytest.raises(failpoints.FailpointError):
                await self.put(store, tmp_path)
        finally:
            failpoints.disarm("builder-blob-written")
        assert await store.blobs() == []

    async def test_files_are_private(self, tmp_path: Path) -> None:
        digest = await self.put(DirectoryArtifactStore(tmp_path / "store"), tmp_path)
        assert stored(tmp_path / "store", digest).stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def store(tmp_path: Path) -> DirectoryArtifactStore:
    return DirectoryArtifactStore(tmp_path / "store")


async def layer_of(store: ArtifactStore, tmp_path: Path, files: dict[str, str]) -> BlobRef:
    tree = write_tree(tmp_path / f"tree{time.monotonic_ns()}", files)
    return await put_layer(store, tree, scratch=tmp_path, owner=None, limit_bytes=10**6, skip=frozenset())


async def test_the_cache_finds_what_was_put_and_nothing_else(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "cache", store)
    layer = await layer_of(store, tmp_path, {"a": "1"})
    await cache.put(cache_key("team", "lock"), layer, [])

    assert (await cache.get(cache_key("team", "lock"))).layer == layer
    assert (await cache.get(cache_key("other team", "lock"))).layer is None
    assert cache_key("a", "bc") != cache_key("ab", "c")


@pytest.mark.parametrize("what", ["layer", "layer gone", "record", "half a record", "record of another key"])
async def test_a_damaged_layer_or_record_counts_as_absent(
    what: str, store: DirectoryArtifactStore, tmp_path: Path
) -> None:
    cache = LayerCache(tmp_path / "cache", store)
    layer = await layer_of(store, tmp_path, {"a": "1"})
    key, record = cache_key("x"), tmp_path / "cache" / f"{cache_key('x')}.json"
    await cache.put(key, layer, [])
    if what == "layer":
        flip(stored(tmp_path / "store", layer.digest))
    elif what == "layer gone":
        await store.delete(layer.digest)
    elif what == "record":
        other = await layer_of(store, tmp_path, {"a": "evil"})
        record.write_text(record.read_text().replace(layer.digest, other.digest))
    elif what == "half a record":
        record.write_bytes(record.read_bytes()[:40])
    else:
        key = cache_key("y")
        record.rename(tmp_path / "cache" / f"{key}.json")

    found = await cache.get(key)

    assert found.layer is None and found.problem
    assert (await cache.get(key)).problem is None, "the unsound record is gone"


async def test_the_cache_forgets_the_least_recently_used(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    layers = [await layer_of(store, tmp_path, {"a": str(n)}) for n in range(3)]
    cache = LayerCache(tmp_path / "cache", store, limit_bytes=layers[0].size_bytes * 2 + 10)
    for n, layer in enumerate(layers[:2]):
        await cache.put(cache_key(str(n)), layer, [])
        os.utime(tmp_path / "cache" / f"{cache_key(str(n))}.json", (n, n))
    await cache.get(cache_key("0"))
    await cache.put(cache_key("2"), layers[2], [])

    found = [(await cache.get(cache_key(str(n)))).layer is not None for n in range(3)]

    assert found == [True, False, True]


async def artifact(store: ArtifactStore, tmp_path: Path, app: str = "print('x')") -> str:
    manifest = Manifest(
        language="python",
        runtime="python3.11",
        interpreter=None,
        app=await layer_of(store, tmp_path, {"app.py": app, "sub/x.txt": "x"}),
        deps=await layer_of(store, tmp_path, {"bottle.py": "", "bin/tool": ""}),
        processes={"web": "python app.py"},
    )
    return (await put_manifest(store, manifest, scratch=tmp_path)).digest


async def test_the_same_content_is_the_same_artifact(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    assert await artifact(store, tmp_path) == await artifact(store, tmp_path) != await artifact(store, tmp_path, "y")


async def test_a_layer_is_no_manifest(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    layer = await layer_of(store, tmp_path, {"a": "1"})
    with pytest.raises(ArtifactError, match="no artifact"):
        await read_manifest(store, layer.digest)


async def test_unpacking_is_idempotent_and_shares_layers(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    one, two = await artifact(store, tmp_path), await artifact(store, tmp_path, "other")
    node = tmp_path / "node"

    paths = await asyncio.gather(*(unpack_artifact(store, digest, node, None) for digest in (one, one, two, one)))

    assert len(set(paths)) == 2
    assert (paths[0] / "app/app.py").read_text() == "print('x')"
    assert (paths[0] / "deps").resolve() == (paths[2] / "deps").resolve()
    assert len(list(node.glob("layers/*/*"))) == 1 and not list(node.glob("*/*/incoming-*"))
    assert str(paths[0] / "deps") in run_env(paths[0])["PYTHONPATH"]
    assert (paths[0] / "bin/python").exists()


async def test_an_unpacker_that_dies_leaves_nothing_in_place(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    digest = await artifact(store, tmp_path)
    failpoints.arm("builder-unpacked", "error")
    try:
        with pytest.raises(failpoints.FailpointError):
            await unpack_artifact(store, digest, tmp_path / "node", None)
    finally:
        failpoints.disarm("builder-unpacked")

    assert not list((tmp_path / "node").glob("*/*/*"))
    assert (await unpack_artifact(store, digest, tmp_path / "node", None) / "app/app.py").exists()


async def test_a_damaged_layer_is_not_unpacked(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    digest = await artifact(store, tmp_path)
    layer = (await read_manifest(store, digest)).app.digest
    flip(stored(tmp_path / "store", layer))
    with pytest.raises(ArtifactDamagedError, match=layer):
        await unpack_artifact(store, digest, tmp_path / "node", None)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give files to another group")
async def test_only_the_group_can_read_and_nobody_can_write(store: DirectoryArtifactStore, tmp_path: Path) -> None:
    path = await unpack_artifact(store, await artifact(store, tmp_path), tmp_path / "node", 70001)

    for each in [path, *path.rglob("*")]:
        status = each.lstat()
        if not stat.S_ISLNK(status.st_mode):
            assert (status.st_uid, status.st_gid, status.st_mode & 0o027) == (0, 70001, 0), each
