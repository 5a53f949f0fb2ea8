"""Batches survive the round trip; damage is found and named."""

import hashlib
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.log.codec import (
    CommandSpan,
    StreamSpan,
    batch_hash,
    check_command,
    decode_batch,
    decode_end,
    decode_facts,
    decode_header,
    decode_types,
    encode_batch,
)
from events.log.errors import CorruptBatch, InvalidAppend
from events.log.records import EventRecord, Position
from tests.events.log.contract import event

FIXTURES = Path(__file__).parent / "fixtures"

text = st.text(max_size=30)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


# What columns leave out where it follows from other fields, and what they keep in a dictionary.
unusual = st.sampled_from(
    [
        {},
        {"event_id": "e-1", "correlation_id": "ä", "type": "Moved"},
        {"command_id": "other", "causation_id": "other", "actor": "ada"},
        {"causation_id": "c0", "schema_version": 0},
        {"causation_id": "s/1@4", "schema_version": 3, "traceparent": "00-1-2-01"},
    ]
)


@st.composite
def commands(draw: st.DrawFn) -> list[tuple[str, list[EventRecord]]]:
    versions: dict[str, int] = {}
    made: list[tuple[str, list[EventRecord]]] = []
    for number in range(draw(st.integers(1, 5))):
        events = []
        for _ in range(draw(st.integers(1, 8))):
            stream = draw(st.sampled_from(["s/1", "s/2", "team/ä"]))
            versions[stream] = versions.get(stream, 0) + 1
            events.append(
                msgspec.structs.replace(
                    event(stream, versions[stream]),
                    at=draw(st.integers(0, 2**62)),
                    reason=draw(text),
                    **{"event_id": f"{stream}@{versions[stream]}", **draw(unusual)},
                    body=msgspec.Raw(msgspec.msgpack.encode(draw(bodies))),
                )
            )
        made.append((f"c{number}", events))
    return made


def encode(made: list[tuple[str, list[EventRecord]]], base: int = 7) -> bytes:
    commands = [check_command(command_id, events) for command_id, events in made]
    return encode_batch(partition=2, base=base, epoch=3, txn_id="t", previous=b"p" * 32, commands=commands)[1]


def recorded(name: str) -> tuple[bytes, list[EventRecord]]:
    """A batch as a released version wrote it, and the events that it holds."""
    lines = [msgspec.json.decode(line) for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]
    events = [EventRecord(**{**line, "body": msgspec.Raw(msgspec.msgpack.encode(line["body"]))}) for line in lines]
    return (FIXTURES / f"{name}.batch").read_bytes(), events


@given(commands())
def test_round_trip(made: list[tuple[str, list[EventRecord]]]) -> None:
    value = encode(made)
    header, records = decode_batch(value, Position(2, 7))
    flat = [record for _, events in made for record in events]
    assert records == flat
    assert header == decode_header(value, Position(2, 7))
    assert decode_end(value, Position(2, 7)) == header.end
    assert (header.partition, header.base, header.count, header.end) == (2, 7, len(flat), 7 + len(flat))
    assert (header.t_min, header.t_max) == (min(e.at for e in flat), max(e.at for e in flat))
    assert [span.command_id for span in header.commands] == [command_id for command_id, _ in made]
    for span, (_, events) in zip(header.commands, made, strict=True):
        assert records[span.first_index : span.last_index + 1] == events
        assert span.last_version == events[-1].version
    for stream in header.streams:
        versions = [e.version for e in flat if e.stream == stream.stream]
        assert (stream.first_version, stream.last_version) == (versions[0], versions[-1])


@given(commands())
def test_facts_are_what_the_records_say(made: list[tuple[str, list[EventRecord]]]) -> None:
    value = encode(made)
    facts = decode_facts(value, Position(2, 7))
    header, types = decode_types(value, Position(2, 7))
    assert (header.end, set(types)) == (7 + len(facts), set(facts.types))
    _, records = decode_batch(value, Position(2, 7))
    assert len(facts) == len(records)
    assert facts.base == 7
    columns = (facts.streams, facts.versions, facts.types, facts.schema_versions, facts.times, facts.bodies)
    assert list(zip(*columns, strict=True)) == [
        (record.stream, record.version, record.type, record.schema_version, record.at, record.body)
        for record in records
    ]


