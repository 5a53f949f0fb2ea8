"""Secret values in what an application prints: gone before a byte of them is on a disk, wherever lines are cut."""

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime import output
from actors.runtime.shim.masking import MASK, WORDS_BELOW, Masking
from actors.runtime.shim.segments import LINE_BYTES_MAX, Pump, Segments, encode
from events import secrets
from events.secrets.forms import LEAST_CHARS, MOST_CHARS, printed_forms

SECRET = "s3cr3t/välue+1"


def masking(*values: str) -> Masking:
    return Masking(printed_forms(values))


def test_the_mask_is_the_one_that_secrets_have_everywhere() -> None:
    assert secrets.MASK.encode() == MASK


@pytest.mark.parametrize(
    "printed",
    [
        SECRET,
        f"postgres://user:{SECRET}@host/db",
        json.dumps({"password": SECRET}),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
        *(base64.b64encode(f"{before}:{SECRET}:x".encode()).decode() for before in ("a", "ab", "abc")),
        "s3cr3t%2Fv%C3%A4lue%2B1",
    ],
)
def test_whatever_form_it_is_printed_in(printed: str) -> None:
    hidden = masking(SECRET).hide(printed.encode()).decode()
    assert "••••" in hidden
    assert SECRET not in hidden and "s3cr3t" not in hidden and "lue%2B1" not in hidden
    assert len(hidden) < len(printed) - len(SECRET) // 2, "no more than its ends are left"


def test_lines_of_a_value_count_one_by_one_and_short_ones_do_not() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nabc\n-----END KEY-----"
    assert masking(key).hide(b"x MIIEvQIBADANBg abc") == "x •••• abc".encode()
    assert max(map(len, printed_forms(["k" * (3 * MOST_CHARS)]))) == MOST_CHARS


def test_a_short_value_is_hidden_where_it_is_a_word_of_its_own() -> None:
    assert WORDS_BELOW == LEAST_CHARS
    hide = masking("4711", "äöü", "x").hide
    assert hide(b"pin=4711, 4711") == "pin=••••, ••••".encode()
    assert hide(b"id 14711 47110 a4711 4711_b 0x4711") == b"id 14711 47110 a4711 4711_b 0x4711"
    assert hide("x äöü x".encode()) == "x •••• x".encode(), "one character is in everything"
    assert printed_forms(["true", "None", " ", "ab", "a b"]) == (), "what stands in everybody's lines"


def test_the_longer_of_two_values_is_hidden_first() -> None:
    assert masking("hunter2", "hunter2-and-more").hide(b"x hunter2-and-more y hunter2") == "x •••• y ••••".encode()


@given(
    st.lists(st.sampled_from([SECRET, "other-value", "x" * 3_000, "ä" * 900, "\n", "plain "]), max_size=40),
    st.lists(st.integers(min_value=0, max_value=60_000), max_size=6),
)
def test_nothing_is_left_wherever_it_is_cut(parts: list[str], cuts: list[int]) -> None:
    hide = masking(SECRET, "other-value")
    said = "".join(parts).encode()
    records, at = b"", 0
    for cut in sorted(cuts):
        more, taken = hide.encode(said[at:cut], b"o", 1, False) if cut > at else (b"", 0)
        records, at = records + more, at + taken
    more, taken = hide.encode(said[at:], b"o", 1, True)
    records += more

    assert at + taken == len(said)
    found = list(output.parse(records))
    whole = b"".join(record.data + (b"" if record.partial else b"\n") for record in found)
    assert all(len(record.data) <= LINE_BYTES_MAX for record in found)
    assert whole.rstrip(b"\n") == hide.hide(said).rstrip(b"\n")


def test_without_secrets_output_is_what_it_was() -> None:
    said = b"one\n" + b"x" * (2 * LINE_BYTES_MAX + 5)
    assert Masking(()).encode(said, b"o", 1, False) == encode(said, b"o", 1, False)


def test_a_value_that_arrives_in_two_halves_is_hidden(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "log").mkdir()
    pump = Pump(str(tmp_path / "pipe"), b"o", Segments(str(tmp_path / "log")), masking(SECRET).encode)
    application = os.open(tmp_path / "pipe", os.O_RDWR)
    line = b"x" * (2 * LINE_BYTES_MAX - 5) + SECRET.encode() + b" and more\n"
    for part in (line[: 2 * LINE_BYTES_MAX], line[2 * LINE_BYTES_MAX :]):
        os.write(application, part)
        pump.drain()
    os.close(application)
    os.close(pump.descriptor)

    [said] = output.last_lines(tmp_path / "log", 10)
    assert said == "x" * (2 * LINE_BYTES_MAX - 5) + "•••• and more"
