"""Folding batches of columns gives what folding record by record gives, for whole lives of every kind of stream."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.histories import World, component_life, platform_life
from benchmarks.partitions import partition
from events.log.codec import check_command, decode_facts, encode_batch
from events.log.columns import facts_of
from events.log.errors import LogBroken
from events.log.records import EventRecord, Position
from events.log.runs import Runs, encode_runs
from events.model.base import Event
from events.model.component_events import ComponentCreated, InstanceStarting, RolloutStarted, RolloutSucceeded
from events.model.component_fold import DRAFTING, apply
from events.model.component_parts import (
    ComponentState,
    ComponentStatus,
    InstanceKind,
    Operation,
    Phase,
    RouteSpec,
    Slot,
    Spec,
    Task,
)
from events.model.folding import PartitionFold
from events.model.operation import OperationCancelled
from events.model.registry import AGGREGATES, EVENT_TYPES, apply_record, fold, initial_state


def batches(records: Sequence[EventRecord], sizes: Sequence[int]) -> list[tuple[int, bytes]]:
    """`records` as stored, in batches of these sizes, the last of them repeated."""
    values: list[tuple[int, bytes]] = []
    base = 0
    for size in [*sizes, *([sizes[-1]] * len(records))]:
        part = records[base : base + size]
        if not part:
            break
        commands = [check_command(record.event_id, [record]) for record in part]
        _, value = encode_batch(partition=0, base=base, epoch=1, txn_id="t", previous=b"", commands=commands)
        values.append((base, value))
        base += len(part)
    return values


def folded(values: Sequence[tuple[int, bytes]], into: PartitionFold | None = None) -> PartitionFold:
    into = into or PartitionFold()
    for base, value in values:
        into.add(decode_facts(value, Position(0, base)))
    return into


def folded_by_stream(
    records: Sequence[EventRecord], into: PartitionFold | None = None, *, base: int = 0
) -> PartitionFold:
    """The same from a segment's runs: `records` from offset `base` on."""
    into = into or PartitionFold()
    facts = [facts_of(records[base:], base=base)]
    section = memoryview(encode_runs(facts))
    into.add_runs(Runs(partition=0, base=base, end=len(records), location="here", section=section))
    return into


def told(fold: PartitionFold) -> dict[str, tuple[object, ...]]:
    """All that is known of each stream."""
    return {
        stream: (found.state, found.version, found.last_offset, found.poisoned and vars(found.poisoned))
        for stream, found in fold.states.items()
    }


