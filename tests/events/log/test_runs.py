"""A segment's runs hold its batches' events and nothing else; whoever compares the two is told where they differ."""

import secrets
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.histories import platform_life
from events.log import runs as runs_module
from events.log.archive.segment import Segment, decode_segment, encode_segment
from events.log.codec import check_command, encode_batch
from events.log.columns import Facts, facts_of
from events.log.errors import CorruptSegment
from events.log.records import EventRecord, Position
from events.log.runs import MAGIC, Run, Runs, difference, encode_runs
from events.log.store import StoredBatch
from tests.events.log.contract import event


def batches_of(records: Sequence[EventRecord], size: int, *, base: int = 0) -> list[Facts]:
    return [facts_of(records[at : at + size], base=base + at) for at in range(0, len(records), size)]


def runs_of(batches: Sequence[Facts], section: bytes | None = None, *, end: int = 0) -> Runs:
    encoded = encode_runs(batches) if section is None else section
    end = end or batches[-1].base + len(batches[-1])
    return Runs(partition=3, base=batches[0].base, end=end, location="segments/03/x", section=memoryview(encoded))


def events_of(runs: Runs) -> list[tuple[str, int, tuple[str, int], int, bytes]]:
    """All of them, by stream and version."""
    return sorted(
        (run.stream, version, block.kinds[kind], block.t_min + after, bytes(body))
        for block in runs.blocks()
        for run in block.runs
        for version, (kind, after, body) in enumerate(
            zip(run.kinds, run.after, run.bodies, strict=True), run.first_version
        )
    )


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 120), block=st.sampled_from([1, 2000, 1 << 18]))
def test_every_event_is_there_once_with_its_place(seed: int, size: int, block: int) -> None:
    records = platform_life(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_module, "BLOCK_BYTES", block)
        runs = runs_of(batches_of(records, size, base=40))
    assert (runs.base, runs.end) == (40, 40 + len(records))
    assert events_of(runs) == sorted(
        (r.stream, r.version, (r.type, r.schema_version), r.at, bytes(r.body)) for r in records
    )
    for run in (run for found in runs.blocks() for run in found.runs):
        own = [40 + offset for offset, record in enumerate(records) if record.stream == run.stream]
        assert (run.first_offset, run.last_offset, len(run.bodies)) == (own[0], own[-1], len(own))
    assert difference(runs, batches_of(records, 7, base=40)) == ""


def test_schema_versions_of_one_type_are_kinds_of_their_own() -> None:
    records = [msgspec.structs.replace(event("a/1", n), schema_version=n % 2 + 1) for n in range(1, 5)]
    [block] = runs_of(batches_of(records, 4)).blocks()
    assert [block.kinds[kind] for kind in block.runs[0].kinds] == [("Noted", n % 2 + 1) for n in range(1, 5)]


def test_where_versions_leave_a_gap_there_are_none() -> None:
    records = [event("a/1", 1), event("b/1", 5), event("a/1", 3)]
    assert encode_runs(batches_of(records, 2)) == b""
    whole = [event("a/1", 1), event("b/1", 5), event("a/1", 2)]
    assert difference(runs_of(batches_of(whole, 2)), batches_of(records, 2)).startswith("runs, although")


RECORDS = [event("a/1", 1, "x"), event("b/1", 1, "y"), event("a/1", 2, "z"), event("b/1", 2)]


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([*RECORDS[:3], event("b/1", 2, "another")], "other events of b/1"),
        ([*RECORDS[:2], msgspec.structs.replace(RECORDS[2], at=5), RECORDS[3]], "other events of a/1"),
        ([*RECORDS[:2], msgspec.structs.replace(RECORDS[2], type="Other"), RECORDS[3]], "other events of a/1"),
        ([RECORDS[1], RECORDS[0], *RECORDS[2:]], "other events of b/1"),
        (RECORDS[:3], "other events of b/1"),
        ([*RECORDS, event("c/1", 1)], "c/1, which is not in its batches"),
    ],
    ids=["body", "time", "type", "offsets", "fewer", "one more stream"],
)
def test_what_differs_is_named(others: list[EventRecord], told: str) -> None:
    assert difference(runs_of(batches_of(RECORDS, 3)), batches_of(RECORDS, 4)) == ""
    assert difference(runs_of(batches_of(others, 3)), batches_of(RECORDS, 4)).startswith(told)


def test_a_stream_that_is_not_there_is_named() -> None:
    assert difference(runs_of(batches_of(RECORDS[:1], 1)), batches_of(RECORDS[:2], 2)) == "nothing of b/1"


@pytest.mark.parametrize("section", [MAGIC, MAGIC + b"\xff", MAGIC + msgspec.msgpack.encode([b"no frame"])])
def test_bytes_that_are_no_runs_are_a_corrupt_segment(section: bytes) -> None:
    with pytest.raises(CorruptSegment) as refused:
        list(runs_of(batches_of(RECORDS, 4), section).blocks())
    assert refused.value.position == Position(3, 0)
    assert "segments/03/x" in str(refused.value)


def test_runs_of_fewer_events_than_the_segment_has_are_a_corrupt_segment() -> None:
    with pytest.raises(CorruptSegment, match="expected 5 events in its runs as its manifest says, found 4"):
        list(runs_of(batches_of(RECORDS, 4), end=5).blocks())


def test_what_cannot_be_compressed_is_not_kept_twice() -> None:
    def segment(bodies: Sequence[str]) -> Segment:
        records = [event("a/1", version, body) for version, body in enumerate(bodies, 1)]
        commands = [check_command("c", records)]
        _, value = encode_batch(partition=0, base=0, epoch=1, txn_id="t", previous=b"", commands=commands)
        return decode_segment(0, *encode_segment(0, [StoredBatch(0, 1, value)]))

    assert segment([secrets.token_hex(4000) for _ in range(8)]).runs() is None
    assert segment(["x" * 8000] * 8).runs() is not None


def test_a_run_is_read_by_its_names() -> None:
    """Its fields are stored by their place: none may move."""
    assert Run.__struct_fields__ == (
        "stream", "first_version", "first_offset", "last_offset", "kinds", "after", "bodies",
    )  # fmt: skip
