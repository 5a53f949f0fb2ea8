"""The log on etcd with an archive: the contract, an archive on S3, and requests later than their slot's end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.failpoints import arm, disarm
from events.log.archive.archiver import Archiver
from events.log.blobs import ArchiveSettings, BlobStore, DirectoryBlobs, open_blobs
from events.log.codec import decode_header
from events.log.errors import ArchiveUnavailable, Fenced, LogBroken, LogUnavailable
from events.log.etcd_claim import EtcdClaim, win_claim
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_log import EtcdEventLog
from events.log.etcd_store import EtcdStore
from events.log.keys import Keys
from events.log.records import Position
from events.log.store import StoredBatch
from tests.events.log.cold_contract import ColdLogContract, archive_all, small, write
from tests.events.log.contract import event, offsets, read_all
from tests.events.log.test_traps_revisions import in_a_thread

pytestmark = pytest.mark.servers


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return DirectoryBlobs(tmp_path / "archive")


@pytest.fixture
async def log(etcd_settings: EtcdSettings, blobs: BlobStore) -> AsyncIterator[EtcdEventLog]:
    opened = EtcdEventLog(etcd_settings, blobs=blobs)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def other_log(etcd_settings: EtcdSettings, blobs: BlobStore) -> AsyncIterator[EtcdEventLog]:
    opened = EtcdEventLog(etcd_settings, blobs=blobs)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def hot(log: EtcdEventLog, etcd_settings: EtcdSettings) -> EtcdStore:
    return EtcdStore(log.client, Keys(etcd_settings.namespace))


class TestEtcdArchive(ColdLogContract):
    pass


async def test_an_archive_on_s3(etcd_settings: EtcdSettings, s3_archive: ArchiveSettings) -> None:
    blobs = open_blobs(s3_archive)
    log = EtcdEventLog(etcd_settings, blobs=blobs)
    await log.open()
    try:
        hot = EtcdStore(log.client, Keys(etcd_settings.namespace))
        await write(await log.claim(0, "a"), 700)
        before = await read_all(log, 0)
        assert await archive_all(Archiver(hot=hot, blobs=blobs, policy=small())) > 1
        assert await read_all(log, 0) == before
        assert await blobs.names("segments") == [manifest.location for manifest in await hot.manifests(0, 0)]
    finally:
        await log.close()


async def test_while_the_archive_is_away_nothing_is_deleted_and_cold_reads_say_so(
    etcd_settings: EtcdSettings, log: EtcdEventLog, hot: EtcdStore, blobs: BlobStore, tmp_path: Path
) -> None:
    writer = await log.claim(0, "a")
    await write(writer, 700)
    credentials = tmp_path / "credentials.toml"
    credentials.write_text('access_key_id = "a"\nsecret_access_key = "b"\n')
    credentials.chmod(0o600)
    away = open_blobs(
        ArchiveSettings(url="s3://bucket/x", endpoint="http://127.0.0.1:9", credentials_file=str(credentials))
    )
    with pytest.raises(ArchiveUnavailable):
        await Archiver(hot=hot, blobs=away, policy=small()).step(0)
    assert (await hot.low(0)).first_hot == 0
    await archive_all(Archiver(hot=hot, blobs=blobs, policy=small()))
    cut_off = EtcdEventLog(etcd_settings, blobs=away)
    await cut_off.open()
    try:
        with pytest.raises(ArchiveUnavailable):
            await read_all(cut_off, 0)
        first_hot = (await hot.low(0)).first_hot
        assert offsets(await read_all(cut_off, 0, first_hot)) == list(range(first_hot, 700)), "what is hot is read"
    finally:
        await cut_off.close()


# -- trap 25: a request that was on its way while its slot was archived and deleted


async def claim_of(log: EtcdEventLog, settings: EtcdSettings, owner: str) -> EtcdClaim:
    keys = Keys(settings.namespace)
    return await win_claim(log.client, log._appends, keys, 0, owner, force=True, archived=log._tiers.batch)


async def appended(log: EtcdEventLog, hot: EtcdStore, blobs: BlobStore) -> list[StoredBatch]:
    """Ten batches of a partition, of which all but the last are archived since."""
    writer = await log.claim(0, "a")
    await write(writer, 70)
    batches = await hot.page(0, 0)
    assert len(batches) == 10
    await archive_all(Archiver(hot=hot, blobs=blobs, policy=small()))
    assert await hot.bases(0, 0, 70) == [63]
    return batches


@pytest.mark.parametrize("late", [0, 1, 5, 8])
async def test_a_late_copy_of_an_append_does_not_bring_its_archived_slot_back(
    log: EtcdEventLog, hot: EtcdStore, blobs: BlobStore, etcd_settings: EtcdSettings, late: int
) -> None:
    batches = await appended(log, hot, blobs)
    # Even under an epoch that holds: it is the chain that refuses it, not the fence.
    claim = await claim_of(log, etcd_settings, "a")
    base = batches[late].base
    previous = batches[late - 1].base if late else None
    with pytest.raises(LogBroken, match="expected offset"):
        await claim.commit(base=base, previous=previous, txn_id="another", value=batches[late].value)
    assert await hot.bases(0, 0, 70) == [63]
    assert offsets(await read_all(log, 0)) == list(range(70))


@pytest.mark.parametrize("late", [0, 5])
async def test_a_writer_that_slept_until_its_batch_was_archived_learns_that_it_committed(
    log: EtcdEventLog, other_log: EtcdEventLog, hot: EtcdStore, blobs: BlobStore, etcd_settings: EtcdSettings, late: int
) -> None:
    batches = await appended(log, hot, blobs)
    mine = batches[late]
    txn_id = decode_header(mine.value, Position(0, mine.base)).txn_id
    previous = batches[late - 1].base if late else None
    stale = await claim_of(log, etcd_settings, "a")
    await other_log.claim(0, "b", force=True)
    found = await stale.commit(base=mine.base, previous=previous, txn_id=txn_id, value=mine.value)
    assert found == mine.revision, "committed, though fenced since: acknowledged, not lost"
    with pytest.raises(Fenced):
        await stale.commit(base=mine.base, previous=previous, txn_id="another", value=mine.value)


async def test_an_append_sent_again_after_its_slot_was_archived_is_acknowledged_and_there_once(
    log: EtcdEventLog, blobs: BlobStore, etcd_settings: EtcdSettings
) -> None:
    """It committed; before the answer came, a successor appended and the archive took the batch away."""

    async def take_over_and_archive() -> None:
        other = EtcdEventLog(etcd_settings, blobs=blobs)
        await other.open()
        await write(await other.claim(0, "b", force=True), 70, start=1)
        hot = EtcdStore(other.client, Keys(etcd_settings.namespace))
        await archive_all(Archiver(hot=hot, blobs=blobs, policy=small()))
        await other.close()

    def lose_the_answer() -> None:
        disarm("log.append.answered")
        in_a_thread(take_over_and_archive)
        raise LogUnavailable("the answer is lost")

    writer = await log.claim(0, "a")
    arm("log.append.answered", lose_the_answer)
    try:
        done = await writer.append("mine", [event("s/mine", 1)])
    finally:
        disarm("log.append.answered")
    assert done.first.offset == 0 and not done.duplicate
    with pytest.raises(Fenced):
        await writer.append("later", [event("s/mine", 2)])
    stored = await read_all(log, 0)
    assert offsets(stored) == list(range(71))
    assert [e.position.offset for e in stored if e.record.stream == "s/mine"] == [0]


async def test_its_fate_stays_open_until_the_archive_answers(
    log: EtcdEventLog, hot: EtcdStore, blobs: BlobStore, etcd_settings: EtcdSettings
) -> None:
    batches = await appended(log, hot, blobs)
    asked = 0

    async def archive_that_comes_back(partition: int, base: int) -> StoredBatch | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ArchiveUnavailable("away")
        if asked == 2:
            raise LogBroken("damaged, until someone restores it")
        return await log._tiers.batch(partition, base)

    keys = Keys(etcd_settings.namespace)
    claim = await win_claim(log.client, log._appends, keys, 0, "a", force=True, archived=archive_that_comes_back)
    txn_id = decode_header(batches[3].value, Position(0, batches[3].base)).txn_id
    found = await claim.commit(base=batches[3].base, previous=batches[2].base, txn_id=txn_id, value=batches[3].value)
    assert found == batches[3].revision and asked == 3


async def test_a_lost_reply_to_the_archivers_transaction_is_found_and_gone_on_from(
    log: EtcdEventLog, hot: EtcdStore, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(await log.claim(0, "a"), 700)
    send = log.client.txn

    async def lose_the_reply(**request: object) -> object:
        await send(**request)  # type: ignore[arg-type]
        raise LogUnavailable("the reply is lost")

    archiver = Archiver(hot=hot, blobs=blobs, policy=small())
    monkeypatch.setattr(log.client, "txn", lose_the_reply)
    for _ in range(3):
        with pytest.raises(LogUnavailable):
            await archiver.step(0)
    monkeypatch.undo()
    await archive_all(archiver)
    seen = await hot.low(0)
    assert await hot.bases(0, 0, seen.first_hot) == []
    assert offsets(await read_all(log, 0)) == list(range(700))


async def test_a_transaction_stays_within_etcds_limits(log: EtcdEventLog, hot: EtcdStore, blobs: BlobStore) -> None:
    writer = await log.claim(0, "a")
    for n in range(1, 331):
        await writer.append(f"c{n}", [event("s/1", n)])
    await archive_all(Archiver(hot=hot, blobs=blobs, policy=small(segment_bytes=1 << 20)))
    assert await hot.bases(0, 0, 400) == [329], "more batches than one transaction may delete"
    with pytest.raises(ValueError, match="bases below"):
        await hot.delete(0, await hot.low(0), [329])