def by_stream(records: Sequence[EventRecord]) -> dict[str, list[EventRecord]]:
    streams: dict[str, list[EventRecord]] = {}
    for record in records:
        streams.setdefault(record.stream, []).append(record)
    return streams


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 120), min_size=1, max_size=6), whole=st.booleans())
def test_a_fold_of_batches_is_the_plain_fold(seed: int, sizes: list[int], whole: bool) -> None:
    records = platform_life(seed) if whole else component_life(seed, events=300)
    result = folded(batches(records, sizes))
    streams = by_stream(records)
    assert result.next_offset == len(records)
    assert result.states.keys() == streams.keys()
    for stream, own in streams.items():
        assert result.states[stream].state == fold(stream, own)
        assert result.states[stream].version == len(own)
        assert records[result.states[stream].last_offset] == own[-1]


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 0.9), whole=st.booleans())
def test_a_fold_of_runs_is_the_fold_of_their_batches(seed: int, share: float, whole: bool) -> None:
    records = platform_life(seed) if whole else component_life(seed, events=300)
    base = int(len(records) * share)
    wanted = folded(batches(records, [50]))
    result = folded_by_stream(records, folded(batches(records[:base], [50])) if base else None, base=base)
    assert (result.next_offset, told(result)) == (wanted.next_offset, told(wanted))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_of_runs_too_a_stream_is_set_aside_and_the_others_go_on(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    records = component_life(3, events=300)
    own = [record for record in records if record.stream.startswith("component/")]
    victim = own[int(len(own) * share)]
    step = DRAFTING.steps[EVENT_TYPES[victim.type]]

    def boom(draft: ComponentState, event: Event, at: int) -> None:
        if draft.version == victim.version:
            raise RuntimeError("poison")
        step(draft, event, at)

    monkeypatch.setitem(DRAFTING.steps, EVENT_TYPES[victim.type], boom)  # type: ignore[arg-type]
    of_batches, of_runs = PartitionFold(), PartitionFold()
    of_batches.tolerant = of_runs.tolerant = True
    folded(batches(records, [50]), of_batches)
    folded_by_stream(records, of_runs)
    assert told(of_runs) == told(of_batches)
    assert [*of_runs.poisoned] == [victim.stream]
    assert of_runs.poisoned[victim.stream].behind == len(own) - victim.version
    with pytest.raises(RuntimeError, match="poison"):
        folded_by_stream(records, PartitionFold())


def test_what_comes_for_a_poisoned_stream_in_the_next_segment_is_held_too(monkeypatch: pytest.MonkeyPatch) -> None:
    records = component_life(3, events=300)
    own = [record for record in records if record.stream.startswith("component/")]

    def boom(draft: ComponentState, event: Event, at: int) -> None:
        raise RuntimeError("poison")

    monkeypatch.setitem(DRAFTING.steps, ComponentCreated, boom)  # type: ignore[arg-type]
    fold = PartitionFold()
    fold.tolerant = True
    folded_by_stream(records[:100], fold)
    folded_by_stream(records, fold, base=100)
    assert fold.next_offset == len(records)
    assert fold.poisoned[own[0].stream].behind == len(own) - 1


def test_runs_that_leave_a_gap_are_refused() -> None:
    records = component_life(3, events=60)
    fold = folded(batches(records[:20], [50]))
    with pytest.raises(LogBroken, match="expected a segment from offset 20 on, found one from 30"):
        folded_by_stream(records, fold, base=30)
    other = msgspec.structs.replace(records[20], version=records[20].version + 1)
    with pytest.raises(LogBroken, match=f"expected version {records[20].version} at offset 20, found {other.version}"):
        folded_by_stream([*records[:20], other], fold, base=20)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 120), min_size=1, max_size=6), whole=st.booleans())
def test_a_state_read_during_a_fold_is_that_of_its_version_and_stays_so(
    seed: int, sizes: list[int], whole: bool
) -> None:
    records = platform_life(seed) if whole else component_life(seed, events=300)
    streams = by_stream(records)
    into = PartitionFold()
    read: list[tuple[str, int, msgspec.Struct]] = []
    for value in batches(records, sizes):
        folded([value], into)
        read += [(stream, one.version, one.state) for stream, one in into.states.items()]
    for stream, version, state in read:
        assert state == fold(stream, streams[stream][:version])


def test_an_event_of_another_kind_is_refused_by_name() -> None:
    component = next(record for record in component_life(1) if record.stream.startswith("component/"))
    member = next(record for record in platform_life(1) if record.type == "NodeJoined")
    stray = msgspec.structs.replace(member, stream=component.stream, version=2)
    with pytest.raises(TypeError, match="not an event of a component: NodeJoined"):
        folded(batches([component, stray], [2]))
    with pytest.raises(TypeError, match="not an event of a component: NodeJoined"):
        fold(component.stream, [component, stray])


