"""What would have been: a history folded with a changed `apply`, and commands that nobody gave decided anyway.

Nothing is appended, no effect is run. Loading a changed `apply` runs the caller's own code, so only a tool that
runs as the caller may do it.
"""

import asyncio
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from events.log.records import StoredEvent
from events.model.base import PROGRESS_ROUNDS, Command, Event, Meta, Refusal
from events.model.build import MOST_PORT, PORT
from events.model.component_commands import ReportClaims
from events.model.component_events import InstanceStarting
from events.model.component_parts import SETTINGS, ComponentState, Phase, RouteSpec
from events.model.component_progress import claim_of, unclaimed_routes
from events.model.placement import Room
from events.model.registry import Aggregate, aggregate_of, decode_event, initial_state
from events.model.route import decide as decide_route
from events.model.route import plain_path
from events.replay.around import Around, around
from events.replay.diffing import Change, diff
from events.replay.errors import BadCommand, BadReducer
from events.replay.history import Replayed
from events.replay.past import Past
from events.replay.wanted import wanted_changes

Reducer = Callable[[msgspec.Struct, Event, int], object]
"""state, event, microseconds UTC → the state after it."""

MAX_COMMANDS = 100
NOT_BUILT = "not built"
"""Stands for the digest of an artifact that there is not."""
_PLACES = (
    "nodes are those that the component was given to before, with the memory that the log tells of: their labels, and "
    "what other components take there, were not looked at"
)


class Refolded(msgspec.Struct, frozen=True, kw_only=True):
    """A history under another `apply`. `first`: the first event after which the states differ, with what differed
    then; None: they never did. `final`: what differs at the end. `error`: how the other one failed, after which there
    is nothing to compare."""

    stream: str
    events: int
    first: StoredEvent | None
    at_first: Sequence[Change]
    final: Sequence[Change]
    error: str = ""


class WouldBe(msgspec.Struct, frozen=True, kw_only=True):
    """An event that would be written. `follows`: not decided from the command but from the state after it."""

    type: str
    event: Event
    follows: bool


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one command would come to: events and what they change, or a refusal that changes nothing. `wanted`: what it
    asks for, compared with what is (see `wanted_changes`); `changes`: of the whole state, with what follows."""

    command: str
    refusal: Refusal | None
    events: Sequence[WouldBe] = ()
    wanted: Sequence[Change] = ()
    changes: Sequence[Change] = ()


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What commands would come to, and in words what of the world around was not looked at or is worth a thought."""

    outcomes: Sequence[Outcome]
    notes: Sequence[str]


