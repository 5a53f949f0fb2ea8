"""What was decided about a stream: whose it is, how long and how much of it is kept, and what must not be stored.

Values, and the port that gives them; knows nothing of who decided or where that is written down.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from actors.logs.redact import Redactor
from actors.logs.view import StoreLimits

DAY_SECONDS = 86_400.0


class StreamPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """`team` "" where nobody's; `keep_seconds` 0: for ever; `bytes` of this stream and `team_bytes` of all the team's
    streams, as stored, the archive included; `redactor` None: lines are stored as they come."""

    team: str = ""
    app: str = ""
    component: str = ""
    keep_seconds: float = 30 * DAY_SECONDS
    bytes: int = 1024 * 1024 * 1024
    team_bytes: int = 20 * 1024 * 1024 * 1024
    redactor: Redactor | None = None
    bytes_per_second: float = 0.0
    """Of all the team's lines, at all log servers together; 0: no limit."""

    def limits(self, base: StoreLimits) -> StoreLimits:
        """The stream's own limits, segments as in `base`."""
        return base if base.stream_bytes == self.bytes else msgspec.structs.replace(base, stream_bytes=self.bytes)


class Policies(Protocol):
    """Gives the policy of each stream; asked often, so it answers from memory."""

    def of(self, stream: str) -> StreamPolicy:
        """The policy now; a default where the stream is not known."""
        ...

    def knows(self, stream: str) -> bool:
        """Whether it is known whose the stream is."""
        ...


class FixedPolicies:
    """Policies that somebody wrote down by stream, and one for all others."""

    def __init__(self, default: StreamPolicy | None = None, streams: Mapping[str, StreamPolicy] | None = None) -> None:
        self._default = default or StreamPolicy()
        self._streams = dict(streams or {})

    def of(self, stream: str) -> StreamPolicy:
        """As the port says."""
        return self._streams.get(stream, self._default)

    def knows(self, stream: str) -> bool:
        """As the port says."""
        return True
