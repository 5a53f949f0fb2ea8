"""The debugger's tools over an exported file, with the same words as the API's answers; loaded only when asked for.

Folds in this process, with this version's aggregates. Must not know a platform, nor how anything is shown.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TypedDict, TypeVar

import msgspec

from api.cli.errors import CliError, ExitCode
from events.clock import now_micros
from events.log.records import Position, StoredEvent
from events.model.evolution import UnknownEventError
from events.replay import documents
from events.replay.appdiff import app_diff
from events.replay.causes import Causes
from events.replay.determinism import Verdict, check
from events.replay.documents import Document
from events.replay.errors import BadHistoryFile, CheckFailed, NoSuchStream, ReplayError
from events.replay.history import Replayed, compare, history, place_of, state_at
from events.replay.imported import HistoryFile
from events.replay.moments import parse_time, show_time
from events.replay.steps import Step, steps
from events.replay.whatif import load_reducer, refold, what_if
from events.replay.whole import summary, whole
from events.replay.why import attribute, why

T = TypeVar("T")


class Moment(TypedDict, total=False):
    """One of them, or none for now."""

    at: int
    offset: int
    version: int


@contextmanager
def explained() -> Iterator[None]:
    """What the tools say goes wrong, as the command line's errors."""
    try:
        yield
    except NoSuchStream as error:
        hint = "rayfold import FILE lists a file's streams"
        raise CliError(str(error).partition(";")[0], exit_code=ExitCode.NOT_FOUND, hint=hint) from error
    except (BadHistoryFile, CheckFailed, UnknownEventError) as error:
        raise CliError(str(error)) from error
    except ReplayError as error:
        raise CliError(str(error), exit_code=ExitCode.USAGE) from error


def _run(work: Coroutine[object, object, T]) -> T:
    with explained():
        return asyncio.run(work)


class Offline:
    """One exported file. Every method raises CliError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = HistoryFile.open(path)
        except OSError as error:
            raise CliError(f"{path} cannot be read: {error.strerror}", exit_code=ExitCode.NOT_FOUND) from error
        except BadHistoryFile as error:
            raise CliError(f"{path}: {error}", hint="rayfold export STREAM -o FILE writes such a file") from error

    def header(self) -> Document:
        """What the file says of itself."""
        told = msgspec.to_builtins(self.file.header)
        return dict(told)

    def moment(self, stream: str, text: str) -> Moment:
        """A version (12, v12), a position (3:120) or a time, as `rayfold diff` takes them; empty: now."""
        if not text:
            return Moment()
        digits = text.removeprefix("v")
        if digits.isascii() and digits.isdecimal() and len(digits) < 9:
            return Moment(version=int(digits))
        if ":" in text and text.replace(":", "", 1).isdecimal():
            position = Position.parse(text)
            with explained():
                home = place_of(self.file, stream)
            if position.partition != home:
                raise CliError(f"expected a position in partition {home}, found {position}", exit_code=ExitCode.USAGE)
            return Moment(offset=position.offset)
        return Moment(at=self.time(text))

    def time(self, text: str) -> int:
        """A time, in microseconds UTC."""
        with explained():
            return parse_time(text, now=now_micros())

    def events(self, stream: str) -> list[StoredEvent]:
        """The history of a stream."""
        return _run(history(self.file, stream))

    def state(self, stream: str, moment: Moment) -> Document:
        """As GET /v1/replay/{stream}."""
        return {"team": None, **documents.state_document(self._state(stream, self.events(stream), moment))}

    def _state(self, stream: str, events: list[StoredEvent], moment: Moment) -> Replayed:
        return _run(state_at(self.file, stream, events, **moment))

    def diff(self, stream: str, before: Moment, after: Moment) -> Document:
        """As GET /v1/diff/{stream}."""
        events = self.events(stream)
        difference = compare(self._state(stream, events, before), self._state(stream, events, after))
        versions = difference.before.version, difference.after.version
        changes = attribute(stream, events, difference.changes, before=versions[0], after=versions[1])
        return {"team": None, **documents.difference_document(difference, changes)}

    def app_diff(self, team: str, app: str, begin: int, end: int) -> Document:
        """As GET /v1/diff."""
        found = _run(app_diff(self.file, team, app, begin=begin, end=end, allowed=_anything))
        return documents.app_difference_document(found)

    def why(self, stream: str, field: str, limit: int | None) -> Document:
        """As GET /v1/why/{stream}/{field}."""
        events = self.events(stream)
        with explained():
            return {"team": None, **documents.why_document(why(stream, events, field), limit=limit)}

    def summary(self, at: int | None) -> Document:
        """As GET /v1/replay."""
        return documents.summary_document(summary(_run(whole(self.file, at=at)).values()), at=at)

    def states(self, at: int | None) -> Iterator[Document]:
        """As GET /v1/replay?states=true, line by line."""
        return map(documents.then_document, _run(whole(self.file, at=at)).values())

    def what_if(self, stream: str, moment: Moment, raw: bytes) -> Document:
        """As POST /v1/whatif/{stream}; `raw`: a command or a list of them, as JSON."""
        events = self.events(stream)
        found = self._state(stream, events, moment)
        at = moment.get("at") if moment else now_micros()
        tried = _run(what_if(self.file, found, events, raw, at=at, actor="you", complete=False))
        return {"team": None, **documents.tried_document(stream, found.version, tried)}

    def refold(self, stream: str, reducer: str) -> Document:
        """The history under a changed `apply`, `module:function`, looked for in the working directory first."""
        events = self.events(stream)
        # What the module prints must not stand in the answer.
        with explained(), redirect_stdout(sys.stderr):
            return documents.refolded_document(refold(stream, events, load_reducer(reducer, directory=Path.cwd())))

    def bounds(self, stream: str, first: int | None, last: int | None, moment: Moment) -> tuple[int, int]:
        """The versions to step through: from `first` to the nearer of `last` and the moment."""
        events = self.events(stream)
        until = self._state(stream, events, moment).version
        if until == 0:
            begun = show_time(events[0].record.at)
            raise CliError(
                f"expected a moment from the first event of {stream} on, {begun}, found one before it: nothing to step "
                "through",
                exit_code=ExitCode.USAGE,
            )
        return first or 1, min(until, last or until)

    def steps(self, stream: str, first: int, last: int) -> Iterator[Step]:
        """The steps between two versions, both inclusive."""
        events = self.events(stream)
        with explained():
            return steps(stream, events, first=first, last=last)

    def told(self, walked: Sequence[Step], *, states: bool) -> list[Document]:
        """As the items of GET /v1/replay/{stream}/steps."""
        return _run(self._told(walked, states))

    async def _told(self, walked: Sequence[Step], states: bool) -> list[Document]:
        causes = Causes(self.file)
        return [documents.step_document(step, await causes.chain(step.event), states=states) for step in walked]

    def check(self, reducer: str, streams: Sequence[str]) -> Iterator[Document]:
        """As GET /v1/check/{stream}, for these streams or each of the file, as they are done."""
        for stream in streams:
            self.events(stream)
        verdicts = check(self.path, only=streams, reducer=reducer, directory=Path.cwd())
        with explained(), asyncio.Runner() as runner:
            while (verdict := runner.run(_next(verdicts))) is not None:
                yield {"team": None, **documents.verdict_document(verdict)}


async def _next(verdicts: AsyncIterator[Verdict]) -> Verdict | None:
    return await anext(verdicts, None)


async def _anything(stream: str) -> bool:
    return True
