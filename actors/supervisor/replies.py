"""What a command is answered: that it is done, refused, or not written, and why.

Knows replies and the log's errors; nothing of how a command is decided.
"""

from events.log.errors import Fenced, LogBroken, LogFull, Overloaded, WriterClosed
from events.model.base import Envelope, Refusal, Reply

DEAD = (Fenced, WriterClosed, LogBroken)
"""This writer writes nothing any more."""

_CODES = ((Overloaded, "overloaded"), (LogFull, "full"), (DEAD, "not_owner"))


def done(envelope: Envelope, *, version: int, partition: int, offset: int) -> Reply:
    """Its last event has this version, and is at this place."""
    return Reply(
        command_id=envelope.command_id,
        stream=envelope.stream,
        version=version,
        partition=partition,
        offset=offset,
        operation=envelope.command_id,
    )


def refused(envelope: Envelope, refusal: Refusal, version: int = 0) -> Reply:
    """Decided against, by what the stream was at `version`."""
    return Reply(command_id=envelope.command_id, stream=envelope.stream, version=version, refusal=refusal)


def not_written(envelope: Envelope, error: BaseException) -> Reply:
    """The log did not take its events; `unavailable` where that is not known."""
    code = next((code for kinds, code in _CODES if isinstance(error, kinds)), "unavailable")
    return Reply(command_id=envelope.command_id, error=code, error_message=str(error))
