"""Event by event: what each changed, which one set a field, and what led to it."""

import pytest

from events.log.memory import MemoryEventLog
from events.log.records import EventRecord, StoredEvent
from events.model.base import Event
from events.model.build import BuildSucceeded
from events.model.component_events import DeployRequested
from events.model.registry import encode_event
from events.model.route import RouteClaimed
from events.replay.causes import Cause, Causes
from events.replay.diffing import MISSING, Change, diff, join_path, lookup, split_path, to_plain
from events.replay.errors import NoSuchField, NoSuchMoment
from events.replay.history import compare, history, state_of, states_of
from events.replay.steps import steps
from events.replay.why import attribute, why
from tests.projections.recorder import START, WEB, Recorder, log_of, tell_component, tell_everything

STREAM = f"component/{WEB}"


async def told() -> list[StoredEvent]:
    recorder = Recorder()
    tell_component(recorder)
    return await history(await log_of(recorder.records), STREAM)


async def test_each_step_goes_from_one_state_to_the_next() -> None:
    events = await told()
    states = states_of(STREAM, events)

    walked = list(steps(STREAM, events))

    assert [step.event for step in walked] == events
    for number, step in enumerate(walked):
        assert (step.before, step.after) == (states[number], states[number + 1])
        assert step.changes() == diff(to_plain(step.before), to_plain(step.after))
        assert "version" in {change.path for change in step.changes()}
    some = list(steps(STREAM, events, first=5, last=7))
    assert [step.event.record.version for step in some] == [5, 6, 7]
    assert some[0].before == states[4]


@pytest.mark.parametrize(("first", "last"), [(0, 3), (5, 4), (1, 10_000)])
async def test_bounds_that_the_stream_does_not_have_are_refused(first: int, last: int) -> None:
    with pytest.raises(NoSuchMoment, match="expected versions from 1 to"):
        steps(STREAM, await told(), first=first, last=last)


async def test_a_field_names_the_event_that_set_it_and_its_whole_story() -> None:
    events = await told()

    scale = why(STREAM, events, "scale")

    assert (scale.field, scale.value) == ("spec.scale", 3)
    assert [(s.before, s.after) for s in scale.settings] == [(1, 3)]
    key = why(STREAM, events, "config.KEY")
    first = key.settings[0]
    assert (first.before, first.after, first.added, first.removed) == (None, "value", True, False)
    assert first.event.record.type == "RolloutSucceeded", "the config that serves is that of the live release"
    operation = first.event.record.correlation_id
    assert (first.origin.record.type, first.origin.record.correlation_id) == ("OperationStarted", operation)
    whole = why(STREAM, events, "config")
    assert {s.event.position for s in key.settings} <= {s.event.position for s in whole.settings}
    assert why(STREAM, events, "operation").present
    nothing = why(STREAM, events, "config.NEVER")
    assert (nothing.settings, nothing.present, nothing.value) == ([], False, None)


@pytest.mark.parametrize(("field", "said"), [("scael", "did you mean scale"), ("", "expected a field"), ("x.y", "one")])
async def test_a_field_that_no_state_has_is_named_with_the_nearest(field: str, said: str) -> None:
    with pytest.raises(NoSuchField, match=said):
        why(STREAM, await told(), field)


async def test_each_difference_names_the_last_event_that_set_it() -> None:
    events = await told()
    before, after = state_of(STREAM, events, version=3), state_of(STREAM, events)

    found = attribute(STREAM, events, compare(before, after).changes, before=3, after=len(events))

    assert found
    states = states_of(STREAM, events)
    for one in found:
        assert one.event is not None
        version = one.event.record.version
        path = split_path(one.change.path)
        assert lookup(states[version - 1], path) != lookup(states[version], path)
        assert all(lookup(state, path) == lookup(states[version], path) for state in states[version:])
    backwards = attribute(STREAM, events, compare(after, before).changes, before=len(events), after=3)
    assert [one.event for one in backwards] == [one.event for one in found]


