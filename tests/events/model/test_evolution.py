"""Events outlive the code that wrote them: what any version recorded folds for ever, and no shape changes unnoticed."""

from typing import ClassVar, cast

import msgspec
import pytest

from events.log.records import EventRecord
from events.model import registry
from events.model.base import Event
from events.model.evolution import EvolutionError, Fields, UnknownEventError, collect_upcasters
from events.model.registry import AGGREGATES, EVENT_TYPES, Aggregate, decode_event, encode_event, fold
from tests.events.model.record import history, main
from tests.events.model.recorded import read_history, recorded_states, states_of, versions
from tests.events.model.shapes import Recorded, complaints, present_shapes, recorded_shapes, shape_of


@pytest.mark.parametrize("version", [path.name for path in versions()])
def test_what_a_version_recorded_folds_to_what_it_did_then(version: str) -> None:
    [directory] = [path for path in versions() if path.name == version]

    found = states_of(read_history(directory))

    expected = recorded_states(directory)
    assert found.keys() == expected.keys()
    for stream in expected:
        assert found[stream] == expected[stream], (
            f"{stream} folds to another state than it did. If that is meant (a state was changed, not an event): "
            f"python -m tests.events.model.record --states {version}, and say why in the commit"
        )


def test_every_kind_of_stream_and_every_event_of_today_is_recorded() -> None:
    records = [record for path in versions() for stream in read_history(path).values() for record in stream]

    assert {registry.kind_of(record.stream) for record in records} == set(AGGREGATES)
    now = {(name, event.schema_version) for name, event in EVENT_TYPES.items()}
    missing = sorted(now - {(record.type, record.schema_version) for record in records})
    assert not missing, f"not recorded yet: {missing}: python -m tests.events.model.record vN"


def test_no_event_changes_its_shape_unnoticed() -> None:
    told = complaints(recorded_shapes(), present_shapes())

    assert not told, "\n".join(told)


def test_a_history_is_the_same_each_time_and_is_never_recorded_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert history() == history()
    assert main([versions()[-1].name]) == 1
    assert "never changed" in capsys.readouterr().err


# --- an event on its way through three versions -----------------------------------------------------------------------


class Size(msgspec.Struct, frozen=True, kw_only=True):
    grams: int


class ParcelSentV1(Event, frozen=True):
    """What the first version stored."""

    receiver: str
    kilograms: int


class ParcelSentV2(Event, frozen=True, kw_only=True):
    """`receiver` became `name` and `town`."""

    name: str
    town: str = ""
    kilograms: int


class ParcelSent(Event, frozen=True, kw_only=True):
    """As it is now: a size of its own, and a carrier that used to be always the same."""

    schema_version: ClassVar[int] = 3

    name: str
    town: str = ""
    size: Size
    carrier: str = "unknown"

    @staticmethod
    def upcast_1(fields: Fields) -> Fields:
        """1 had `receiver`, written "name, town"."""
        name, _, town = str(fields.pop("receiver")).partition(", ")
        return {**fields, "name": name, "town": town}

    @staticmethod
    def upcast_2(fields: Fields) -> Fields:
        """2 had whole `kilograms`, and there was one carrier."""
        kilograms = cast("int", fields.pop("kilograms"))
        return {**fields, "size": {"grams": kilograms * 1000}, "carrier": "post"}


class Parcels(msgspec.Struct, frozen=True, kw_only=True):
    sent: tuple[str, ...] = ()


def apply_parcel(state: Parcels, event: ParcelSent, at: int) -> Parcels:
    line = f"{event.name} in {event.town}: {event.size.grams} g by {event.carrier}"
    return Parcels(sent=(*state.sent, line))


def record(event: Event, version: int, number: int = 1) -> EventRecord:
    return EventRecord(
        "parcel/1", number, "ParcelSent", version, f"parcel/1@{number}", 0, "c", "c", "", "tester", "", "",
        encode_event(event),
    )  # fmt: skip


