"""The query parameters of every read, as pydantic models: validated once, and written into the OpenAPI document.

Shapes and bounds only; it knows nothing of how a request is served.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.http.schema import Host, Name, PathPrefix, PositionText, Reason

Cursor = Annotated[str, Field(max_length=2048, description="`next_cursor` of the page before.")]
Moment = Annotated[
    str,
    Field(max_length=2048, description="A position (3:120), a cursor (12.0.7…), a time (ISO-8601) or a version (v12)."),
]


class Query(BaseModel):
    """Unknown parameters are refused, so that a typing error never passes for `no filter`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Query):
    """No parameters."""


class Read(Query):
    """`min_position`: answer only once the read models have seen this position; waits 5 s at most."""

    min_position: PositionText | None = None


class PageOf(Read):
    limit: int = Field(default=50, ge=1, le=200)
    cursor: Cursor | None = None


class Destroy(Query):
    reason: Reason = ""


class RemoveNode(Query):
    reason: Reason = ""


class DiffBuilds(Read):
    """`to`: the build that the one in the path is compared with."""

    to: Annotated[str, Field(max_length=200)]


class RemoveRoute(Query):
    host: Host
    path: PathPrefix = "/"
    reason: Reason = ""


class Operations(PageOf):
    team: Name | None = None
    app: Name | None = None
    status: Literal["running", "succeeded", "failed", "cancelled", "timed_out"] | None = None


class Builds(PageOf):
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "timed_out"] | None = None


class Queued(Query):
    limit: int = Field(default=50, ge=1, le=1000)
    team: Name | None = None


class Preview(Read):
    to: int = Field(default=0, ge=0, le=2**31)


class LogTimes(Query):
    """`since` (inclusive) and `until` (exclusive): ISO-8601, or `10m` ago."""

    since: Annotated[str, Field(max_length=64)] | None = None
    until: Annotated[str, Field(max_length=64)] | None = None


class Logs(LogTimes):
    """`n`: the last n lines, or with `from` the n lines from that number on; `around`: the line of that number with n
    lines on each side. `follow=1` streams server-sent events whose ids are line numbers; a WebSocket streams as well.

    What passes: `level` (this one or a graver one), `word` (whole words with spaces between, in any case), `field`
    (`path=value` in a line of JSON, several with commas between), `grep` (RE2; `ignore_case`), `source`, `instance`.
    `window`: lines that a WebSocket may be ahead of what its client has acknowledged; 0 for no such limit.
    """

    n: int = Field(default=100, ge=0, le=10_000)
    from_: int | None = Field(default=None, alias="from", ge=0)
    around: int | None = Field(default=None, ge=1)
    grep: Annotated[str, Field(max_length=256)] | None = None
    ignore_case: bool = False
    word: Annotated[str, Field(max_length=256)] | None = None
    field: Annotated[str, Field(max_length=512)] | None = None
    level: Literal["trace", "debug", "info", "warning", "error", "fatal"] | None = None
    instance: Annotated[str, Field(max_length=100)] | None = None
    source: Literal["app", "build", "router", "platform"] | None = None
    follow: bool = False
    window: int = Field(default=1_000, ge=0, le=100_000)


class Output(Query):
    """As `Logs`; the whole output by default."""

    n: int = Field(default=10_000, ge=0, le=10_000)
    from_: int = Field(default=1, alias="from", ge=0)
    follow: bool = False


class Events(Query):
    """`since`: where to begin. Without it a page begins with the oldest event and a stream with the next one."""

    since: Moment | None = None
    stream: Annotated[str, Field(max_length=1024)] | None = None
    type: Annotated[str, Field(max_length=100)] | None = None
    team: Name | None = None
    app: Name | None = None
    component: Name | None = None
    operation: Annotated[str, Field(max_length=100)] | None = None
    limit: int = Field(default=100, ge=1, le=1000)


class ComponentEvents(Query):
    since: Moment | None = None
    type: Annotated[str, Field(max_length=100)] | None = None
    operation: Annotated[str, Field(max_length=100)] | None = None
    limit: int = Field(default=100, ge=1, le=1000)


class Replay(Query):
    """At most one of them; the newest state without."""

    at: Annotated[str, Field(max_length=64, description="ISO-8601")] | None = None
    offset: int | None = Field(default=None, ge=0)
    version: int | None = Field(default=None, ge=0)


class Diff(Query):
    """Moments are versions (v12), times (ISO-8601) or positions (3:120); `to` is now when it is left out."""

    from_: Moment = Field(alias="from")
    to: Moment | None = None


class ReplayAll(Query):
    """`at`: ISO-8601; now without. `states`: JSON Lines with each stream's whole state instead of the summary."""

    at: Annotated[str, Field(max_length=64, description="ISO-8601")] | None = None
    states: bool = False


class Steps(Query):
    """`cursor`: the version to begin with. `states`: with the whole state before and after each event."""

    cursor: Cursor | None = None
    limit: int = Field(default=50, ge=1, le=200)
    states: bool = False


class DiffApp(Query):
    """`team` may be left out where the token has one. Times are ISO-8601; `to` is now when it is left out."""

    app: Name
    team: Name | None = None
    from_: Annotated[str, Field(max_length=64)] = Field(alias="from")
    to: Annotated[str, Field(max_length=64)] | None = None


class Why(Query):
    """`limit`: so many of the newest times that it was set."""

    limit: int = Field(default=10, ge=1, le=10_000)


class ExportStream(Query):
    """`related`: with the streams in which the causes of its events are found, as far as the token reaches."""

    related: bool = False


class Export(Query):
    """`app`: everything it is made of; without it the whole log, for the administrator."""

    app: Name | None = None
    team: Name | None = None


class VerifyLog(Query):
    """`since_head`: heads noted earlier, `partition:offset hash` each, with commas between; or hashes alone."""

    partition: int | None = Field(default=None, ge=0)
    deep: bool = False
    since_head: str = Field(default="", max_length=8192, pattern="^[0-9a-fA-F:, ]*$")


class Upgrade(Read):
    """`to`: a version, the one published last where it is left out."""

    to: str = Field(default="", max_length=40)
    take_theirs: bool = False
