"""A log within etcd's quota: it archives, compacts and refuses before etcd does, and survives it when etcd does."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from events.failpoints import FailpointError, arm, disarm
from events.log.archive import keeper, space
from events.log.archive.compactor import Compactor
from events.log.archive.keeper import policy_for
from events.log.archive.space import Budget, SpaceWatch, measure
from events.log.blobs import ArchiveSettings, BlobStore, DirectoryBlobs, open_blobs
from events.log.embedded import EmbeddedEtcd
from events.log.errors import Compacted, LogFull, LogUnavailable
from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.log.etcd_members import EtcdMembers, MemberStatus
from events.log.keys import Keys
from tests.events.log.contract import offsets, read_all
from tests.events.log.quota_household import MIB, Household


def member(**changes: object) -> MemberStatus:
    full = {"endpoint": "e", "version": "3.5", "leads": True, "db_size": 0, "db_in_use": 0, "no_space": False}
    return MemberStatus(**{**full, **changes})  # type: ignore[arg-type]


class FixedMembers(EtcdMembers):
    """Members that say what a test tells them to."""

    def __init__(self, *members: MemberStatus) -> None:
        super().__init__(EtcdSettings(endpoints=("none:1",)))
        self.said = list(members)

    async def statuses(self) -> list[MemberStatus]:
        return self.said


# -- the gate


async def test_the_gate_refuses_from_80_percent_on_and_takes_appends_again_below_75() -> None:
    members = FixedMembers(member())
    watch = SpaceWatch(members, Budget(quota_bytes=1000))
    assert watch.refuse() is None, "nothing known, nothing refused"
    for in_use, refused in ((0, False), (799, False), (800, True), (750, True), (749, False), (799, False)):
        members.said = [member(db_in_use=in_use, db_size=in_use)]
        await watch.refresh()
        assert (watch.refuse() is not None) == refused, in_use


async def test_the_gate_counts_what_may_not_be_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    members = FixedMembers(member(db_in_use=700, db_size=700))
    watch = SpaceWatch(members, Budget(quota_bytes=1000))
    await watch.refresh()
    watch.note(99)
    assert watch.refuse() is None
    watch.note(1)
    refusal = watch.refuse()
    assert refusal is not None and (refusal.used_bytes, refusal.budget_bytes) == (800, 800)
    await watch.refresh()
    assert watch.refuse() is not None, "etcd may not have measured it yet"
    monkeypatch.setattr(space, "SEEN_AFTER_S", -1.0)
    await watch.refresh()
    assert watch.refuse() is None, "it did, and it took less"


async def test_much_is_not_written_on_the_word_of_an_old_measurement() -> None:
    members = FixedMembers(member())
    watch = SpaceWatch(members, Budget(quota_bytes=1000))
    await watch.refresh()
    members.said = [member(db_in_use=800, db_size=800)]
    for written, refused in ((50, False), (1, True)):
        watch.note(written)
        await watch.keep_up()
        assert (watch.refuse() is not None) == refused, "of others' 800 nothing is known until it is measured"


async def test_a_measurement_that_fails_holds_nothing_up_for_good() -> None:
    class Silent(FixedMembers):
        asked = 0

        async def statuses(self) -> list[MemberStatus]:
            self.asked += 1
            raise LogUnavailable("no member")

    members = Silent()
    watch = SpaceWatch(members, Budget(quota_bytes=1000))
    for _ in range(6):
        watch.note(20)
        await watch.keep_up()
    assert members.asked == 2, "after 60 bytes, and after 60 more"
    assert watch.refuse() is None


async def test_the_fullest_member_counts_and_its_file_too() -> None:
    members = FixedMembers(member(db_in_use=100, db_size=500), member(db_in_use=300, db_size=949))
    watch = SpaceWatch(members, Budget(quota_bytes=1000))
    await watch.refresh()
    assert watch.refuse() is None
    members.said[0] = member(db_in_use=100, db_size=950)
    await watch.refresh()
    refusal = watch.refuse()
    assert refusal is not None and "defragment" in str(refusal)
    members.said = [member(no_space=True)]
    await watch.refresh()
    assert "alarm" in str(watch.refuse())


def test_segments_of_a_small_etcd_are_small() -> None:
    assert policy_for(2 << 30, 60).segment_bytes == 8 * MIB
    assert policy_for(64 * MIB, 60).segment_bytes == 2 * MIB
    assert policy_for(64 * MIB, 60).least_bytes == MIB // 4


# -- with an etcd of its own


@pytest.fixture
async def small_etcd(tmp_path: Path) -> AsyncIterator[EtcdSettings]:
    etcd = EmbeddedEtcd(tmp_path, quota_bytes=16 * MIB)
    try:
        yield await etcd.ensure()
    finally:
        await etcd.stop()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return DirectoryBlobs(tmp_path / "archive")


async def takes_appends_again(house: Household) -> None:
    """The keeper makes room, the gate opens, and all that was acknowledged is there."""
    async with asyncio.timeout(60):
        while (await house.keeper.round()).share > 0.5:
            await asyncio.sleep(0.05)
    done = len(house.acked)
    async with asyncio.timeout(30):
        while len(house.acked) == done:
            try:
                await house.append()
            except LogFull:
                await asyncio.sleep(0.05)
    assert offsets(await read_all(house.log, 0)) == house.acked == list(range(len(house.acked)))


@pytest.mark.servers
async def test_it_refuses_before_etcd_does_and_takes_appends_again_when_there_is_room(
    small_etcd: EtcdSettings, blobs: BlobStore
) -> None:
    async with Household(small_etcd, blobs) as house:
        refusal = await house.fill()
        assert "rayfold log stats" in str(refusal)
        found = await house.keeper.round()
        assert not found.no_space, "etcd itself never had to refuse"
        await takes_appends_again(house)
        status = await house.keeper.status()
        assert status.last_archived_at and status.last_compacted_at and not status.refusing


@pytest.mark.servers
async def test_an_archive_ahead_of_compaction_ends_in_refusal_before_etcds_own(
    small_etcd: EtcdSettings, blobs: BlobStore
) -> None:
    """Trap 26: little is alive, and the quota fills with what was deleted and is not compacted away."""
    async with Household(small_etcd, blobs) as house:
        arm("log.compact.elected", "error")
        try:
            with pytest.raises(LogFull):
                while True:
                    await house.append()
                    with suppress(FailpointError):
                        await house.keeper.archive([0], everything=True)
        finally:
            disarm("log.compact.elected")
        hot = sum(use.hot_bytes for use in await house.keeper.uses())
        assert hot < house.budget.quota_bytes // 10, "nearly all of it was archived and deleted"
        assert not any(status.no_space for status in await house.members.statuses()), "etcd never had to refuse"
        await takes_appends_again(house)


@pytest.mark.servers
async def test_an_archive_that_is_away_ends_in_refusal_and_its_return_in_room(
    small_etcd: EtcdSettings, blobs: BlobStore, tmp_path: Path
) -> None:
    (tmp_path / "blocked").write_bytes(b"")
    away = open_blobs(ArchiveSettings(url=str(tmp_path / "blocked" / "archive")))
    async with Household(small_etcd, blobs) as house:
        house.keeper = house.new_keeper(away)
        await house.fill()
        await house.keeper.round()
        status = await house.keeper.status()
        assert "archive" in status.trouble
        await house.keeper.round()
        assert sum("archive" in words for words in house.said) <= 2, "said when it begins, not in every round"
        with pytest.raises(LogFull):
            await house.append()
        house.keeper = house.new_keeper(blobs)
        async with asyncio.timeout(60):
            while (await house.keeper.round()).share > 0.5:
                await asyncio.sleep(0.05)
        assert not (await house.keeper.status()).trouble


@pytest.mark.servers
async def test_an_etcd_that_ran_full_loses_nothing_acknowledged_and_is_let_go_on(
    small_etcd: EtcdSettings, blobs: BlobStore
) -> None:
    """Trap 9: etcd's refusal may come although the write applied; only the identical transaction tells."""
    # No gate: etcd itself is driven into its alarm.
    async with Household(small_etcd, blobs, gate=False) as house:
        while not any(status.no_space for status in await house.members.statuses()):
            noted = house.noise(200_000)
            writer = house._writer = house._writer or await house.log.claim(0, "a")
            future = writer.submit(noted.command_id, [noted])
            done, _ = await asyncio.wait((future,), timeout=1.0)
            if done:
                house.acked.append(future.result().first.offset)
        in_flight = [writer.submit(noted.command_id, [noted])]
        # Who starts now gets in as well: a reader, or the archiver itself, which alone can make room.
        async with Household(small_etcd, blobs) as another:
            assert set(house.acked) <= set(offsets(await read_all(another.log, 0)))
        # A crash in the middle of making room, after which the next one begins anew.
        arm("log.keeper.relieved", "error")
        try:
            # What stood archived but undeleted, and what history held, is what can be freed without a put.
            with pytest.raises(FailpointError):
                await house.keeper.round()
        finally:
            disarm("log.keeper.relieved")
        assert any(status.no_space for status in await house.members.statuses())
        await EmbeddedEtcd(Path(str(small_etcd.ca_path)).parents[1], quota_bytes=32 * MIB).ensure()
        house.budget = Budget(quota_bytes=32 * MIB)
        house.keeper = house.new_keeper(blobs)
        async with asyncio.timeout(60):
            while not in_flight[0].done():
                try:
                    await house.keeper.round()
                except LogUnavailable:
                    pass  # it is being started
                await asyncio.sleep(0.05)
        stored = await read_all(house.log, 0)
        assert offsets(stored) == list(range(len(stored)))
        assert [e.record.event_id for e in stored].count(noted.event_id) == 1
        assert set(house.acked) <= set(offsets(stored))
        assert in_flight[0].result().first.offset == len(stored) - 1