@pytest.fixture
def parcels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry with one more aggregate, made known as the others are."""
    aggregate = Aggregate(
        kind="parcel", state=Parcels, events=(ParcelSent,), command=None, apply=apply_parcel, decide=lambda s, c, m: []
    )
    monkeypatch.setitem(AGGREGATES, "parcel", aggregate)
    monkeypatch.setitem(EVENT_TYPES, "ParcelSent", ParcelSent)
    decode = msgspec.msgpack.Decoder(ParcelSent).decode
    monkeypatch.setitem(registry.BODY_DECODERS, "ParcelSent", (decode, ParcelSent.schema_version))
    for step, upcaster in collect_upcasters([ParcelSent]).items():
        monkeypatch.setitem(registry.UPCASTERS, step, upcaster)


@pytest.mark.usefixtures("parcels")
def test_one_stream_written_by_three_versions_folds_as_one() -> None:
    records = [
        record(ParcelSentV1(receiver="Ann, Oslo", kilograms=2), 1, 1),
        record(ParcelSentV2(name="Bob", town="Bergen", kilograms=1), 2, 2),
        record(ParcelSent(name="Cyd", size=Size(grams=250), carrier="courier"), 3, 3),
    ]

    state = fold("parcel/1", records)

    assert state == Parcels(
        sent=("Ann in Oslo: 2000 g by post", "Bob in Bergen: 1000 g by post", "Cyd in : 250 g by courier")
    )


@pytest.mark.usefixtures("parcels")
@pytest.mark.parametrize("version", [0, 4])
def test_a_version_that_is_none_of_ours_is_not_guessed_at(version: int) -> None:
    with pytest.raises(UnknownEventError, match=f"from 1 to 3, found version {version}.*upgrade"):
        decode_event(record(ParcelSent(name="Ann", size=Size(grams=1)), version))


def test_a_type_that_is_none_of_ours_is_not_guessed_at() -> None:
    with pytest.raises(UnknownEventError, match=r"found 'ParcelSent'.*upgrade"):
        decode_event(record(ParcelSent(name="Ann", size=Size(grams=1)), 1))


def test_a_class_without_a_step_for_each_version_cannot_be_imported() -> None:
    class Lost(Event, frozen=True):
        schema_version: ClassVar[int] = 3

        @staticmethod
        def upcast_2(fields: Fields) -> Fields:
            return fields

    class Forgot(Event, frozen=True):
        @staticmethod
        def upcast_1(fields: Fields) -> Fields:
            return fields

    with pytest.raises(EvolutionError, match="expected the static methods upcast_1, upcast_2, found upcast_2"):
        collect_upcasters([Lost])
    with pytest.raises(EvolutionError, match="expected the static methods none, found upcast_1"):
        collect_upcasters([Forgot])


# --- the guard itself -------------------------------------------------------------------------------------------------


def complaint(before: type[Event], after: type[Event], *, version: int = 1) -> str:
    told = complaints({"E": shape_of(before)}, {"E": msgspec.structs.replace(shape_of(after), schema_version=version)})
    return "\n".join(told)


class Plain(Event, frozen=True):
    name: str
    size: Size = Size(grams=0)


def test_the_guard_names_the_field_and_what_to_do() -> None:
    class Renamed(Event, frozen=True):
        title: str
        size: Size = Size(grams=0)

    told = complaint(Plain, Renamed)

    assert "name: str → (none)" in told and "title: (none) → str" in told
    assert "schema_version: ClassVar[int] = 2" in told and "upcast_1" in told and "tests.events.model.record" in told


def test_the_guard_sees_another_default_and_a_change_inside_a_part() -> None:
    """A field that has its default is not stored: with another default, old events would mean something else."""

    class OtherDefault(Event, frozen=True):
        name: str
        size: Size = Size(grams=1)

    other_size = msgspec.defstruct("Size", [("kilograms", int)], frozen=True, kw_only=True)
    size = ("size", other_size, other_size(kilograms=0))
    other_part = cast("type[Event]", msgspec.defstruct("E", [("name", str), size], bases=(Event,)))

    assert "Size(grams=0) → Size = Size(grams=1)" in complaint(Plain, OtherDefault)
    assert "Size.grams: int → (none)" in complaint(Plain, other_part)


def test_the_guard_lets_nothing_new_or_gone_pass_and_is_content_with_what_is_recorded() -> None:
    shape = shape_of(Plain)

    assert complaint(Plain, Plain) == ""
    assert "record vN" in complaint(Plain, Plain, version=2), "a new version must be recorded"
    assert "is new" in complaints({}, {"E": shape})[0]
    assert "keep its class" in complaints({"E": shape}, cast("dict[str, Recorded]", {}))[0]
