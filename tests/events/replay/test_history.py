"""Any past state of anything can be shown, compared and explained."""

from pathlib import Path

import pytest

import events.replay.history as history_module
from events.log.memory import MemoryEventLog
from events.model.component_parts import ComponentState
from events.model.registry import apply_record, initial_state
from events.replay.diffing import Change, diff
from events.replay.errors import NoSuchMoment, NoSuchStream
from events.replay.export import export
from events.replay.history import Replayed, compare, history, state_of
from events.replay.imported import HistoryFile
from events.replay.past import Past
from tests.projections.recorder import WEB, Recorder, log_of, tell_component, tell_everything

STREAM = f"component/{WEB}"


async def told() -> tuple[MemoryEventLog, ComponentState]:
    recorder = Recorder()
    world = tell_component(recorder)
    tell_component(recorder, "theirs", team="other")
    return await log_of(recorder.records, partitions=2), world.state


async def state_at(log: MemoryEventLog, stream: str, **moment: int) -> Replayed:
    return state_of(stream, await history(log, stream), **moment)


async def test_the_present_state_is_what_the_story_ended_with() -> None:
    log, state = await told()
    now = await state_at(log, STREAM)
    assert now.state == state
    assert (now.kind, now.version) == ("component", state.version)
    assert now.last_event is not None
    assert now.last_event.type == "OperationSucceeded"
    assert now.plain()["state"]["current"] == state.current  # type: ignore[index,call-overload]


async def test_a_moment_may_be_a_time_an_offset_or_a_version() -> None:
    log, _ = await told()
    events = await history(log, STREAM)
    third = events[2]
    by_version = await state_at(log, STREAM, version=3)
    assert by_version.at == third.record.at
    assert by_version.position == third.position
    assert await state_at(log, STREAM, offset=third.position.offset) == by_version
    last_of_that_time = max(e.record.version for e in events if e.record.at <= third.record.at)
    assert (await state_at(log, STREAM, at=third.record.at)).version == last_of_that_time
    before = await state_at(log, STREAM, at=events[0].record.at - 1)
    assert (before.version, before.state, before.last_event) == (0, ComponentState(), None)


@pytest.mark.parametrize("as_file", [False, True])
async def test_an_offset_that_the_partition_has_not_reached_is_refused(tmp_path: Path, as_file: bool) -> None:
    past: Past
    past = log = await log_of(tell_everything(), partitions=1)
    if as_file:
        path = tmp_path / "all.jsonl"
        path.write_bytes(b"".join([block async for block in export(log, None, rayfold="test", now=0)]))
        past = HistoryFile.open(path)
    stream = "node/node1"
    events = await history(past, stream)
    tail = await past.tail(0)
    assert tail > events[-1].position.offset + 1, "other streams' events came after the last of this one"

    assert (await history_module.state_at(past, stream, events, offset=tail - 1)).version == len(events)
    for beyond in (tail, 99_999, 10**21):
        with pytest.raises(NoSuchMoment, match=f"expected an offset below {tail} of partition 0, found"):
            await history_module.state_at(past, stream, events, offset=beyond)


async def test_every_version_is_the_fold_of_what_came_before() -> None:
    log, _ = await told()
    events = await history(log, STREAM)
    state = initial_state(STREAM)
    for stored in events:
        assert state_of(STREAM, events, version=stored.record.version - 1).state == state
        state = apply_record(state, stored.record)
        assert state_of(STREAM, events, version=stored.record.version).state == state


async def test_a_moment_that_never_was_is_refused() -> None:
    log, _ = await told()
    with pytest.raises(NoSuchMoment, match="expected a version from 0 to"):
        await state_at(log, STREAM, version=10_000)
    with pytest.raises(NoSuchMoment, match="give one"):
        await state_at(log, STREAM, version=1, at=1)
    with pytest.raises(NoSuchStream, match="found none"):
        await state_at(log, "team/nobody")
    with pytest.raises(NoSuchStream, match="expected a stream like"):
        await state_at(log, "planet/mars")


async def test_a_difference_names_what_changed_between_two_moments() -> None:
    log, _ = await told()
    events = await history(log, STREAM)
    numbers = [e.record.version for e in events if e.record.type == "RolloutSucceeded"]
    scaled, configured = (state_of(STREAM, events, version=v) for v in numbers[1:3])
    difference = compare(scaled, configured)
    changes = {c.path: c for c in difference.changes}
    assert changes["spec.config.KEY"] == Change(path="spec.config.KEY", kind="added", after="value")
    assert (changes["current"].before, changes["current"].after) == (2, 3)
    assert "spec.scale" not in changes
    assert difference.plain()["before"] == {
        "version": scaled.version, "position": list(scaled.position or ()), "at": scaled.at,
    }  # fmt: skip
    assert compare(scaled, scaled).changes == []


def test_a_difference_is_stable_and_counts_numbers_as_numbers() -> None:
    before = {"b": 1, "a": {"9": 1, "10": 1}, "list": [1, 2, 3], "x.y": 1, "same": [1]}
    after = {"a": {"10": 2, "9": 2}, "list": [1, 5], "x.y": 2, "same": [1], "z": None}
    assert [(c.path, c.kind) for c in diff(before, after)] == [
        ("a.9", "changed"),
        ("a.10", "changed"),
        ("b", "removed"),
        ("list.1", "changed"),
        ("list.2", "removed"),
        ('"x.y"', "changed"),
        ("z", "added"),
    ]
    assert diff(before, before) == []
    assert diff({"a": 1}, {"a": True}) == [Change(path="a", kind="changed", before=1, after=True)]
