"""Segments as the shim writes them and the collector reads them: encoding, rolling, dropping, counting."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.logs.instance_log import InstanceLog
from actors.logs.line import Origin
from actors.runtime import output
from actors.runtime.shim.segments import LINE_BYTES_MAX, Pump, Segments, encode


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=300))
def test_whatever_is_said_comes_back_byte_for_byte(said: bytes, cut: int) -> None:
    first, taken = encode(said[:cut], b"o", 5, final=False)
    second, rest = encode(said[taken:], b"o", 6, final=True)

    records = list(output.parse(first + second))
    lines = said.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    assert taken + rest == len(said)
    assert [record.data for record in records] == lines


def test_a_line_longer_than_a_record_is_cut_and_marked() -> None:
    line = b"x" * (2 * LINE_BYTES_MAX + 10)
    records, taken = encode(line + b"\nshort\n", b"e", 1, final=False)

    found = [(record.partial, len(record.data)) for record in output.parse(records)]
    assert found == [(True, LINE_BYTES_MAX), (True, LINE_BYTES_MAX), (False, 10), (False, 5)]
    assert taken == len(line) + 7


def test_an_unfinished_line_waits_until_it_is_too_long() -> None:
    assert encode(b"wait", b"o", 1, final=False) == (b"", 0)
    records, taken = encode(b"x" * (LINE_BYTES_MAX + 1), b"o", 1, final=False)

    assert taken == LINE_BYTES_MAX
    assert [record.partial for record in output.parse(records)] == [True]


def test_the_oldest_segments_are_dropped_and_counted(tmp_path: Path) -> None:
    writer = Segments(str(tmp_path), segment_bytes=1_000, unread_bytes_max=5_000)
    for n in range(1_000):
        records, _ = encode(b"line %d\n" % n, b"o", 1, final=False)
        writer.write(records)
    writer.close()

    kept = [record for _, path in output.segments(tmp_path) for record in output.parse(path.read_bytes())]
    losses = output.dropped(tmp_path)
    assert len(kept) + sum(loss.lines for loss in losses) == 1_000
    assert {loss.cause for loss in losses} == {"cap"}
    assert kept[-1].data == b"line 999"
    assert sum(path.stat().st_size for _, path in output.segments(tmp_path)) <= 5_000
    assert output.last_lines(tmp_path, 2) == ["line 998", "line 999"]


def test_a_successor_begins_a_new_segment_and_a_torn_record_is_skipped(tmp_path: Path) -> None:
    first = Segments(str(tmp_path))
    first.write(b"1 o F whole\n2 o F to")
    second = Segments(str(tmp_path))
    second.write(b"3 o F torn\n")
    first.close()
    second.close()

    assert [number for number, _ in output.segments(tmp_path)] == [1, 2]
    assert output.last_lines(tmp_path, 10) == ["whole", "torn"]


def test_lines_the_disk_refuses_are_counted_and_leave_no_torn_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Segments(str(tmp_path))
    writer.write(b"1 o F before\n")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 20:
            real(descriptor, bytes(data)[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        writer.write(b"2 o F first lost\n3 o F second lost\n")
    writer.write(b"4 o F after\n")
    writer.close()

    assert output.last_lines(tmp_path, 10) == ["before", "after"]
    assert [(loss.lines, loss.cause) for loss in output.dropped(tmp_path)] == [(2, "disk")]


def test_what_the_disk_still_took_stays_where_a_reader_may_have_seen_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").mkdir()
    writer = Segments(str(tmp_path / "log"))
    reader = InstanceLog(tmp_path, Origin(source="app", instance="i", release=1))
    seen: list[bytes] = []
    real = os.write

    def nearly_full(descriptor: int, data: bytes) -> int:
        if bytes(data).startswith(b"1 o F first"):
            return real(descriptor, bytes(data)[:20])  # the rest of a page
        seen.append(reader.read().records)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        writer.write(b"1 o F first\n2 o F a second one\n3 o F third\n")
    writer.write(b"4 o F a fourth that is longer\n")
    writer.write(b"5 o F fifth\n")
    writer.close()
    seen.append(reader.read().records)
    reader.close()

    assert b"".join(seen) == b"1 o F first\n4 o F a fourth that is longer\n5 o F fifth\n"
    assert [(loss.lines, loss.cause) for loss in output.dropped(tmp_path / "log")] == [(2, "disk")]


def test_what_is_not_written_stays_in_the_pipe_for_a_successor(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "log").mkdir()
    first = Pump(str(tmp_path / "pipe"), b"o", Segments(str(tmp_path / "log")))
    application = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(application, b"one\nunfinished")
    first.drain()
    os.close(first.descriptor)
    os.write(application, b" line\n")
    second = Pump(str(tmp_path / "pipe"), b"o", Segments(str(tmp_path / "log")))
    second.drain()
    os.close(application)
    os.close(second.descriptor)

    assert output.last_lines(tmp_path / "log", 10) == ["one", "unfinished line"]
