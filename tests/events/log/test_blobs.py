"""Every blob store keeps one contract: whole blobs by name, durable, replaceable, listed by words."""

import asyncio
import logging
import os
from pathlib import Path

import msgspec
import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.blobs import (
    PART_BYTES,
    ArchiveSettings,
    BlobStore,
    DirectoryBlobs,
    MemoryBlobs,
    S3Blobs,
    open_blobs,
)
from events.log.errors import ArchiveUnavailable, BlobMissing


class BlobStoreContract:
    """Each test is one promise of `BlobStore`; a subclass gives the fixture `blobs`."""

    async def test_a_blob_comes_back_as_it_was(self, blobs: BlobStore) -> None:
        for size in (0, 1, 70_000, 6 << 20):  # the last goes up to S3 in parts
            data = os.urandom(size)
            await blobs.put(f"segments/03/size-{size}.seg", data)
            assert await blobs.get(f"segments/03/size-{size}.seg") == data

    async def test_a_repeated_put_replaces(self, blobs: BlobStore) -> None:
        await blobs.put("a/b", b"damaged")
        await blobs.put("a/b", b"whole")
        await asyncio.gather(*(blobs.put("a/b", b"whole") for _ in range(8)))
        assert await blobs.get("a/b") == b"whole"
        assert await blobs.names("a") == ["a/b"]

    async def test_what_is_not_there_is_said(self, blobs: BlobStore) -> None:
        with pytest.raises(BlobMissing, match="a/none"):
            await blobs.get("a/none")
        await blobs.delete("a/none")
        assert await blobs.names("a") == []

    async def test_a_deleted_blob_is_gone(self, blobs: BlobStore) -> None:
        await blobs.put("a/b", b"1")
        await blobs.delete("a/b")
        with pytest.raises(BlobMissing):
            await blobs.get("a/b")

    async def test_names_are_listed_by_whole_words_and_sorted(self, blobs: BlobStore) -> None:
        names = ["segments/03/a", "segments/031/a", "segments/03/b/c", "snapshots/03/a"]
        for name in reversed(names):
            await blobs.put(name, b"")
        assert await blobs.names("segments/03") == ["segments/03/a", "segments/03/b/c"]
        assert await blobs.names("segments") == ["segments/03/a", "segments/03/b/c", "segments/031/a"]

    async def test_many_names(self, blobs: BlobStore) -> None:
        names = [f"many/{n:04}" for n in range(1100)]  # more than a page of S3's
        for at in range(0, len(names), 100):
            await asyncio.gather(*(blobs.put(name, b"x") for name in names[at : at + 100]))
        assert await blobs.names("many") == names

    @pytest.mark.parametrize("name", ["", "/a", "a/", "../a", "a/../b", "a//b", ".a", "a/.b", "a b", "a\n", "ä"])
    async def test_a_name_that_could_lead_elsewhere_is_refused(self, blobs: BlobStore, name: str) -> None:
        with pytest.raises(ValueError, match="blob name"):
            await blobs.put(name, b"")
        with pytest.raises(ValueError, match="blob name"):
            await blobs.get(name)


class TestMemoryBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self) -> BlobStore:
        return MemoryBlobs()


class TestDirectoryBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> BlobStore:
        return open_blobs(ArchiveSettings(url=str(tmp_path / "archive")))


@pytest.mark.servers
class TestS3Blobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, s3_archive: ArchiveSettings) -> BlobStore:
        return open_blobs(s3_archive)

    @pytest.mark.parametrize("size", [0, 1, PART_BYTES, 2 * PART_BYTES + 4711])
    async def test_a_file_goes_up_and_comes_back_in_parts(self, blobs: S3Blobs, tmp_path: Path, size: int) -> None:
        (tmp_path / "file").write_bytes(data := os.urandom(size))
        await blobs.put_file("backups/file", tmp_path / "file")
        assert await blobs.size("backups/file") == size
        assert b"".join([part async for part in blobs.parts("backups/file")]) == data
        assert await blobs.get("backups/file") == data

    async def test_a_file_that_is_not_there_is_said(self, blobs: S3Blobs) -> None:
        with pytest.raises(BlobMissing, match="backups/none"):
            await blobs.size("backups/none")


async def test_a_crash_before_the_rename_leaves_no_blob_and_is_repeated(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    arm("log.blobs.written", "once-error")
    try:
        with pytest.raises(FailpointError):
            await blobs.put("a/b", b"1")
    finally:
        disarm("log.blobs.written")
    assert await blobs.names("a") == []
    # What kill -9 leaves of a try is no blob either.
    (tmp_path / "a" / ".b.0123").write_bytes(b"half")
    assert await blobs.names("a") == []
    await blobs.put("a/b", b"1")
    assert await blobs.get("a/b") == b"1"


async def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArchiveUnavailable, match="a/b: "):
        await DirectoryBlobs(tmp_path / "file").put("a/b", b"1")


def test_only_the_owner_sees_the_files(tmp_path: Path) -> None:
    asyncio.run(DirectoryBlobs(tmp_path / "archive").put("a/b", b"1"))
    assert (tmp_path / "archive" / "a" / "b").stat().st_mode & 0o077 == 0
    assert (tmp_path / "archive").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("url", ["relative/path", "s3://", "ftp://host/x", "http://host/x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="archive"):
        open_blobs(ArchiveSettings(url=url))


def test_credentials_that_others_can_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "credentials.toml"
    file.write_text('access_key_id = "a"\nsecret_access_key = "s3cret"\n')
    file.chmod(0o640)
    settings = ArchiveSettings(url="s3://bucket/x", credentials_file=str(file))
    with pytest.raises(ValueError, match="chmod 600"):
        open_blobs(settings)
    file.chmod(0o600)
    open_blobs(settings)
    file.write_text('access_key_id = "a"\nsecret = "s3cret"\n')
    with pytest.raises(ValueError, match="secret_access_key") as refusal:
        open_blobs(settings)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.servers
async def test_a_wrong_secret_is_refused_and_never_said(
    s3_archive: ArchiveSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "credentials.toml"
    file.write_text('access_key_id = "tests"\nsecret_access_key = "s3cret-of-mine"\n')
    file.chmod(0o600)
    blobs = open_blobs(msgspec.structs.replace(s3_archive, credentials_file=str(file)))
    with caplog.at_level(logging.DEBUG), pytest.raises(ArchiveUnavailable) as refusal:
        await blobs.put("a/b", b"1")
    assert "s3cret-of-mine" not in str(refusal.value) + caplog.text
    assert "segments" not in str(refusal.value) and s3_archive.url in str(refusal.value)


async def test_an_archive_that_does_not_answer_is_said(tmp_path: Path) -> None:
    file = tmp_path / "credentials.toml"
    file.write_text('access_key_id = "a"\nsecret_access_key = "s3cret"\n')
    file.chmod(0o600)
    nowhere = ArchiveSettings(url="s3://bucket/x", endpoint="http://127.0.0.1:9", credentials_file=str(file))
    with pytest.raises(ArchiveUnavailable, match=r"127\.0\.0\.1:9.*a/b"):
        await open_blobs(nowhere).put("a/b", b"1")