@pytest.mark.servers
async def test_a_full_etcd_is_relieved_also_of_what_was_archived_and_not_deleted_yet(
    small_etcd: EtcdSettings, blobs: BlobStore
) -> None:
    """It refuses a transaction that only deletes, as long as its file is as large as the quota."""
    async with Household(small_etcd, blobs, gate=False) as house, EtcdClient(small_etcd) as client:
        for _ in range(40):
            await house.append()
        arm("log.archive.deleting", "error")
        try:
            with pytest.raises(FailpointError):
                await house.keeper.archive([0], everything=True)
        finally:
            disarm("log.archive.deleting")
        # As many as it takes: etcd looks at the size as of its last commit to the file, up to 100 ms ago.
        junk = [f"/junk/{number}" for number in range(64)]
        with pytest.raises(LogUnavailable, match="space exceeded"):
            for key in junk:
                await client.put(key, os.urandom(MIB))
        for key in junk:
            await client.delete(key)
        async with asyncio.timeout(60):
            while (await house.keeper.round()).no_space:
                await asyncio.sleep(0.05)
        await house.append()
        assert offsets(await read_all(house.log, 0)) == house.acked == list(range(41))


@pytest.mark.servers
@pytest.mark.parametrize(("file", "again"), [(900, False), (960, True)])
async def test_a_file_too_large_for_appends_is_given_back_again_within_the_hour(
    etcd_settings: EtcdSettings, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, file: int, again: bool
) -> None:
    """A burst after a defragmentation: mostly free pages, and nothing is appended until they are given back."""
    rewritten = 0

    class Members(FixedMembers):
        async def defragment(self, endpoint: str) -> None:
            nonlocal rewritten
            rewritten += 1

    monkeypatch.setattr(keeper, "DEFRAGMENT_REFUSING_S", 0.0)
    members = Members(member(db_size=file, db_in_use=200))
    async with EtcdClient(etcd_settings) as client:
        kept = keeper.LogKeeper(
            client=client, members=members, blobs=blobs, partitions=1, budget=Budget(quota_bytes=1000)
        )
        await kept.round()
        await kept.round()
    assert rewritten == (2 if again else 1)