@pytest.mark.parametrize(
    ("name", "base"), [("format-1-plain", 0), ("format-1-zstd", 1), ("format-2-plain", 0), ("format-2-zstd", 1)]
)
def test_what_a_format_wrote_is_read_for_ever(name: str, base: int) -> None:
    value, events = recorded(name)
    header, records = decode_batch(value, Position(3, base))
    assert records == events
    assert decode_end(value, Position(3, base)) == header.end
    assert (f"format-{header.format}", header.count) == (name[: len("format-1")], len(events))
    if header.format == 1:
        assert header.previous == b""
        assert {span.last_version for span in header.commands} == {0}
    assert set(decode_types(value, Position(3, base))[1]) == {record.type for record in records}
    facts = decode_facts(value, Position(3, base))
    assert [bytes(body) for body in facts.bodies] == [bytes(event.body) for event in events]
    assert (facts.streams, facts.versions) == ([e.stream for e in events], [e.version for e in events])


def test_a_batch_of_a_newer_format_is_refused_by_name() -> None:
    header = decode_header(encode([("c", [event("s/1", 1)])]), Position(2, 7))
    head = msgspec.msgpack.encode(msgspec.structs.replace(header, format=3))
    value = struct.pack(">4sIII", b"RFB1", len(head), zlib.crc32(head), 0) + head
    with pytest.raises(CorruptBatch, match="newer release"):
        decode_header(value, Position(2, 7))


def test_the_hash_of_the_batch_before_is_in_the_header() -> None:
    first, _ = recorded("format-1-plain")
    command = check_command("c", [event("s/1", 1)])
    header, value = encode_batch(
        partition=3, base=1, epoch=3, txn_id="t", previous=batch_hash(first), commands=[command]
    )
    assert decode_header(value, Position(3, 1)) == header
    assert header.previous == hashlib.sha256(first).digest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("body", msgspec.Raw(b"")),
        ("body", msgspec.Raw(b"\xc1")),
        ("body", msgspec.Raw(b"\x01\x02")),
        ("reason", "\ud800"),
        ("actor", None),
        ("type", 7),
        ("at", -1),
        ("at", 2**64),
        ("at", 1.5),
        ("schema_version", "1"),
        ("version", True),
    ],
)
def test_an_event_that_could_not_be_read_back_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidAppend, match="c-1"):
        check_command("c-1", [msgspec.structs.replace(event("s/1", 1), **{field: value})])


@given(commands(), st.data())
def test_any_flipped_bit_is_found(made: list[tuple[str, list[EventRecord]]], data: st.DataObject) -> None:
    value = bytearray(encode(made))
    index = data.draw(st.integers(0, len(value) - 1))
    value[index] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptBatch) as found:
        decode_batch(bytes(value), Position(2, 7))
    assert found.value.position == Position(2, 7)
    assert "2:7" in str(found.value)


@given(commands(), st.data())
def test_any_truncation_is_found(made: list[tuple[str, list[EventRecord]]], data: st.DataObject) -> None:
    value = encode(made)
    with pytest.raises(CorruptBatch):
        decode_batch(value[: data.draw(st.integers(0, len(value) - 1))], Position(2, 7))


def test_a_batch_under_a_wrong_key_is_found() -> None:
    value = encode([("c", [event("s/1", 1)])])
    with pytest.raises(CorruptBatch, match="2:7"):
        decode_header(value, Position(2, 8))


def test_the_body_is_compressed_when_it_pays() -> None:
    made = [("c", [event("s/1", n, "the same words again and again") for n in range(1, 301)])]
    value = encode(made)
    header, records = decode_batch(value, Position(2, 7))
    assert header.compression == "zstd"
    assert len(value) < header.body_bytes / 4
    assert len(records) == 300
    assert header.commands == (CommandSpan("c", 0, 299, 300),)
    assert header.streams == (StreamSpan("s/1", 1, 300),)


def test_small_bodies_stay_plain() -> None:
    header = decode_header(encode([("c", [event("s/1", 1)])]), Position(2, 7))
    assert header.compression == ""


def test_batches_are_encoded_and_decoded_in_many_threads_at_once() -> None:
    made = [
        [(f"c{n}", [event(f"s/{worker}", n, "the same words again " * 20)]) for n in range(1, 65)]
        for worker in range(8)
    ]

    def round_trip(worker: int) -> bool:
        flat = [record for _, events in made[worker] for record in events]
        return all(decode_batch(encode(made[worker]), Position(2, 7))[1] == flat for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(8)))
