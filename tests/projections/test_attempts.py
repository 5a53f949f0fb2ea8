"""What is noted of each try, and what of it the next process takes as true."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from events.hand import Hand
from events.log.records import Position, StoredEvent
from projections.attempts import ATTEMPTS_MOST, DIED, NOTE_BYTES, NOTE_VERSION, NOTED_TRIES, Attempts, Gathered, Span
from tests.projections.recorder import Recorder
from tests.projections.test_projector import node

AT = Position(3, 7)

_dead: list[AbstractContextManager[None]] = []  # what is let go of ends; what died does not


def leave_in_doubt(attempts: Attempts, span: Span) -> None:
    batch = attempts.of([span])
    batch.__enter__()
    _dead.append(batch)


def some(partition: int, first: int, count: int) -> list[StoredEvent]:
    recorder = Recorder()
    return [StoredEvent(Position(partition, first + n), 0, node(recorder, f"n{n}")) for n in range(count)]


def died_at(hand: Path, position: Position = AT, projection: str = "nodes", *, batch: Span | None = None) -> None:
    """A process that took an event and never came back."""
    attempts = Attempts(hand)
    leave_in_doubt(attempts, batch or Span(position.partition, position.offset, position.offset + 1))
    attempts.begin(projection, position)


def shape(gathered: Gathered) -> dict[int, list[int]]:
    return {p: [s.position.offset for s in events] for p, events in gathered.items()}


@pytest.fixture
def hand(tmp_path: Path) -> Path:
    return tmp_path / "projector-1.hand"


def test_three_deaths_give_an_event_up(hand: Path) -> None:
    events = {3: some(3, 5, 5)}
    for _ in range(ATTEMPTS_MOST):
        assert Attempts(hand).given_up(events) == []
        died_at(hand)
    (poison,) = Attempts(hand).given_up(events)
    assert (poison.projection, poison.stored.position) == ("nodes", AT)
    assert (poison.attempts, poison.error) == (ATTEMPTS_MOST, DIED)
    assert Attempts(hand).given_up({3: some(3, 8, 5), 2: some(2, 5, 5)}) == []


def test_three_deaths_at_different_events_or_models_give_none_up(hand: Path) -> None:
    for offset in (5, 6, 7):
        died_at(hand, Position(3, offset))
    died_at(hand, AT, "instances")
    died_at(hand, AT, "releases")
    assert Attempts(hand).given_up({3: some(3, 0, 20)}) == []


def test_what_was_folded_is_forgotten_wherever_it_was_folded(hand: Path) -> None:
    for _ in range(ATTEMPTS_MOST):
        died_at(hand, batch=Span(3, 0, 10))
    attempts = Attempts(hand)
    attempts.reached({("nodes", 3): 7, ("instances", 3): 30, ("nodes", 2): 30})
    assert attempts.given_up({3: some(3, 0, 20)})
    attempts.reached({("nodes", 3): 10, ("instances", 3): 30})
    for known in (attempts, Attempts(hand)):
        assert known.given_up({3: some(3, 0, 20)}) == []
        assert [alone for _, alone in known.portions({3: some(3, 0, 20)})] == [False]


def test_only_what_was_being_folded_is_folded_event_by_event(hand: Path) -> None:
    died_at(hand, Position(3, 2), batch=Span(3, 1, 4))
    found = list(Attempts(hand).portions({2: some(2, 0, 3), 3: some(3, 1, 6)}))
    assert [(shape(portion), alone) for portion, alone in found] == [
        ({3: [1]}, True),
        ({3: [2]}, True),
        ({3: [3]}, True),
        ({2: [0, 1, 2], 3: [4, 5, 6]}, False),
    ]


def test_a_death_as_a_batch_is_written_is_no_events_try(hand: Path) -> None:
    for _ in range(ATTEMPTS_MOST):
        attempts = Attempts(hand)
        leave_in_doubt(attempts, Span(3, 5, 9))
        attempts.begin("nodes", AT)
        attempts.end()
    assert Attempts(hand).given_up({3: some(3, 5, 5)}) == []
    assert [alone for _, alone in Attempts(hand).portions({3: some(3, 5, 5)})] == [True] * 4 + [False]


def test_while_all_goes_well_nothing_stays_noted(hand: Path) -> None:
    attempts = Attempts(hand)
    with attempts.of([Span(3, 5, 9)]):
        attempts.begin("nodes", AT)
        attempts.end()
    assert Hand(hand).left == b""
    assert Hand(hand.with_suffix(".batch"), size=NOTE_BYTES).left == b""


def test_without_a_file_failures_are_counted_all_the_same() -> None:
    attempts = Attempts()
    for number in range(1, ATTEMPTS_MOST + 1):
        attempts.begin("nodes", AT)
        assert attempts.failed("nodes", AT, "cannot fold this") == number
    assert [poison.error for poison in attempts.given_up({3: some(3, 5, 5)})] == ["cannot fold this"]


def test_the_newest_failures_are_noted_where_there_are_too_many(hand: Path) -> None:
    attempts = Attempts(hand)
    for offset in range(NOTED_TRIES + 5):
        for _ in range(ATTEMPTS_MOST):
            attempts.failed("nodes", Position(3, offset), "\U0001f4a5" * 2000)
    assert len(attempts.given_up({3: some(3, 0, 100)})) == NOTED_TRIES + 5
    assert [p.stored.position.offset for p in Attempts(hand).given_up({3: some(3, 0, 100)})] == list(
        range(5, NOTED_TRIES + 5)
    )


def _note(words: bytes) -> Callable[[Path], object]:
    return lambda hand: Hand(hand.with_suffix(".batch"), size=NOTE_BYTES).take(words)


def _raw(suffix: str, content: bytes) -> Callable[[Path], object]:
    return lambda hand: hand.with_suffix(suffix).write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        _raw(".batch", b""),
        _raw(".batch", b"\xff" * 5),
        _raw(".batch", b"\xff" * NOTE_BYTES),
        _note(b"no such thing"),
        _note(msgspec.msgpack.encode([NOTE_VERSION + 1, [], [["nodes", 3, 7, 2, ""]]])),
        _note(msgspec.msgpack.encode([NOTE_VERSION, [["three", 1, 2]], []])),
    ],
)
def test_a_note_that_cannot_be_read_counts_as_none_and_the_next_is_kept(
    hand: Path, damage: Callable[[Path], object]
) -> None:
    died_at(hand)
    died_at(hand)
    damage(hand)
    events = {3: some(3, 5, 5)}
    for _ in range(ATTEMPTS_MOST - 1):  # what it had in hand stands in the other file
        assert Attempts(hand).given_up(events) == []
        died_at(hand)
    assert len(Attempts(hand).given_up(events)) == 1


@pytest.mark.parametrize("left", [b"", b"x", b"x" * 12, b"\xff" * 40, b"\x01" + b"\xff" * 40])
def test_words_in_hand_that_mean_nothing_give_nothing_up(hand: Path, left: bytes) -> None:
    for _ in range(ATTEMPTS_MOST):
        Hand(hand).take(left)
        Attempts(hand)
    assert Attempts(hand).given_up({3: some(3, 5, 5)}) == []
    assert next(Attempts(hand).portions({3: some(3, 5, 1)}))[1] is False