# -- compaction


@pytest.mark.servers
async def test_of_many_compactors_one_compacts_an_interval(etcd_settings: EtcdSettings) -> None:
    async with EtcdClient(etcd_settings) as client:
        keys = Keys(etcd_settings.namespace)
        compactors = [Compactor(client, keys, interval_s=0.2) for _ in range(5)]
        won = 0
        for _ in range(3):
            for compactor in compactors:
                assert not await compactor.tick(1), "each looks first"
            before = await client.get(keys.compaction)
            async with asyncio.timeout(20):
                while True:
                    await client.put(f"{keys.root}other", b"1")
                    ticks = [await compactor.tick(1) for compactor in compactors]
                    won += sum(ticks)
                    if any(ticks):
                        break
                    await asyncio.sleep(0.02)
            assert sum(ticks) == 1
            after = await client.get(keys.compaction)
            assert after is not None and after.version == (before.version if before else 0) + 1
        assert won == 3


@pytest.mark.servers
async def test_history_is_kept_for_an_interval_and_no_longer(etcd_settings: EtcdSettings) -> None:
    async with EtcdClient(etcd_settings) as client:
        keys = Keys(etcd_settings.namespace)
        compactor = Compactor(client, keys, interval_s=0.0)
        noted = []
        for _ in range(4):
            noted.append(await client.put(f"{keys.root}other", b"1"))
            while not await compactor.tick(1):
                pass
        with pytest.raises(Compacted):
            async for _ in client.watch_prefix(keys.root, noted[1]):
                pass
        async for notice in client.watch_prefix(keys.root, noted[3]):
            if notice.events:
                break


@pytest.mark.servers
async def test_a_lost_election_is_not_compacted_twice_and_what_is_asked_for_is_done(
    etcd_settings: EtcdSettings,
) -> None:
    async with EtcdClient(etcd_settings) as client:
        keys = Keys(etcd_settings.namespace)
        first = await client.put(f"{keys.root}other", b"1")
        await asyncio.gather(*(Compactor(client, keys).now(1) for _ in range(5)))
        with pytest.raises(Compacted):
            async for _ in client.watch_prefix(keys.root, first - 1):
                pass


async def test_an_unreadable_compaction_record_is_written_anew(etcd_settings: EtcdSettings) -> None:
    async with EtcdClient(etcd_settings) as client:
        keys = Keys(etcd_settings.namespace)
        await client.put(keys.compaction, b"\xff")
        await Compactor(client, keys).now(7)
        stored = await client.get(keys.compaction)
        assert stored is not None and msgspec.json.decode(stored.value)["at"] == 7


def test_the_fullest_of_each_kind_is_the_measure() -> None:
    found = measure(Budget(quota_bytes=100), [member(db_in_use=10, db_size=90), member(db_in_use=20, db_size=40)])
    assert (found.in_use, found.file, found.share, found.file_share) == (20, 90, 0.2, 0.9)
