"""Older log segments in a bucket of a real S3 server: found, dropped when they are due, and missed while it is away."""

from pathlib import Path

import msgspec
import pytest

from actors.logs.archive import SegmentArchive
from actors.logs.errors import StorageFailed
from actors.logs.filter import LineFilter, Query
from actors.logs.keeper import Keeper, KeepSettings
from actors.logs.policy import FixedPolicies, StreamPolicy
from actors.logs.query import answer
from actors.logs.search import Searcher
from actors.logs.store import LogStore
from events.log.blobs import ArchiveSettings, open_blobs
from tests.actors.logs.test_log_sealed import LIMITS, STREAM, everything, fill

pytestmark = pytest.mark.servers


async def test_segments_move_to_a_bucket_and_are_read_from_it(
    tmp_path: Path, searcher: Searcher, s3_archive: ArchiveSettings
) -> None:
    blobs = open_blobs(s3_archive)
    archive = SegmentArchive(blobs, tmp_path / "logs", fetched_bytes=1)
    store = LogStore(tmp_path / "logs", LIMITS, archive=archive)
    await store.start()
    await fill(store, 2_000)
    before = await everything(store, searcher)
    newest = (await answer(store, searcher, Query(stream=STREAM, last=5))).lines
    keeper = Keeper(store, FixedPolicies(), archive, KeepSettings(archive_seconds=0))
    await keeper.tidy(STREAM, now=1e6)
    kept = await blobs.names("lines")
    assert keeper.stats.archived > 5 and len(kept) == 2 * keeper.stats.archived
    assert not list((tmp_path / "logs").glob("*/*/*.blk"))
    assert await everything(store, searcher) == before

    # The bucket's server goes away: what is here is told, what is there is not, and nothing is made up.
    for path in (tmp_path / "logs" / "fetched").glob("*.blk"):
        path.unlink()
    away = open_blobs(msgspec.structs.replace(s3_archive, endpoint="http://127.0.0.1:9"))
    cut_off = LogStore(tmp_path / "logs", LIMITS, archive=SegmentArchive(away, tmp_path / "logs"), member="other")
    await store.aclose()
    await cut_off.start()
    assert (await answer(cut_off, searcher, Query(stream=STREAM, last=5))).lines == newest
    with pytest.raises(StorageFailed, match="archive"):
        await answer(cut_off, searcher, Query(stream=STREAM, from_number=1, filter=LineFilter(grep="alpha")))
    await cut_off.aclose()

    again = LogStore(tmp_path / "logs", LIMITS, archive=archive)
    await again.start()
    old = Keeper(again, FixedPolicies(StreamPolicy(team="t", keep_seconds=1_000)), archive)
    await old.tidy(STREAM, now=2_000)
    left = await blobs.names("lines")
    assert 0 < len(left) < len(kept) and set(left) < set(kept)
    for each in (keeper, old):
        await each.aclose()
    await again.aclose()
