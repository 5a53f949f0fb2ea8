"""What would have been, had `apply` been another or a command been given."""

from pathlib import Path

import msgspec
import pytest

from events.log.records import EventRecord, StoredEvent
from events.model import component_fold
from events.model.base import Event
from events.model.component_events import InstanceStarting
from events.model.component_parts import ComponentState
from events.model.node import NodeJoined, NodeLeft, NodeLost
from events.model.operation import OperationFailed
from events.model.placement import Room
from events.model.registry import aggregate_of, decode_event
from events.model.route import RouteClaimed
from events.replay.around import Around
from events.replay.errors import BadCommand, BadReducer
from events.replay.history import history, state_of
from events.replay.whatif import Outcome, Tried, decide_all, load_reducer, read_commands, refold, what_if
from tests.projections.recorder import START, WEB, Recorder, log_of, tell_component, tell_everything

STREAM = f"component/{WEB}"

CHANGED = """
from events.model import component_fold

def same(state, event, at):
    return component_fold.apply(state, event, at)

def forgets_keys(state, event, at):
    state = component_fold.apply(state, event, at)
    import msgspec
    config = {k: v for k, v in state.spec.config.items() if k != "KEY"}
    return msgspec.structs.replace(state, spec=msgspec.structs.replace(state.spec, config=config))

def breaks(state, event, at):
    if type(event).__name__ == "RolloutSucceeded":
        raise ValueError("no such thing")
    return component_fold.apply(state, event, at)

def gives_up(state, event, at):
    raise SystemExit(0)

async def later(state, event, at):
    return component_fold.apply(state, event, at)

def piecemeal(state, event, at):
    yield component_fold.apply(state, event, at)

class Later:
    async def __call__(self, state, event, at):
        return state

as_object = Later()
nothing = 1
"""


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    (tmp_path / "changed_component.py").write_text(CHANGED)
    return tmp_path


async def told() -> list[StoredEvent]:
    recorder = Recorder()
    tell_component(recorder)
    return await history(await log_of(recorder.records), STREAM)


async def test_an_apply_that_does_the_same_never_parts(changed: Path) -> None:
    events = await told()

    found = refold(STREAM, events, load_reducer("changed_component:same", directory=changed))

    assert (found.first, list(found.final), found.events) == (None, [], len(events))


async def test_a_changed_apply_parts_at_the_first_event_that_it_tells_otherwise(changed: Path) -> None:
    events = await told()

    found = refold(STREAM, events, load_reducer("changed_component:forgets_keys", directory=changed))

    assert found.first is not None
    version = found.first.record.version
    before = state_of(STREAM, events, version=version - 1).state
    after = state_of(STREAM, events, version=version).state
    assert isinstance(before, ComponentState) and isinstance(after, ComponentState)
    assert ("KEY" in before.spec.config, "KEY" in after.spec.config) == (False, True)
    assert [(c.path, c.before, c.after) for c in found.at_first] == [("spec.config.KEY", "value", None)]


async def test_an_apply_that_fails_is_told_with_the_event_it_failed_at(changed: Path) -> None:
    found = refold(STREAM, await told(), load_reducer("changed_component:breaks", directory=changed))

    assert found.error == "ValueError: no such thing"
    assert found.first is not None and found.first.record.type == "RolloutSucceeded"


async def test_an_apply_that_asks_to_exit_has_failed(changed: Path) -> None:
    found = refold(STREAM, await told(), load_reducer("changed_component:gives_up", directory=changed))

    assert (found.error, found.first and found.first.record.version) == ("SystemExit: 0", 1)


@pytest.mark.parametrize("name", ["later", "piecemeal", "as_object"])
def test_an_apply_that_gives_no_state_when_called_is_refused(changed: Path, name: str) -> None:
    with pytest.raises(BadReducer, match="to return a state, found an async function or a generator"):
        load_reducer(f"changed_component:{name}", directory=changed)


def test_a_module_that_asks_to_exit_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "exiting_component.py").write_text("import sys\nsys.exit(0)\n")

    with pytest.raises(BadReducer, match="cannot import exiting_component: SystemExit: 0"):
        load_reducer("exiting_component:apply", directory=tmp_path)


@pytest.mark.parametrize(
    "name", ["changed_component", "changed_component:", ":x", "changed_component:nothing", "no_such_module:apply"]
)
def test_what_is_no_apply_is_refused(changed: Path, name: str) -> None:
    with pytest.raises(BadReducer, match=r"expected|cannot import"):
        load_reducer(name, directory=changed)


