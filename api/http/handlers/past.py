"""The past of one stream: its state at a moment, and what changed between two moments, folded from the log."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web
from pydantic import JsonValue

from api.http.answers import answer
from api.http.call import Call, at_time, parse_time
from api.http.problems import invalid, not_found
from api.http.queries import Diff, Replay
from api.http.schema import Change
from api.http.schema_platform import DiffView, StateView
from events.log.records import Position, StoredEvent
from events.model.registry import apply_record, initial_state, kind_of

Within = Callable[[StoredEvent], bool]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A stream folded up to some event; `last` None: before its first."""

    state: msgspec.Struct
    last: StoredEvent | None

    @property
    def version(self) -> int:
        return 0 if self.last is None else self.last.record.version

    def plain(self) -> dict[str, JsonValue]:
        """The state as JSON values."""
        found: dict[str, JsonValue] = msgspec.to_builtins(self.state, str_keys=True)
        return found


async def replay(call: Call) -> web.Response:
    asked = call.query_as(Replay)
    stream, team = await _stream(call)
    given = [value for value in (asked.at, asked.offset, asked.version) if value is not None]
    if len(given) > 1:
        raise invalid("expected one of at, offset and version, found more")
    if asked.at is not None:
        within = _until(asked.at)
    elif asked.offset is not None:
        offset = asked.offset
        within = lambda stored: stored.position.offset <= offset  # noqa: E731
    elif asked.version is not None:
        version = asked.version
        within = lambda stored: stored.record.version <= version  # noqa: E731
    else:
        within = _all
    (moment,) = await _fold(call, stream, [within])
    last = moment.last
    view = StateView(
        team=team,
        stream=stream,
        version=moment.version,
        position=None if last is None else str(last.position),
        at=None if last is None else at_time(last.record.at),
        state=moment.plain(),
    )
    return answer(view)


async def diff(call: Call) -> web.Response:
    asked = call.query_as(Diff)
    stream, team = await _stream(call)
    to = _all if asked.to is None else _moment(call, stream, asked.to)
    before, after = await _fold(call, stream, [_moment(call, stream, asked.from_), to])
    view = DiffView(
        team=team,
        stream=stream,
        from_version=before.version,
        to_version=after.version,
        changes=list(_differences("", before.plain(), after.plain())),
    )
    return answer(view)


async def _stream(call: Call) -> tuple[str, str | None]:
    stream = call.name("stream")
    try:
        kind_of(stream)
    except KeyError as error:
        raise invalid(str(error.args[0]), hint="rayfold components shows a component's stream") from None
    owner = await call.context.owners.of_stream(stream)
    if not call.principal.reaches(owner.team):
        raise not_found(f"there is no stream {stream[:200]}", hint="rayfold components")
    return stream, owner.team


def _all(stored: StoredEvent) -> bool:
    return True


def _until(text: str) -> Within:
    at = parse_time(text)
    if at is None:
        raise invalid(f"expected a time like 2026-01-31T12:00:00Z, found {text[:60]!r}")
    return lambda stored: stored.record.at <= at


def _moment(call: Call, stream: str, text: str) -> Within:
    digits = text.removeprefix("v")
    if digits.isascii() and digits.isdecimal() and len(digits) < 16:
        version = int(digits)
        return lambda stored: stored.record.version <= version
    if ":" in text and "-" not in text:
        try:
            position = Position.parse(text)
        except ValueError as error:
            raise invalid(str(error)) from None
        if position.partition != call.context.partition(stream):
            raise invalid(f"{stream} is in partition {call.context.partition(stream)}, found {position}")
        return lambda stored: stored.position.offset <= position.offset
    return _until(text)


async def _fold(call: Call, stream: str, moments: list[Within]) -> list[Moment]:
    """The stream at each of the moments, in one reading. Raises HttpProblem 404 when it has no events at all."""
    states = [Moment(state=initial_state(stream), last=None) for _ in moments]
    seen = False
    async for events in call.context.services.log.read(call.context.partition(stream), 0):
        for stored in events:
            if stored.record.stream != stream:
                continue
            seen = True
            for index, within in enumerate(moments):
                if within(stored):
                    state = apply_record(states[index].state, stored.record)
                    states[index] = Moment(state=state, last=stored)
    if not seen:
        raise not_found(f"there is no stream {stream[:200]}", hint="rayfold events shows the streams there are")
    return states


def _differences(path: str, before: JsonValue, after: JsonValue) -> list[Change]:
    """Every leaf that differs, by its path like `spec.config.COLOUR`; lists are compared whole."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        found: list[Change] = []
        for key in sorted(before.keys() | after.keys()):
            found += _differences(f"{path}.{key}" if path else key, before.get(key), after.get(key))
        return found
    return [Change(path=path, before=before, after=after)]


HANDLERS = {"replay": replay, "diff": diff}
