"""Histories as a file: what is written is read back to the byte; whatever was done to the file is found and named."""

import base64
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events.log.memory import MemoryEventLog
from events.log.records import EventRecord
from events.replay.errors import BadHistoryFile, NoSuchStream
from events.replay.export import export
from events.replay.history import history, state_of
from events.replay.imported import MAX_LINE_BYTES, HistoryFile
from events.replay.past import in_total_order
from tests.projections.recorder import WEB, log_of, tell_everything

STREAM = f"component/{WEB}"
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_BODY = st.dictionaries(
    _TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
        | _TEXT | st.binary(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)  # fmt: skip


async def written(log: MemoryEventLog, streams: list[str] | None) -> bytes:
    return b"".join([block async for block in export(log, streams, rayfold="1.2.3", now=1_700_000_000_000_001)])


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    path = tmp_path / "history.jsonl"
    path.write_bytes(await written(await log_of(tell_everything()), ["team/default", "node/node2", STREAM]))
    return path


async def test_a_file_holds_whole_streams_and_says_what_it_is(file: Path) -> None:
    log = await log_of(tell_everything())

    opened = HistoryFile.open(file)

    assert [line.stream for line in opened.streams] == sorted(["team/default", "node/node2", STREAM])
    header = opened.header
    assert (header.format, header.version, header.rayfold) == ("rayfold-history", 1, "1.2.3")
    assert (header.exported_at, header.partitions) == ("2023-11-14T22:13:20.000001Z", log.partitions)
    for line in opened.streams:
        here, there = await history(opened, line.stream), await history(log, line.stream)
        assert here == there, "positions, revisions and raw bodies included"
        assert len(here) == line.events
        assert state_of(line.stream, here).state == state_of(line.stream, there).state
    with pytest.raises(NoSuchStream):
        await history(opened, "team/other")


async def test_all_of_a_log_comes_back_in_its_order(tmp_path: Path) -> None:
    log = await log_of(tell_everything())
    path = tmp_path / "all.jsonl"
    path.write_bytes(await written(log, None))

    opened = HistoryFile.open(path)

    assert [s async for s in in_total_order(opened)] == [s async for s in in_total_order(log)]
    again = b"".join([block async for block in export(opened, None, rayfold="1.2.3", now=1_700_000_000_000_001)])
    assert again == path.read_bytes(), "a file of a file is the same file"
    with pytest.raises(NoSuchStream, match="team/nobody"):
        await written(log, ["team/default", "team/nobody"])


async def test_people_can_read_it_and_no_line_is_more_than_an_event(file: Path) -> None:
    _, *lines = file.read_text().splitlines()

    event = json.loads(lines[0])

    assert event["body"] and msgspec.msgpack.decode(base64.b64decode(event["raw"])) == event["body"]
    assert all(set(json.loads(line)) == set(event) for line in lines)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(_BODY, min_size=1, max_size=5), text=_TEXT, at=st.integers(0, 2**53))
async def test_whatever_was_stored_comes_back(
    tmp_path: Path, bodies: list[dict[str, object]], text: str, at: int
) -> None:
    records = [
        EventRecord(
            stream="team/x", version=number, type="Anything", schema_version=1, event_id=f"team/x@{number}", at=at,
            command_id=f"c{number}", correlation_id=text, causation_id=text, actor=text, reason=text, traceparent="",
            body=msgspec.Raw(msgspec.msgpack.encode(body)),
        )
        for number, body in enumerate(bodies, 1)
    ]  # fmt: skip
    log = await log_of(records)
    path = tmp_path / "any.jsonl"
    path.write_bytes(await written(log, ["team/x"]))

    back = await history(HistoryFile.open(path), "team/x")

    assert back == await history(log, "team/x")
    assert [bytes(s.record.body) for s in back] == [bytes(r.body) for r in records]


def change(line: str, **fields: object) -> str:
    return json.dumps(json.loads(line) | fields, separators=(",", ":"), ensure_ascii=False)


def other_raw(line: str) -> str:
    """The raw body and the decoded one, both changed alike."""
    body = json.loads(line)["body"] | {"extra": 1}
    return change(line, body=body, raw=base64.b64encode(msgspec.msgpack.encode(body)).decode())