async def test_commands_are_decided_one_after_another_and_nothing_is_written() -> None:
    events = await told()
    state = state_of(STREAM, events).state
    commands = read_commands(
        STREAM, b'[{"type":"ChangeSpec","scale":5},{"type":"ChangeSpec","scale":6},{"type":"ChangeSpec","scale":101}]'
    )

    met = Around(nodes=[Room(name="node1", free_bytes=1 << 40)])
    first, second, third = decide_all(STREAM, state, commands, at=START, actor="ada", around=met).outcomes

    assert first.refusal is None
    assert [(w.type, w.follows) for w in first.events][:2] == [("OperationStarted", False), ("ReleaseCreated", False)]
    assert any(w.type == "InstanceStarting" and w.follows for w in first.events), "what follows by itself is told too"
    assert {c.path for c in first.changes} >= {"operation", "releases.8"} or first.changes
    assert second.refusal is not None and second.refusal.code == "conflict", "the first one is under way then"
    assert third.refusal is not None
    assert list(third.events) == list(second.events) == []
    assert state_of(STREAM, events).state == state


@pytest.mark.parametrize(
    ("stream", "command", "code"),
    [
        (STREAM, b'{"type":"ChangeSpec","scale":101}', "invalid"),
        (STREAM, b'{"type":"ChangeSpec","config_set":{"PORT":"1"}}', "invalid"),
        ("team/default", b'{"type":"CreateTeam","name":"default"}', "conflict"),
        (
            "route/shop.example.com/api",
            b'{"type":"ClaimRoute","host":"shop.example.com","path":"/api","service_id":"x","team":"t","app":"a"}',
            "conflict",
        ),
    ],
)
async def test_a_refusal_is_told_as_the_platform_would(stream: str, command: bytes, code: str) -> None:
    log = await log_of(tell_everything())
    state = state_of(stream, await history(log, stream)).state

    commands = read_commands(stream, command)
    [outcome] = decide_all(stream, state, commands, at=START, actor="ada", around=Around()).outcomes

    assert outcome.refusal is not None and outcome.refusal.code == code
    assert (list(outcome.events), list(outcome.changes)) == ([], [])


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"7", b'{"type":"Nothing"}', b'{"scale":1}', b'{"type":"ChangeSpec","scale":"x"}', b"[" * 9000,
     b"[" + b",".join([b"{}"] * 101) + b"]"],
)  # fmt: skip
def test_what_is_no_command_is_refused_with_those_there_are(raw: bytes) -> None:
    with pytest.raises(BadCommand, match="expected"):
        read_commands(STREAM, raw)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (b'{"type":"ChangeSpec","nosuch":3}', "expected a field of ChangeSpec, found 'nosuch'; it has config_set,"),
        (b'{"type":"ChangeSpec","scael":3}', "did you mean scale"),
        (b'{"type":"ChangeSpec","memory_bytes":1}', r'it is a setting: \{"settings": \{"memory_bytes": "…"\}\}'),
        (b'{"type":"Restart","scale":3}', "expected a field of Restart, found 'scale'; it has none"),
        (b'[{"type":"Restart"},{"type":"ChangeSpec","typ":3}]', "expected a field of ChangeSpec, found 'typ'"),
        (
            b'{"type":"ChangeSpec","routes_add":[{"host":"a.b"},{"host":"c.d","pth":"/"}]}',
            r"expected a field of ChangeSpec\.routes_add\.1, found 'pth'; it has host, path; did you mean path\?",
        ),
        (
            b'{"type":"Deploy","source":{"kind":"git","branch":"main"}}',
            r"expected a field of Deploy\.source, found 'branch'; it has kind, digest, url, ref, subdir",
        ),
    ],
)
def test_a_field_that_no_command_has_is_refused_with_those_there_are(command: bytes, said: str) -> None:
    with pytest.raises(BadCommand, match=said):
        read_commands(STREAM, command)


def test_keys_that_are_the_users_own_are_no_fields() -> None:
    raw = b'{"type":"ChangeSpec","config_set":{"NOSUCH":"1"},"settings":{"memory_bytes":"1"}}'

    assert [type(command).__name__ for command in read_commands(STREAM, raw)] == ["ChangeSpec"]


# --- what it comes to, compared with what is -------------------------------------------------------------------------


