"""Errors of the log service: one hierarchy, each with a stable `code` that crosses the wire.

Knows nothing of who raises them or how they are shown.
"""

from typing import ClassVar


class LogError(Exception):
    """Anything the log service refuses or fails at. `code` is stable; the message says what to do."""

    code: ClassVar[str] = "log-error"


class BadStreamName(LogError):
    """The stream's name is not a service id or `kind/id`."""

    code = "bad-stream"


class BadQuery(LogError):
    """The query cannot be answered as asked: a regular expression that does not compile, a count out of range."""

    code = "bad-query"


class QueryTooCostly(LogError):
    """The query ran into its time limit on one chunk of lines; nothing is known about the rest."""

    code = "query-too-costly"


class TooManyQueries(LogError):
    """The team has as many queries under way, and waiting, as it may; try again when one has ended."""

    code = "too-many-queries"


class TooFast(LogError):
    """The team's lines come faster than it may have them stored; nothing of them is. Send again after `seconds`."""

    code = "too-fast"

    def __init__(self, message: str, seconds: float = 0.25) -> None:
        super().__init__(message)
        self.seconds = seconds


class BadBatch(LogError):
    """The batch is malformed; sending it again cannot help."""

    code = "bad-batch"


class StreamClosed(LogError):
    """The stream is finite and has ended; nothing can be appended to it any more."""

    code = "stream-closed"


class WrongPosition(LogError):
    """The batch does not join on to what is stored of its source: read on from `stored`."""

    code = "wrong-position"

    def __init__(self, message: str, stored: int) -> None:
        super().__init__(message)
        self.stored = stored


class StorageFailed(LogError):
    """The disk refused (full, read-only, broken). The batch was not stored; it can be sent again."""

    code = "storage-failed"


class StreamMoved(LogError):
    """Another member of the pool writes this stream: ask it, at `address`, or anyone where that is empty."""

    code = "moved"

    def __init__(self, message: str, address: str = "") -> None:
        super().__init__(message)
        self.address = address


class AccessRefused(LogError):
    """The token is wrong or missing."""

    code = "access-refused"


class ProtocolBroken(LogError):
    """The peer sent what the protocol does not know."""

    code = "protocol-broken"


class Unreachable(LogError):
    """The server could not be reached, or not in time."""

    code = "unreachable"


BY_CODE: dict[str, type[LogError]] = {
    kind.code: kind
    for kind in (
        BadStreamName,
        BadQuery,
        QueryTooCostly,
        TooManyQueries,
        BadBatch,
        StreamClosed,
        StorageFailed,
        StreamMoved,
        AccessRefused,
        ProtocolBroken,
        Unreachable,
    )
}
"""Errors that can be raised again on the client's side from their code and message alone."""