@pytest.mark.parametrize(
    ("name", "damage", "line", "said"),
    [
        ("empty", lambda lines: [], 1, "found an empty file"),
        ("no header", lambda lines: lines[1:], 1, "expected a header"),
        ("another format", lambda lines: [change(lines[0], format="csv"), *lines[1:]], 1, "found the format 'csv'"),
        ("a later version", lambda lines: [change(lines[0], version=2), *lines[1:]], 1, "expected version 1"),
        ("no partitions", lambda lines: [change(lines[0], partitions=0), *lines[1:]], 1, "partitions"),
        ("other partitions", lambda lines: [change(lines[0], partitions=3), *lines[1:]], 2, "partition"),
        ("text between", lambda lines: [*lines[:3], "nothing", *lines[3:]], 4, "expected an event"),
        ("a line twice", lambda lines: [*lines[:4], lines[3], *lines[4:]], 5, "expected version"),
        ("a line less", lambda lines: [*lines[:1], *lines[2:]], 2, "an event is missing"),
        ("a line twice", lambda lines: [*lines[:3], lines[2], *lines[3:]], 4, "a line is in the file twice"),
        ("cut between lines", lambda lines: lines[:-1], -1, "cut off"),
        ("one line more", lambda lines: [*lines, change(lines[-1], version=10**6)], -1, "expected version"),
        ("another body", lambda lines: [lines[0], change(lines[1], body={"a": 1}), *lines[2:]], 2, "different things"),
        ("both bodies", lambda lines: [lines[0], other_raw(lines[1]), *lines[2:]], -1, "it was changed"),
        ("another actor", lambda lines: [lines[0], change(lines[1], actor="eve"), *lines[2:]], -1, "it was changed"),
        ("raw no base64", lambda lines: [lines[0], change(lines[1], raw="%"), *lines[2:]], 2, "expected an event"),
        ("raw no body", lambda lines: [lines[0], change(lines[1], raw="wQ=="), *lines[2:]], 2, "expected an event"),
        ("deep", lambda lines: [lines[0], '{"body":' + "[" * 100_000, *lines[1:]], 2, "expected an event"),
        ("a longer header", lambda lines: [change(lines[0], streams=[]), *lines[1:]], -1, "the header names"),
    ],
)
def test_damage_is_found_and_its_line_named(file: Path, name: str, damage: object, line: int, said: str) -> None:
    lines = file.read_text().splitlines()
    damaged = damage(lines)  # type: ignore[operator]
    file.write_text("".join(f"{one}\n" for one in damaged))

    with pytest.raises(BadHistoryFile, match=said) as caught:
        HistoryFile.open(file)

    assert caught.value.line == (line if line > 0 else caught.value.line)
    assert caught.value.line >= line
    assert str(caught.value).startswith(f"line {caught.value.line}: ")


def test_a_file_that_ends_amid_a_line_was_cut_off(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])

    with pytest.raises(BadHistoryFile, match="cut off") as caught:
        HistoryFile.open(file)

    assert caught.value.line == whole.count(b"\n")


def test_a_line_without_end_is_not_read_into_memory(file: Path) -> None:
    with file.open("ab") as more:
        more.truncate(more.tell() + 4 * MAX_LINE_BYTES)

    with pytest.raises(BadHistoryFile, match="expected a line of at most"):
        HistoryFile.open(file)


@pytest.mark.parametrize("seed", range(60))
def test_a_flipped_bit_never_passes(file: Path, seed: int) -> None:
    raw = bytearray(file.read_bytes())
    place = (seed * 7919) % len(raw)
    raw[place] ^= 1 << (seed % 8)
    whole = json.loads(file.read_bytes().splitlines()[0])
    file.write_bytes(raw)

    try:
        opened = HistoryFile.open(file)
    except BadHistoryFile:
        return
    header = msgspec.to_builtins(opened.header)
    told = {key for key in whole if header[key] != whole[key]}
    assert (told and told <= {"rayfold", "exported_at"}) or header == whole, "only words for people may differ"


async def test_a_file_that_changes_while_it_is_read_is_told(file: Path) -> None:
    opened = HistoryFile.open(file)
    file.write_bytes(b"x" * file.stat().st_size)

    with pytest.raises(BadHistoryFile, match="changed while it was read"):
        _ = [stored async for stored in in_total_order(opened)]
