"""What every `ArtifactStore` promises, as tests; an adapter subclasses this and gives `store` and `damage`."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from actors.builder.artifacts import ArtifactStore
from actors.builder.errors import ArtifactDamagedError, ArtifactError, ArtifactMissingError


class ArtifactStoreContract:
    """Subclass, and override the two."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> ArtifactStore:
        raise NotImplementedError

    def damage(self, store: ArtifactStore, digest: str, tmp_path: Path) -> None:
        """Flip one bit of the stored blob."""
        raise NotImplementedError

    async def put(self, store: ArtifactStore, tmp_path: Path, data: bytes = b"some bytes") -> str:
        (tmp_path / "blob").write_bytes(data)
        return (await store.put(tmp_path / "blob")).digest

    async def test_what_was_put_is_found_under_its_sha256(self, store: ArtifactStore, tmp_path: Path) -> None:
        digest = await self.put(store, tmp_path)
        assert digest == hashlib.sha256(b"some bytes").hexdigest()
        assert (await store.local_path(digest)).read_bytes() == b"some bytes"

    async def test_putting_twice_is_putting_once(self, store: ArtifactStore, tmp_path: Path) -> None:
        assert await self.put(store, tmp_path) == await self.put(store, tmp_path)
        assert len(await store.blobs()) == 1

    async def test_a_flipped_bit_is_found_and_named(self, store: ArtifactStore, tmp_path: Path) -> None:
        digest = await self.put(store, tmp_path)
        self.damage(store, digest, tmp_path)
        with pytest.raises(ArtifactDamagedError, match=digest):
            await store.local_path(digest)

    async def test_putting_again_heals(self, store: ArtifactStore, tmp_path: Path) -> None:
        digest = await self.put(store, tmp_path)
        self.damage(store, digest, tmp_path)
        await self.put(store, tmp_path)
        assert (await store.local_path(digest)).read_bytes() == b"some bytes"

    async def test_what_is_not_there_is_missing(self, store: ArtifactStore, tmp_path: Path) -> None:
        with pytest.raises(ArtifactMissingError):
            await store.local_path("0" * 64)

    @pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
    async def test_a_digest_that_is_none_is_refused(self, store: ArtifactStore, digest: str) -> None:
        with pytest.raises(ArtifactError):
            await store.local_path(digest)

    async def test_only_what_was_neither_stored_nor_renewed_since_is_discarded(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        digest = await self.put(store, tmp_path)
        [stored] = await store.blobs()
        assert await store.discard(digest, before=stored.stored_at - 1) == 0
        await store.local_path(digest)
        assert await store.discard(digest, before=stored.stored_at + 1) == len(b"some bytes")
        assert await store.discard(digest, before=stored.stored_at + 1) == 0
        with pytest.raises(ArtifactMissingError):
            await store.renew(digest)
        assert await store.blobs() == []

    async def test_renewing_makes_it_as_young_as_if_it_were_stored_now(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        digest = await self.put(store, tmp_path)
        [stored] = await store.blobs()
        await asyncio.sleep(0.02)
        await store.renew(digest)
        [renewed] = await store.blobs()
        assert renewed.stored_at > stored.stored_at
        assert await store.discard(digest, before=renewed.stored_at) == 0
        assert (await store.local_path(digest)).read_bytes() == b"some bytes"

    async def test_deleting_may_be_repeated(self, store: ArtifactStore, tmp_path: Path) -> None:
        digest = await self.put(store, tmp_path)
        await store.delete(digest)
        await store.delete(digest)
        assert await store.blobs() == []