def load_reducer(name: str, *, directory: Path) -> Reducer:
    """The function `module:function`, looked for in `directory` first. Raises BadReducer."""
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise BadReducer(f"expected module:function, as in my_component:apply, found {name[:80]!r}")
    sys.path.insert(0, str(directory))
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (Exception, SystemExit) as error:
        raise BadReducer(f"cannot import {module}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(directory))
    if not callable(found):
        raise BadReducer(f"expected a function {function} in {module}, found {type(found).__name__}")
    if any(is_other(found) or is_other(type(found).__call__) for is_other in _NO_STATE):
        raise BadReducer(f"expected {function} in {module} to return a state, found an async function or a generator")
    reducer: Reducer = found
    return reducer


_NO_STATE = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
"""What of these is called gives something to wait for or to go through, and runs nothing."""


def refold(stream: str, events: Sequence[StoredEvent], reducer: Reducer) -> Refolded:
    """Fold `events` with the recorded `apply` and with `reducer`, state by state."""
    aggregate = aggregate_of(stream)
    recorded: object = initial_state(stream)
    changed: object = initial_state(stream)
    first: StoredEvent | None = None
    at_first: Sequence[Change] = ()
    for stored in events:
        record = stored.record
        recorded = aggregate.apply(recorded, decode_event(record), record.at)
        try:
            # Decoded twice: a reducer that changes what it was given must not change it for the other one.
            changed = reducer(changed, decode_event(record), record.at)  # type: ignore[arg-type]
            differs = [] if first is not None else diff(recorded, changed)
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {error}"
            return Refolded(
                stream=stream, events=len(events), first=first or stored, at_first=at_first, final=(), error=what
            )
        if differs:
            first, at_first = stored, differs
    return Refolded(stream=stream, events=len(events), first=first, at_first=at_first, final=diff(recorded, changed))


def read_commands(stream: str, raw: bytes, state: msgspec.Struct | None = None) -> list[Command]:
    """Commands of the stream's kind from JSON: one object with its `type`, or a list of them. Raises BadCommand.

    With the component's `state`, what a DeployArtifact's artifact leaves out is as in the one that runs: so it can be
    asked what would come of a build that differs in its port, or its commands.
    """
    kind = aggregate_of(stream).command
    try:
        try:
            given = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise BadCommand(f"expected a command as JSON: {error}") from None
        items = given if isinstance(given, list) else [given]
        if not 1 <= len(items) <= MAX_COMMANDS:
            raise BadCommand(f"expected 1 to {MAX_COMMANDS} commands, found {len(items)}")
        # Through JSON's own rules (a list for a tuple, text for an enum), as a command over the wire is read.
        items = [_with_artifact(item, state) for item in items]
        commands = [msgspec.convert(item, kind) for item in items]
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadCommand(f"expected a command of {stream}, found another: {error}; {_known(stream)}") from None
    for item, command in zip(items, commands, strict=True):
        _refuse_unknown(item, command, type(command).__name__)
    return commands


def _with_artifact(item: object, state: msgspec.Struct | None) -> object:
    artifact = item.get("artifact") if isinstance(item, dict) and item.get("type") == "DeployArtifact" else None
    live = state.releases.get(state.current) if isinstance(state, ComponentState) else None
    if not isinstance(item, dict) or not isinstance(artifact, dict):
        return item
    settings = artifact.get("settings", {})
    port = settings.get(PORT) if isinstance(settings, dict) else None
    if isinstance(port, str) and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= MOST_PORT):
        raise BadCommand(f"expected a port from 1 to {MOST_PORT}, found {port[:60]!r}")
    if live is None:
        return item
    own = msgspec.to_builtins(live.artifact)
    if isinstance(settings, dict):
        settings = {**own.get("settings", {}), **settings}
    # Another artifact is another process: with the same digest nothing would be started anew.
    return {**item, "artifact": {**own, "digest": NOT_BUILT, **artifact, "settings": settings}}


def _refuse_unknown(given: object, read: object, path: str) -> None:
    """Raise BadCommand for a field of `given` that `read`, which was made of it, does not have: what is misspelt would
    else look as if it changed nothing."""
    steps: list[tuple[object, object, str]] = []
    if isinstance(read, msgspec.Struct) and isinstance(given, dict):
        names = read.__struct_encode_fields__
        for key in given:
            if key not in names and key != read.__struct_config__.tag_field:
                raise BadCommand(_unknown(path, key, names))
        steps = [(given[name], getattr(read, name), name) for name in names if name in given]
    elif isinstance(read, (list, tuple)) and isinstance(given, list):
        steps = [(one, other, str(place)) for place, (one, other) in enumerate(zip(given, read, strict=True))]
    elif isinstance(read, dict) and isinstance(given, dict):
        by_text = {str(key): value for key, value in read.items()}
        steps = [(value, by_text.get(key), key) for key, value in given.items()]
    for one, other, step in steps:
        _refuse_unknown(one, other, f"{path}.{step}")


def _unknown(path: str, key: str, names: Sequence[str]) -> str:
    known = f"it has {', '.join(names)}" if names else "it has none"
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if "settings" in names and (key in SETTINGS or key == "probe_path"):
        hint = f'; it is a setting: {{"settings": {{"{key}": "…"}}}}'
    return f"expected a field of {path[:200]}, found {key[:60]!r}; {known}{hint}"


def _known(stream: str) -> str:
    kinds = sorted(kind.__name__ for kind in command_types(aggregate_of(stream)))
    return f'give {{"type": NAME, …}}, NAME one of {", ".join(kinds)}'


def command_types(aggregate: Aggregate) -> tuple[type[Command], ...]:
    """Every command an aggregate takes."""
    kinds = getattr(aggregate.command, "__args__", (aggregate.command,))
    return tuple(kind for kind in kinds if isinstance(kind, type))


