"""A sealed value's text: taken apart, put together, and never shown."""

import pytest

from events.secrets import Sealed, is_sealed, mask

SEALED = Sealed(team="default", key_id="0123456789abcdef", fingerprint="fedcba9876543210", body="AAECAwQ-_w")
TEXT = "sealed:1:default:0123456789abcdef:fedcba9876543210:AAECAwQ-_w"
SHOWN = "•••• (fedcba9876543210)"


def test_a_sealed_value_is_read_as_it_was_written() -> None:
    assert SEALED.text() == TEXT
    assert Sealed.parse(TEXT) == SEALED
    assert is_sealed(TEXT)


@pytest.mark.parametrize("text", ["", "sealed", "sealed:1:", TEXT + "\n", "x" + TEXT, TEXT.replace(":1:", ":2:")])
def test_other_text_is_no_sealed_value(text: str) -> None:
    assert Sealed.parse(text) is None
    assert not is_sealed(text)


def test_masking_goes_into_every_depth_and_into_messages() -> None:
    before = {"config": {"A": TEXT, "B": "plain"}, "list": [TEXT, 1, None, ("x", TEXT)], "why": f"found {TEXT}, no"}

    after = mask(before)

    assert after == {
        "config": {"A": SHOWN, "B": "plain"},
        "list": [SHOWN, 1, None, ("x", SHOWN)],
        "why": f"found {SHOWN}, no",
    }
    assert before["config"] == {"A": TEXT, "B": "plain"}


def test_a_masked_key_of_a_map_is_masked_too() -> None:
    assert mask({TEXT: 1}) == {SHOWN: 1}


def test_what_holds_no_secret_is_not_copied() -> None:
    plain = {"a": [1, "x", {"b": None}]}

    assert mask(plain) is plain