@pytest.mark.parametrize(
    "event",
    [
        InstanceStarting(instance="i", release=1, node="n", slot=1, kind=InstanceKind.TASK, task="unknown"),
        InstanceStarting(instance="i", release=99, node="n", slot=1),
        OperationCancelled(operation="o", reason="late"),
        RolloutStarted(operation="o", release=99, deadline_at=1),
        RolloutSucceeded(operation="o", release=99),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_step_that_fails_leaves_its_draft_as_it_was(event: Event) -> None:
    lost = Operation(id="o", kind="deploy", phase=Phase.STARTING, started_at=1, release=99, parent_stream="component/p")
    component = next(record.stream for record in component_life(1) if record.stream.startswith("component/"))
    state = fold(component, by_stream(component_life(1))[component])
    state = msgspec.structs.replace(state, operation=lost, slots={"f:1": Slot(failures=1)})
    draft = DRAFTING.thaw(state)
    with pytest.raises(KeyError):
        DRAFTING.steps[type(event)](draft, event, 2)
    assert DRAFTING.freeze(draft) == state


def test_a_component_of_a_name_that_was_used_begins_anew() -> None:
    records = component_life(1)
    stream = next(record.stream for record in records if record.stream.startswith("component/"))
    earlier = fold(stream, by_stream(records)[stream])
    assert isinstance(earlier, ComponentState)
    earlier = msgspec.structs.replace(
        earlier,
        tasks={"o": Task(command="x")},
        slots={"f:1": Slot(failures=1)},
        drained=("i",),
        claims=(RouteSpec("h"),),
    )
    created = ComponentCreated(service_id="s", team="t", app="a", name="n", process="p", spec=Spec(scale=2))
    expected = ComponentState(
        status=ComponentStatus.ACTIVE,
        service_id="s",
        team="t",
        app="a",
        name="n",
        process="p",
        spec=Spec(scale=2),
        version=earlier.version + 1,
        releases=earlier.releases,
        born_after=earlier.last_release,
        last_release=earlier.last_release,
        started_instances=earlier.started_instances,
        claims=earlier.claims,
        doubtful=earlier.doubtful,
        applied_version=earlier.applied_version,
        routing_version=earlier.routing_version,
        abandoned=earlier.abandoned,
        ticked_until=earlier.ticked_until,
    )
    assert apply(earlier, created, 1) == expected
    draft = DRAFTING.thaw(earlier)
    draft.version += 1
    DRAFTING.steps[ComponentCreated](draft, created, 1)
    assert DRAFTING.freeze(draft) == expected


def test_the_histories_hold_every_kind_of_stream_and_most_events() -> None:
    records = [record for seed in range(6) for record in (*platform_life(seed), *component_life(seed))]
    assert {record.stream.partition("/")[0] for record in records} == AGGREGATES.keys()
    missing = EVENT_TYPES.keys() - {record.type for record in records}
    # What needs a second process type, a deadline that passes, or a change before the first release.
    assert missing <= {
        "SiblingsRequested", "SiblingEnded", "ParentTold", "OperationTimedOut", "OperationCancelled", "SpecChanged",
        "BuildTimedOut", "BuildCancelled", "BuildCancelRequested", "CancelRequested", "RolloutFailed", "TeamDeleted",
        "TeamKeyDestructionRequested", "TeamKeyDestroyed", "HandlingTried", "HandlingSucceeded", "ParkedSkipped",
        "PlacementSet", "TeamLogRulesChanged", "BuildAbandoned", "AbandonedBuildTold", "RetentionSet",
        "CronSkipped", "TeamCredentialAdded", "TeamCredentialRemoved", "TeamHostKeysPinned", "TeamHostKeysUnpinned",
    }  # fmt: skip


def test_every_event_of_a_component_counts_one_version_and_leaves_the_state_before_alone() -> None:
    state = initial_state("component/0")
    for record in component_life(11, events=400):
        if record.stream.startswith("component/"):
            assert isinstance(state, ComponentState)
            before = repr(state)
            after = apply_record(state, record)
            assert isinstance(after, ComponentState)
            assert repr(state) == before
            assert after.version == state.version + 1
            state = after


def test_the_same_seed_gives_the_same_history() -> None:
    assert component_life(3) == component_life(3)
    assert component_life(3) != component_life(4)
    assert World(seed=1).records == []


def test_a_renamed_life_folds_to_the_same_under_its_own_name() -> None:
    commands = partition(events=3000, streams_of=100, templates=3, at_once=8)
    records = [record for command in commands for record in command]
    for stream, own in by_stream(records).items():
        state = fold(stream, own)
        if isinstance(state, ComponentState):
            assert stream == f"component/{state.service_id}"
            assert state.operation is None or state.operation.id
            assert all(key.startswith(state.service_id) for key in state.instances)


def test_what_was_folded_already_is_passed_over_and_a_gap_is_refused() -> None:
    records = component_life(1)
    values = batches(records, [10])
    part = folded(values[:2])
    again = folded(values[1:3], part)
    assert again.next_offset == 30
    with pytest.raises(LogBroken, match="expected a batch that holds offset 30, found one from 50 on"):
        folded(values[5:6], part)


def test_a_missing_version_is_refused_and_named() -> None:
    records = component_life(1)
    values = batches([records[0], records[2]], [2])
    with pytest.raises(LogBroken, match="expected version 2 at offset 1, found 3"):
        folded(values)