def decide_all(
    stream: str, state: msgspec.Struct, commands: Sequence[Command], *, at: int, actor: str, around: Around
) -> Tried:
    """What `commands`, one after another, would come to in `state` at `at` (microseconds UTC).

    What follows by itself is told as well, up to where the world would have to do something; routes are claimed, and
    instances given to nodes, as `around` has them.
    """
    aggregate = aggregate_of(stream)
    outcomes: list[Outcome] = []
    notes = [*around.notes]
    for number, command in enumerate(commands, 1):
        meta = Meta(command_id=f"whatif-{number}", at=at, actor=actor, reason="what if")
        name = type(command).__name__
        try:
            decision = aggregate.decide(state, command, meta)
        except TypeError as error:
            raise BadCommand(f"{name} cannot be decided: {error}") from None
        if isinstance(decision, Refusal):
            outcomes.append(Outcome(command=name, refusal=decision))
            continue
        before = state
        would = [WouldBe(type=type(event).__name__, event=event, follows=False) for event in decision]
        for event in decision:
            state = aggregate.apply(state, event, at)
        # Before what follows: that may end the operation, and with it what it wanted.
        wanted = wanted_changes(before, state)
        state = _progress(aggregate, state, at, around, would)
        notes += _crowded(state, would, around.nodes)
        outcomes.append(Outcome(command=name, refusal=None, events=would, wanted=wanted, changes=diff(before, state)))
    if any(isinstance(would.event, InstanceStarting) for outcome in outcomes for would in outcome.events):
        notes.append(_PLACES)
    return Tried(outcomes=outcomes, notes=list(dict.fromkeys(notes)))


def _progress(
    aggregate: Aggregate, state: msgspec.Struct, at: int, around: Around, would: list[WouldBe]
) -> msgspec.Struct:
    for _ in range(PROGRESS_ROUNDS):
        events = aggregate.progress(state, at, around.nodes) or _claimed(state, at, around)
        if not events:
            break
        for event in events:
            would.append(WouldBe(type=type(event).__name__, event=event, follows=True))
            state = aggregate.apply(state, event, at)
    return state


def _claimed(state: msgspec.Struct, at: int, around: Around) -> Sequence[Event]:
    """What comes of the claims that an operation waits for, asked in order up to the first refusal, as its owner asks
    them; nothing while one of them was not looked at."""
    if not isinstance(state, ComponentState) or state.operation is None or state.operation.phase is not Phase.CLAIMING:
        return []
    meta = Meta(command_id="whatif-claims", at=at, reason="what if")
    claimed: list[RouteSpec] = []
    refused = ""
    for wanted in unclaimed_routes(state):
        if wanted not in around.claims:
            return []
        decision = decide_route(around.claims[wanted], claim_of(state, wanted), meta)
        if isinstance(decision, Refusal):
            refused = decision.message
            break
        claimed.append(wanted)
    if not claimed and not refused:
        return []
    decided = aggregate_of("component/").decide(state, ReportClaims(routes=tuple(claimed), refused=refused), meta)
    return [] if isinstance(decided, Refusal) else decided


def _crowded(state: msgspec.Struct, would: Sequence[WouldBe], nodes: Sequence[Room]) -> list[str]:
    """Which nodes would be given more than they have; that refuses nothing, since limits are seldom reached."""
    free = {room.name: room.free_bytes for room in nodes}
    asked = dict.fromkeys(free, 0)
    for one in would:
        if isinstance(one.event, InstanceStarting) and isinstance(state, ComponentState):
            release = state.releases.get(one.event.release)
            asked[one.event.node] += release.spec.memory_bytes if release else 0
    return [
        f"{name} has {free[name]} bytes left by this component's instances, and new ones may take {asked[name]}: "
        "they would be started all the same"
        for name in sorted(free)
        if asked[name] > free[name]
    ]


async def what_if(
    past: Past,
    found: Replayed,
    events: Sequence[StoredEvent],
    raw: bytes,
    *,
    at: int | None,
    actor: str,
    complete: bool,
) -> Tried:
    """What the commands in `raw` (JSON) would come to in the state `found` of a stream of `past` whose history is
    `events`, decided in a thread.

    `at` in microseconds UTC; None: when the last event before that state happened (the first one's time where there was
    none). `complete`: as `around` takes it. Raises BadCommand, and what reading raises.
    """
    commands = read_commands(found.stream, raw, found.state)
    then = at or found.at or events[0].record.at
    met = await around(past, found.state, events, _routes_in(commands), at=then, complete=complete)
    return await asyncio.to_thread(decide_all, found.stream, found.state, commands, at=then, actor=actor, around=met)


def _routes_in(value: object) -> set[RouteSpec]:
    """Every route that a command names, wherever it stands, spelled as it is claimed."""
    if isinstance(value, RouteSpec):
        return {RouteSpec(value.host, plain_path(value.path))}
    parts = msgspec.structs.astuple(value) if isinstance(value, msgspec.Struct) else value
    if isinstance(parts, (list, tuple)):
        return {route for part in parts for route in _routes_in(part)}
    return set()
