"""Parked: what could not be handled of another stream, how often it was tried, and what a person decided about it.

A stream of its own beside the one it is about, in the same partition: what cannot be handled must not have to be folded
to be told. Knows nothing of what failed but its words.
"""

from enum import StrEnum

import msgspec

from events.model.base import Command, Decision, Event, Meta, Refusal

MAX_TRIES = 3
FOLD = "fold"  # the handler that takes an event into the state


class ParkedStatus(StrEnum):
    """clear → suspect → parked → clear; a try that succeeds clears."""

    CLEAR = "clear"
    SUSPECT = "suspect"
    PARKED = "parked"


class ParkedState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`tries` of `handler` on the stream at `version`. `skipped`: versions at which it is left undone; `left_out`:
    versions of events that are not folded."""

    status: ParkedStatus = ParkedStatus.CLEAR
    stream: str = ""
    handler: str = ""
    version: int = 0
    tries: int = 0
    error: str = ""
    parked_at: int = 0
    skipped: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()


class HandlingTried(Event, frozen=True):
    """The try number `number` is about to be made; said before it, for it may take the process along."""

    stream: str
    handler: str
    version: int
    number: int
    error: str = ""


class HandlingSucceeded(Event, frozen=True):
    """What had failed before was handled."""


class StreamParked(Event, frozen=True):
    """It is tried no more; commands for it are refused, nothing follows from it, others go on."""

    stream: str
    handler: str
    version: int
    tries: int
    error: str


class ParkedRetried(Event, frozen=True):
    """A person wants it tried again, from the first try on."""


class ParkedSkipped(Event, frozen=True):
    """A person wants it left undone: the stream goes on without it."""

    handler: str
    version: int


class NoteTry(Command, frozen=True):
    """`number` is the try that is about to be made."""

    stream: str
    handler: str
    version: int
    number: int
    error: str = ""


class NoteSuccess(Command, frozen=True):
    pass


class Park(Command, frozen=True):
    stream: str
    handler: str
    version: int
    tries: int
    error: str


class RetryParked(Command, frozen=True):
    pass


class SkipParked(Command, frozen=True):
    pass


ParkedEvent = HandlingTried | HandlingSucceeded | StreamParked | ParkedRetried | ParkedSkipped
ParkedCommand = NoteTry | NoteSuccess | Park | RetryParked | SkipParked
KIND = "parked"


def parked_stream(stream: str) -> str:
    """Where it is told what could not be handled of `stream`."""
    return f"{KIND}/{stream}"


def apply(state: ParkedState, event: ParkedEvent, at: int) -> ParkedState:
    match event:
        case HandlingTried():
            return ParkedState(
                status=ParkedStatus.SUSPECT,
                stream=event.stream,
                handler=event.handler,
                version=event.version,
                tries=event.number,
                error=event.error,
                skipped=state.skipped,
                left_out=state.left_out,
            )
        case HandlingSucceeded() | ParkedRetried():
            return ParkedState(stream=state.stream, skipped=state.skipped, left_out=state.left_out)
        case StreamParked():
            return ParkedState(
                status=ParkedStatus.PARKED,
                stream=event.stream,
                handler=event.handler,
                version=event.version,
                tries=event.tries,
                error=event.error,
                parked_at=at,
                skipped=state.skipped,
                left_out=state.left_out,
            )
        case ParkedSkipped(handler=handler, version=version):
            skipped, left_out = state.skipped, state.left_out
            if handler == FOLD:
                left_out = (*left_out, version)
            else:
                skipped = (*skipped, version)
            return ParkedState(stream=state.stream, skipped=skipped, left_out=left_out)


def decide(state: ParkedState, command: ParkedCommand, meta: Meta) -> Decision:
    match command:
        case NoteTry():
            if state.status is ParkedStatus.PARKED:
                return Refusal(code="conflict", message=f"{state.stream} is parked already")
            return [
                HandlingTried(
                    stream=command.stream,
                    handler=command.handler,
                    version=command.version,
                    number=command.number,
                    error=command.error,
                )
            ]
        case NoteSuccess():
            return [HandlingSucceeded()] if state.status is ParkedStatus.SUSPECT else []
        case Park():
            if state.status is ParkedStatus.PARKED:
                return []
            return [
                StreamParked(
                    stream=command.stream,
                    handler=command.handler,
                    version=command.version,
                    tries=command.tries,
                    error=command.error,
                )
            ]
        case RetryParked() | SkipParked() if state.status is not ParkedStatus.PARKED:
            return Refusal(code="not_found", message="nothing of this stream is parked", hint="rayfold parked list")
        case RetryParked():
            return [ParkedRetried()]
        case SkipParked():
            return [ParkedSkipped(handler=state.handler, version=state.version)]
    raise TypeError(f"not a command about what is parked: {type(command).__name__}")