def test_a_path_is_taken_apart_as_it_was_put_together() -> None:
    for path in (("a",), ("a", "x.y", "0"), ("releases", "2", "spec", "config", "A"), ("", "b"), ('q"q', "é")):
        assert split_path(join_path(path)) == path
    state = {"a": [{"x.y": 1}], "n": {7: "seven"}}
    assert lookup(state, split_path('a.0."x.y"')) == 1
    assert lookup(state, ("n", "7")) == "seven"
    for nowhere in ("a.1", "a.x", "b", "a.0.z", "a.0.x.y.z", "n.8", "a.-1"):
        assert lookup(state, split_path(nowhere)) is MISSING, nowhere


def record(stream: str, version: int, event: Event, *, operation: str) -> EventRecord:
    return EventRecord(
        stream=stream, version=version, type=type(event).__name__, schema_version=type(event).schema_version,
        event_id=f"{stream}@{version}", at=START + version, command_id="c", correlation_id=operation,
        causation_id="c", actor="ada", reason="because", traceparent="", body=encode_event(event),
    )  # fmt: skip


async def chain_of(log: MemoryEventLog, stream: str, type_: str) -> list[Cause]:
    stored = [s for s in await history(log, stream) if s.record.type == type_][-1]
    return await Causes(log).chain(stored)


async def test_an_event_leads_back_to_the_command_that_somebody_gave() -> None:
    recorder = Recorder()
    world = tell_component(recorder)
    deploy = next(e for e in world.events if isinstance(e, DeployRequested))
    log = await log_of(recorder.records)

    causes = await chain_of(log, STREAM, "InstanceReady")

    assert (causes[0].kind, causes[0].how) == ("event", "is the outcome of")
    assert causes[0].event is not None and causes[0].event.record.type == "InstanceStarting"
    assert [c.kind for c in causes].count("command") == 1
    assert deploy.build_id


async def test_a_chain_crosses_streams_as_far_as_the_log_tells() -> None:
    everything = tell_everything()
    requested = next(r for r in everything if r.type == "DeployRequested" and r.stream == STREAM)
    claimed = RouteClaimed(
        host="x.example.com", path="/", service_id=WEB, team="default", app="shop", as_of=requested.version
    )
    extra = [record("route/x.example.com/", 1, claimed, operation="op1")]
    log = await log_of([*everything, *extra])

    causes = await chain_of(log, "route/x.example.com/", "RouteClaimed")

    assert causes[0].event is not None
    assert (causes[0].id, causes[0].how) == (f"{STREAM}@{requested.version}", "was asked for by")
    assert causes[-1].kind in ("command", "operation")
    assert causes[-1].kind == "operation" or causes[-1].actor

    async def nothing(stream: str) -> bool:
        return stream.startswith("route/")

    stored = (await history(log, "route/x.example.com/"))[0]
    [command, operation] = await Causes(log, allowed=nothing).chain(stored)
    assert (command.kind, command.id, command.actor, command.reason) == ("command", "c", "ada", "because")
    assert (operation.kind, operation.id, operation.event) == ("operation", "op1", None)
    built = next(r for r in everything if r.type == BuildSucceeded.__name__)
    [nearest, *_] = await chain_of(log, built.stream, built.type)
    assert nearest.how == "is the outcome of"


async def test_what_follows_by_itself_names_the_event_it_follows_from() -> None:
    recorder = Recorder()
    tell_component(recorder)
    records = list(recorder.records)
    last = len(records)
    follows = next(r for r in reversed(records) if r.type == "RolloutSucceeded")
    records[follows.version - 1] = EventRecord(
        **{name: getattr(follows, name) for name in EventRecord.__struct_fields__}
        | {"causation_id": f"{STREAM}@{follows.version - 1}"}
    )
    log = await log_of(records)
    stored = (await history(log, STREAM))[follows.version - 1]

    causes = await Causes(log).chain(stored)

    assert (causes[0].how, causes[0].id) == ("follows from", f"{STREAM}@{follows.version - 1}")
    assert last == len(records)
    ids = [cause.id for cause in causes]
    assert len(ids) == len(set(ids)), "a chain never turns back"


def test_a_changed_kind_of_value_is_a_change() -> None:
    assert diff({"a": 1}, {"a": True}) == [Change(path="a", kind="changed", before=1, after=True)]
    assert diff({"a": 1}, {"a": 1.0}) == [Change(path="a", kind="changed", before=1, after=1.0)]
