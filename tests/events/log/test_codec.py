"""Batches survive the round trip; damage is found and named."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.log.codec import CommandSpan, StreamSpan, decode_batch, decode_header, encode_batch, encode_command
from events.log.errors import CorruptBatch
from events.log.records import EventRecord, Position
from tests.events.log.contract import event

text = st.text(max_size=30)
bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
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
                    body=msgspec.Raw(msgspec.msgpack.encode(draw(bodies))),
                )
            )
        made.append((f"c{number}", events))
    return made


def encode(made: list[tuple[str, list[EventRecord]]], base: int = 7) -> bytes:
    encoded = [encode_command(command_id, events) for command_id, events in made]
    return encode_batch(partition=2, base=base, epoch=3, txn_id="t", commands=encoded)[1]


@given(commands())
def test_round_trip(made: list[tuple[str, list[EventRecord]]]) -> None:
    value = encode(made)
    header, records = decode_batch(value, Position(2, 7))
    flat = [record for _, events in made for record in events]
    assert records == flat
    assert header == decode_header(value, Position(2, 7))
    assert (header.partition, header.base, header.count, header.end) == (2, 7, len(flat), 7 + len(flat))
    assert (header.t_min, header.t_max) == (min(e.at for e in flat), max(e.at for e in flat))
    assert [span.command_id for span in header.commands] == [command_id for command_id, _ in made]
    for span, (_, events) in zip(header.commands, made, strict=True):
        assert records[span.first_index : span.last_index + 1] == events
    for stream in header.streams:
        versions = [e.version for e in flat if e.stream == stream.stream]
        assert (stream.first_version, stream.last_version) == (versions[0], versions[-1])


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
    assert header.commands == (CommandSpan("c", 0, 299),)
    assert header.streams == (StreamSpan("s/1", 1, 300),)


def test_small_bodies_stay_plain() -> None:
    header = decode_header(encode([("c", [event("s/1", 1)])]), Position(2, 7))
    assert header.compression == ""
