"""The bodies that tell what went on: builds, releases, rollouts, log lines, pages of events.

Shapes only, as in `schema`; it knows nothing of how a request is served.
"""

from datetime import datetime

from pydantic import JsonValue

from api.http.schema import Change, EventView, View


class BuildView(View):
    team: str
    app: str
    component: str
    build: str
    operation: str
    status: str
    source: dict[str, JsonValue]
    detected: str
    artifact: str | None
    commit: str
    author: str = ""
    code: str
    reason: str
    lines: list[str]
    attempt: int
    cache_hit: bool
    requested_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None


class ReleaseView(View):
    """`config` is in `getRelease` only; `rollback_of` is 0 unless it repeats an older release."""

    team: str
    app: str
    component: str
    number: int
    current: bool
    status: str
    operation: str
    artifact: str
    detected: str
    commit: str
    command: str
    scale: int
    rollback_of: int
    config: dict[str, str] | None = None
    routes: list[str]
    settings: dict[str, str]
    created_at: datetime | None
    created_by: str
    reason: str


class RollbackPreview(View):
    """What `POST rollbacks` with this `to` would change, from release `current`."""

    team: str
    app: str
    component: str
    current: int
    to: int
    changes: list[Change]


class RolloutView(View):
    team: str
    app: str
    component: str
    release: int
    operation: str
    status: str
    reason: str
    started_at: datetime | None
    switched_at: datetime | None
    ended_at: datetime | None


class LogLineView(View):
    """`number` counts from 1 within the stream; a line with `gap` > 0 stands for that many which could not be kept."""

    number: int
    at: datetime
    source: str
    stream: str
    instance: str
    release: int
    text: str
    partial: bool
    gap: int


class LogPage(View):
    """`next` is the number after the last line, for `from`. `complete` false: there may be more that passes, because
    `n` lines or the time limit came first; `looked_from` … `next` - 1 was looked at."""

    team: str
    items: list[LogLineView]
    next: int
    complete: bool
    looked_from: int


class LogStatsView(View):
    """Counts of the lines that are kept, by what they say. `lost`: numbers that gaps stand for. `levels`: of lines
    that name one. `statuses` and `latency_le_ms` (cumulative, `inf` for all) count the gateway's lines, of which
    `latency_ms` is the mean. `complete` false: the time limit came first; lines from `next` on are not counted."""

    team: str
    first: int
    next: int
    complete: bool
    lines: int
    bytes: int
    lost: int
    sources: dict[str, int]
    levels: dict[str, int]
    statuses: dict[str, int]
    requests: int
    latency_ms: float
    latency_le_ms: dict[str, int]


class EventPage(View):
    """`next_cursor` goes on where this page ends, also past a tail that grows: it is never null. `caught_up`: there
    was nothing more."""

    items: list[EventView]
    next_cursor: str
    caught_up: bool
