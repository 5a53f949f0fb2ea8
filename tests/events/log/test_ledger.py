"""What a partition's owner remembers: exactly the newest commands, their first results, and the versions of streams."""

import pytest

from events.log.codec import BatchHeader, CommandSpan, StreamSpan
from events.log.errors import VersionConflict
from events.log.ledger import RUN_COMMANDS, CommandLedger, StreamVersions
from events.log.records import Position


def header(base: int, *names: str, events_each: int = 1) -> BatchHeader:
    """A batch in which each command wrote so many events."""
    spans = tuple(
        CommandSpan(name, index * events_each, (index + 1) * events_each - 1, base + index)
        for index, name in enumerate(names)
    )
    return BatchHeader(
        format=2,
        partition=3,
        base=base,
        count=len(names) * events_each,
        epoch=1,
        txn_id="t",
        t_min=0,
        t_max=0,
        streams=(),
        commands=spans,
        compression="",
        body_bytes=0,
    )


@pytest.mark.parametrize("batch", [1, 7, 100, RUN_COMMANDS + 1])
def test_exactly_the_newest_commands_are_remembered_whatever_the_size_of_batches(batch: int) -> None:
    ledger, window, total = CommandLedger(3, 1_000), 1_000, 20 * batch + 1_500
    names = [f"c{number}" for number in range(total)]
    for base in range(0, total, batch):
        ledger.record_header(header(base, *names[base : base + batch]))
    assert len(ledger) == window
    assert ledger.find(f"c{total - window - 1}") is None
    for number in range(total - window, total):
        found = ledger.find(f"c{number}")
        assert found is not None
        assert (found.first, found.last, found.duplicate) == (Position(3, number), Position(3, number), True)
    assert [(name, place[:2]) for name, place in ledger.entries()] == [
        (f"c{number}", (number, number)) for number in range(total - window, total)
    ]


def test_a_command_of_several_events_is_found_with_its_first_and_last() -> None:
    ledger = CommandLedger(3)
    ledger.record_header(header(10, "a", "b", events_each=4))
    found = ledger.find("b")
    assert found is not None
    assert (found.first, found.last, found.version) == (Position(3, 14), Position(3, 17), 11)


def test_a_first_result_stays_while_its_id_is_remembered_and_no_longer() -> None:
    ledger = CommandLedger(3, 4)
    ledger.record_header(header(0, "a", "b"))
    ledger.record_header(header(2, "c", "a", "d"))
    found = ledger.find("a")
    assert found is not None
    assert found.first.offset == 0
    ledger.record_header(header(5, "e"))
    assert ledger.find("a") is None
    ledger.record_header(header(6, "a"))
    again = ledger.find("a")
    assert again is not None
    assert again.first.offset == 6
    assert [name for name, _ in ledger.entries()] == ["c", "d", "e", "a"]


def test_what_was_remembered_at_a_moment_stays_and_restores_a_ledger_like_it() -> None:
    ledger = CommandLedger(3, 1_200)
    for base in range(0, 2_000, 40):
        ledger.record_header(header(base, *(f"c{number}" for number in range(base, base + 40))))
    then = ledger.entries()
    names = [f"c{number}" for number in range(800, 2_000)]
    ledger.record_header(header(2_000, *(f"d{number}" for number in range(500))))
    assert len(then) == 1_200
    assert [name for name, _ in then] == names
    restored, smaller = CommandLedger(3, 1_200), CommandLedger(3, 100)
    restored.restore(then)
    assert restored.entries() == then
    smaller.restore(then)
    assert [name for name, _ in smaller.entries()] == names[-100:]
    assert smaller.find("c1999") == restored.find("c1999")


def test_a_ledger_without_a_window_remembers_nothing() -> None:
    ledger = CommandLedger(3, 0)
    ledger.record_header(header(0, "a"))
    assert (len(ledger), ledger.find("a"), list(ledger.entries())) == (0, None, [])


def test_versions_of_the_newest_streams_are_judged_after_many_others_were_seen() -> None:
    versions = StreamVersions(10)
    versions.restore((f"s/{number}", 5) for number in range(15))
    versions.advance([StreamSpan("s/14", 6, 7)])
    for number in range(20, 29):
        versions.advance([StreamSpan(f"s/{number}", 1, 1)])
    with pytest.raises(VersionConflict, match="s/14"):
        versions.advance([StreamSpan("s/20", 2, 2), StreamSpan("s/14", 7, 7)])
    # The refused one changed nothing, not even of the stream that it continued.
    versions.advance([StreamSpan("s/20", 2, 2), StreamSpan("s/14", 8, 8)])
