"""Sealing: what was sealed for one place is opened there and nowhere else, and says nothing of the value meanwhile."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.secrets.cipher import DataKey, MasterKey, Place, new_id, new_key
from events.secrets.errors import MasterKeyUnusable, SealBroken
from events.secrets.sealed import Sealed

PLACE = Place(team="shop", stream="component/0123456789abcdef", name="PASSWORD")


def a_key() -> DataKey:
    return DataKey(key_id=new_id(), key=new_key())


def parsed(text: str) -> Sealed:
    sealed = Sealed.parse(text)
    assert sealed is not None
    return sealed


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_value_comes_back_as_it_was(value: str) -> None:
    key = a_key()

    assert key.open(parsed(key.seal(value, PLACE)), PLACE) == value


def test_the_text_holds_nothing_of_the_value() -> None:
    text = a_key().seal("correct horse battery staple", PLACE)

    assert "horse" not in text
    assert parsed(text).team == "shop"


def test_the_same_value_at_the_same_place_is_the_same_text() -> None:
    key = a_key()

    assert key.seal("x", PLACE) == key.seal("x", PLACE)
    assert key.seal("x", PLACE) != key.seal("y", PLACE)


def test_equal_values_have_equal_fingerprints_within_a_team_and_other_bodies_at_other_places() -> None:
    key, elsewhere = a_key(), msgspec.structs.replace(PLACE, name="OTHER")
    here, there = parsed(key.seal("x", PLACE)), parsed(key.seal("x", elsewhere))

    assert here.fingerprint == there.fingerprint
    assert here.body[:16] != there.body[:16], "a nonce is of its place"
    assert a_key().fingerprint("x") != here.fingerprint, "another key's fingerprints cannot be compared with these"


@pytest.mark.parametrize("field", ["team", "stream", "name"])
def test_a_sealed_text_cannot_be_opened_at_another_place(field: str) -> None:
    key = a_key()
    elsewhere = msgspec.structs.replace(PLACE, **{field: "other"})

    with pytest.raises(SealBroken, match="changed or copied"):
        key.open(parsed(key.seal("x", PLACE)), elsewhere)


@pytest.mark.parametrize("position", range(0, 64, 7))
def test_a_changed_sealed_text_is_not_opened(position: int) -> None:
    key = a_key()
    sealed = parsed(key.seal("a value of some length, so that there is a body", PLACE))
    other = "A" if sealed.body[position] != "A" else "B"
    changed = sealed.body[:position] + other + sealed.body[position + 1 :]

    with pytest.raises(SealBroken):
        key.open(msgspec.structs.replace(sealed, body=changed), PLACE)
    with pytest.raises(SealBroken):
        key.open(msgspec.structs.replace(sealed, fingerprint="0" * 16), PLACE)


def test_a_wrapped_key_is_unwrapped_for_its_team_and_id_only() -> None:
    master, key = MasterKey(new_key()), new_key()
    wrapped = master.wrap(key, "shop", "id1")

    assert master.unwrap(wrapped, "shop", "id1") == key
    for other, team, ident in ((master, "bank", "id1"), (master, "shop", "id2"), (MasterKey(new_key()), "shop", "id1")):
        with pytest.raises(SealBroken):
            other.unwrap(wrapped, team, ident)


def test_a_master_key_reads_back_from_its_text_and_shows_only_its_id() -> None:
    master = MasterKey(new_key())

    assert MasterKey.from_text(master.to_text()).id == master.id
    assert master.to_text() not in repr(master) and master.id in repr(master)


@pytest.mark.parametrize("text", ["", "hello", "QUJD", "A" * 44 + "="])
def test_a_text_that_is_no_key_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(MasterKeyUnusable, match="openssl rand") as refused:
        MasterKey.from_text(text)

    assert not text or text not in str(refused.value)