async def tried(*records: EventRecord, command: dict[str, object], complete: bool = True, **moment: int) -> Tried:
    """One command on the component's whole life, or a moment of it, with further streams' records in the log."""
    recorder = Recorder()
    tell_component(recorder)
    log = await log_of([*recorder.records, *records])
    events = await history(log, STREAM)
    found = state_of(STREAM, events, **moment)
    return await what_if(
        log, found, events, msgspec.json.encode(command), at=moment.get("at"), actor="ada", complete=complete
    )


async def version_of(release: int) -> int:
    """That at which the component had just come to rest with a release."""
    events = await told()
    done = [e.record.version for e in events if e.record.type == "OperationSucceeded"]
    return next(v for v in done if getattr(state_of(STREAM, events, version=v).state, "current", 0) == release)


def told_by(stream: str, *events: Event, at: int = START) -> list[EventRecord]:
    recorder = Recorder()
    return [recorder.add(stream, event, at=at) for event in events]


def compared(outcome: Outcome) -> dict[str, tuple[object, object]]:
    return {c.path: (c.before, c.after) for c in outcome.wanted}


def joined(memory_bytes: int) -> NodeJoined:
    return NodeJoined(name="node1", address="127.0.0.1", cpus=2, memory_bytes=memory_bytes, runtime="processes")


def claimed(host: str, by: str = "0123456789abcdef") -> list[EventRecord]:
    event = RouteClaimed(host=host, path="/", service_id=by, team="other", app="mill")
    return told_by(f"route/{host}/", event)


async def test_a_quota_and_a_route_are_compared_by_their_names() -> None:
    settings = {"memory_bytes": "1073741824", "probe_path": "/up"}
    asked: dict[str, object] = {
        "type": "ChangeSpec",
        "settings": settings,
        "routes_add": [{"host": "x.example.com"}],
        "routes_remove": [{"host": "shop.example.com", "path": "/api"}],
    }

    [outcome] = (await tried(command=asked, version=await version_of(release=3))).outcomes

    assert [(c.path, c.kind, c.before, c.after) for c in outcome.wanted if c.path != "release"] == [
        ("memory_bytes", "changed", 536870912, 1073741824),
        ("probe_path", "changed", "", "/up"),
        ("routes", "removed", "shop.example.com/api", None),
        ("routes", "added", None, "x.example.com/"),
    ]
    kinds = [would.type for would in outcome.events]
    assert kinds.index("RoutesClaimed") < kinds.index("RolloutStarted") < kinds.index("InstanceStarting")


async def test_a_rollback_is_compared_by_what_would_run_and_with_which_variables() -> None:
    [outcome] = (await tried(command={"type": "Rollback", "to": 2}, version=await version_of(release=3))).outcomes

    found = compared(outcome)
    assert found["config.KEY"] == ("value", None)
    assert "spec.config.KEY" not in found and not any(path.startswith("releases.") for path in found)


async def test_a_route_that_somebody_else_holds_fails_the_operation_as_it_would() -> None:
    asked: dict[str, object] = {"type": "ChangeSpec", "routes_add": [{"host": "x.example.com"}]}

    [outcome] = (await tried(*claimed("x.example.com"), command=asked)).outcomes

    failed = outcome.events[-1].event
    assert isinstance(failed, OperationFailed) and outcome.events[-1].follows
    assert (failed.code, failed.reason) == ("conflict", "x.example.com/ is taken by another application")
    assert [(c.path, c.after) for c in outcome.wanted if c.path == "routes"] == [("routes", "x.example.com/")]
    assert not any(would.type in ("RoutesClaimed", "RolloutStarted") for would in outcome.events)
    [ours] = (await tried(*claimed("x.example.com", by=WEB), command=asked)).outcomes
    assert [would.type for would in ours.events][2:4] == ["RoutesClaimed", "RolloutStarted"]


async def test_a_route_is_looked_up_as_it_is_spelled_when_it_is_claimed() -> None:
    event = RouteClaimed(host="x.example.com", path="/a", service_id="0123456789abcdef", team="other", app="mill")
    asked: dict[str, object] = {"type": "ChangeSpec", "routes_add": [{"host": "x.example.com", "path": "/a/"}]}

    [outcome] = (await tried(*told_by("route/x.example.com/a", event), command=asked)).outcomes

    assert outcome.events[-1].type == "OperationFailed"
    assert [c.after for c in outcome.wanted if c.path == "routes"] == ["x.example.com/a"]


async def test_a_claim_counts_only_from_when_it_was_made() -> None:
    asked: dict[str, object] = {"type": "ChangeSpec", "routes_add": [{"host": "x.example.com"}]}
    [claim] = claimed("x.example.com")
    later = msgspec.structs.replace(claim, at=1 << 60)

    [outcome] = (await tried(later, command=asked)).outcomes

    assert any(would.type == "RoutesClaimed" for would in outcome.events)


