"""Lines as bytes: what the hot path counts without taking lines apart agrees with what a reader makes of them."""

from hypothesis import given
from hypothesis import strategies as st

from actors.logs import shimlog
from actors.logs.line import Origin
from actors.runtime.shim.segments import LINE_BYTES_MAX, encode

ORIGIN = Origin(source="app", instance="i-1", release=3)
_RECORDS = st.lists(
    st.tuples(
        st.integers(0, 10**17),
        st.sampled_from([b"o", b"e"]),
        st.sampled_from([b"F", b"P", b"J"]),
        st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"")),
    ),
    min_size=1,
)


@given(_RECORDS)
def test_numbers_and_times_are_those_of_the_lines(rows: list[tuple[int, bytes, bytes, bytes]]) -> None:
    records = b"".join(b"%d %s %s %s\n" % row for row in rows)
    span = shimlog.measure(records)
    lines = shimlog.decode(ORIGIN, records)
    assert span is not None and span.taken == len(lines)
    assert span.t_min == min(row[0] for row in rows) and span.t_max == max(row[0] for row in rows)
    assert "\n".join(line.text for line in lines) == "\n".join(row[3].decode("utf-8", "replace") for row in rows)


@given(_RECORDS, st.integers(min_value=0), st.sampled_from([b"\n", b"x", b""]))
def test_bytes_that_are_no_records_are_seen(
    rows: list[tuple[int, bytes, bytes, bytes]], place: int, put: bytes
) -> None:
    records = b"".join(b"%d %s %s %s\n" % row for row in rows)
    cut = records.rfind(b"\n", 0, place % len(records) + 1) + 1
    damaged = records[:cut] + put + records[cut + 2 :]
    if shimlog.measure(damaged) is not None:
        assert len(shimlog.decode(ORIGIN, damaged)) == shimlog.measure(damaged).taken  # type: ignore[union-attr]
    elif damaged:
        assert len(shimlog.decode_damaged(ORIGIN, damaged, 5)) == damaged.removesuffix(b"\n").count(b"\n") + 1


def test_joined_records_are_one_line() -> None:
    records = b"5 e J Traceback\n6 e J   File\n7 e F ValueError\n8 o F next\n9 o J last\n"
    assert shimlog.measure(records) == (3, 5, 9)
    lines = shimlog.decode(ORIGIN, records)
    assert [(line.at, line.stream, line.text) for line in lines] == [
        (5, "e", "Traceback\n  File\nValueError"),
        (8, "o", "next"),
        (9, "o", "last"),
    ]


def test_a_long_line_is_cut_between_characters() -> None:
    text = "x" + "é" * 20_000
    records, taken = encode(text.encode() + b"\n", b"o", 1, False)
    lines = shimlog.decode(ORIGIN, records)
    assert taken == len(text.encode()) + 1 and "".join(line.text for line in lines) == text
    assert [line.partial for line in lines] == [True, True, False]
    assert max(map(len, records.split(b"\n"))) <= LINE_BYTES_MAX + len(b"1 o P ")
