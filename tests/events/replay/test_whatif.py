"""What would have been, had `apply` been another or a command been given."""

from pathlib import Path

import pytest

from events.log.records import StoredEvent
from events.model import component_fold
from events.model.component_parts import ComponentState
from events.model.registry import aggregate_of
from events.replay.errors import BadCommand, BadReducer
from events.replay.history import history, state_of
from events.replay.whatif import decide_all, load_reducer, nodes_of, read_commands, refold
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

    first, second, third = decide_all(STREAM, state, commands, at=START, actor="ada", nodes=nodes_of(events))

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

    [outcome] = decide_all(stream, state, read_commands(stream, command), at=START, actor="ada", nodes=[])

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


def test_the_real_apply_is_the_registrys() -> None:
    assert aggregate_of(STREAM).apply is component_fold.apply
