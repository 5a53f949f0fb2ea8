"""What the fold's and the recovery's benchmarks fold: whole histories of the size they say, the same for their peer."""

from uuid import NAMESPACE_URL, uuid5

from benchmarks.partitions import idle_components, idle_stream, partition
from benchmarks.peers.eventsourcing_fold import filled
from benchmarks.peers.eventsourcing_stream import frozen
from events.log.records import EventRecord
from events.model.base import Meta, Refusal
from events.model.component import decide
from events.model.component_commands import ChangeSpec
from events.model.component_parts import ComponentState
from events.model.registry import aggregate_of, fold

EVENTS = 3000


def by_stream(commands: list[list[EventRecord]]) -> dict[str, list[EventRecord]]:
    streams: dict[str, list[EventRecord]] = {}
    for command in commands:
        for record in command:
            streams.setdefault(record.stream, []).append(record)
    return streams


def test_a_partition_is_as_long_as_asked_for_but_for_one_life_at_most() -> None:
    count = sum(map(len, partition(events=EVENTS, streams_of=100, templates=3, at_once=8)))
    assert EVENTS <= count < EVENTS + 300


def test_the_peer_comes_to_the_same_states_from_events_and_from_snapshots() -> None:
    streams = by_stream(list(partition(events=EVENTS)))
    for snapshots in (False, True):
        with filled("sqlite", EVENTS, snapshots=snapshots) as (application, ids):
            assert ids == [uuid5(NAMESPACE_URL, stream) for stream in streams]
            for ident, (stream, own) in zip(ids, streams.items(), strict=True):
                assert frozen(application.repository.get(ident)) == fold(stream, own)


def test_a_change_of_an_idle_component_leaves_nothing_under_way() -> None:
    streams = by_stream(list(idle_components(3)))
    assert list(streams) == [idle_stream(number) for number in range(3)]
    state = fold(idle_stream(2), streams[idle_stream(2)])
    assert isinstance(state, ComponentState)
    for number in range(2):
        meta = Meta(command_id=f"c{number}", at=number)
        events = decide(state, ChangeSpec(config_set={"A": str(number)}), meta)
        assert not isinstance(events, Refusal) and len(events) == 3
        for event in events:
            state = aggregate_of(idle_stream(2)).apply(state, event, number)
    assert state.operation is None and state.spec.config == {"A": "1"}