async def test_what_a_file_does_not_hold_is_said() -> None:
    asked: dict[str, object] = {"type": "ChangeSpec", "scale": 9, "routes_add": [{"host": "x.example.com"}]}

    notes = (await tried(command=asked, complete=False)).notes

    assert "nothing here tells who holds x.example.com/: it is taken for free" in notes
    assert "nothing tells of node node1: it is taken for one that is there and has room" in notes
    assert any("labels" in note for note in notes)
    assert len((await tried(command={"type": "PruneReleases", "keep": 50})).notes) == 1, "nothing is started"


async def test_more_memory_than_a_node_has_left_is_said_and_refuses_nothing() -> None:
    asked: dict[str, object] = {"type": "ChangeSpec", "settings": {"memory_bytes": str(3 << 30)}, "scale": 2}
    node = told_by("node/node1", joined(4 << 30))

    found = await tried(*node, command=asked)

    starting = [w.event for w in found.outcomes[0].events if isinstance(w.event, InstanceStarting)]
    assert {event.node for event in starting} == {"node1"}
    [crowded] = [note for note in found.notes if note.startswith("node1 has ")]
    assert f"new ones may take {len(starting) * (3 << 30)}" in crowded and "started all the same" in crowded
    roomy = told_by("node/node1", joined(1 << 40))
    assert not [note for note in (await tried(*roomy, command=asked)).notes if note.startswith("node1 has ")]


@pytest.mark.parametrize("gone", [NodeLost(reason="silent"), NodeLeft(reason="sold")], ids=["lost", "left"])
async def test_nothing_is_started_on_a_node_that_was_not_there(gone: Event) -> None:
    node = told_by("node/node1", joined(1 << 40), gone)

    [outcome] = (await tried(*node, command={"type": "ChangeSpec", "scale": 5})).outcomes

    assert not any(would.type == "InstanceStarting" for would in outcome.events)


async def test_an_instance_that_listens_elsewhere_shows_its_port() -> None:
    recorder = Recorder()
    tell_component(recorder)
    log = await log_of(recorder.records)
    events = await history(log, STREAM)
    first = next(e for e in events if e.record.type == "InstanceStarting")
    found = state_of(STREAM, events, version=first.record.version)
    starting = decode_event(first.record)
    assert isinstance(starting, InstanceStarting)
    ready = {"type": "ReportReady", "instance": starting.instance, "host": "10.0.0.1", "port": 8443, "pid": 7}

    got = await what_if(log, found, events, msgspec.json.encode(ready), at=None, actor="ada", complete=True)

    assert compared(got.outcomes[0])[f"ports.{starting.instance}"] == (None, 8443)


async def test_a_build_that_differs_in_its_port_alone_is_compared_by_it() -> None:
    port: dict[str, object] = {"type": "DeployArtifact", "artifact": {"settings": {"port": "9000"}}}

    [outcome] = (await tried(command=port, version=await version_of(release=3))).outcomes

    found = compared(outcome)
    assert found.pop("release") == (3, 4)
    assert found.pop("artifact.digest")[1] == "not built"
    assert found == {"port": (None, 9000)}
    assert any(would.type == "InstanceStarting" for would in outcome.events), "it is another process"


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        ({"settings": {"port": "0"}}, "expected a port from 1 to 65535, found '0'"),
        ({"settings": {"port": "eighty"}}, "expected a port from 1 to 65535, found 'eighty'"),
        ({"settings": {"port": 80}}, "Expected `str`, got `int`"),
        ({"prot": "80"}, "expected a field of DeployArtifact.artifact, found 'prot'"),
    ],
)
async def test_an_artifact_that_none_could_be_is_refused(artifact: dict[str, object], said: str) -> None:
    with pytest.raises(BadCommand, match=said):
        await tried(command={"type": "DeployArtifact", "artifact": artifact})


@pytest.mark.parametrize("key", ["PORT", "RAYFOLD_PORT"])
async def test_the_port_that_the_platform_gives_is_refused_as_a_variable(key: str) -> None:
    [outcome] = (await tried(command={"type": "ChangeSpec", "config_set": {key: "80"}})).outcomes

    assert outcome.refusal is not None and outcome.refusal.message == f"{key} is set by the platform"


def test_the_real_apply_is_the_registrys() -> None:
    assert aggregate_of(STREAM).apply is component_fold.apply
