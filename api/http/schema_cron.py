"""Request and response bodies of cron jobs and their runs. Shapes and bounds only."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.http.schema import Body, Name, Reason, View
from events.model.cron import MAX_COMMAND, MAX_EXPRESSION, MAX_HISTORY, MAX_SECONDS

Policy = Literal["allow", "forbid", "replace"]


class SetCron(Body):
    """`schedule`: minute, hour, day, month, weekday as in crontab(5), or @hourly, @daily, @weekly, @monthly, @yearly,
    in `zone`, an IANA name. `policy`: what a tick comes to while a run of the job is not over. A tick later than
    `late_seconds` is missed; a run that takes longer than `run_seconds` is stopped; `history`: ended runs to keep."""

    name: Name
    schedule: str = Field(min_length=1, max_length=MAX_EXPRESSION, examples=["30 3 * * 1-5"])
    command: str = Field(min_length=1, max_length=MAX_COMMAND)
    zone: str = Field(default="UTC", min_length=1, max_length=60, examples=["Europe/Berlin"])
    policy: Policy = "forbid"
    late_seconds: int = Field(default=3600, ge=1, le=MAX_SECONDS)
    run_seconds: int = Field(default=24 * 3600, ge=1, le=MAX_SECONDS)
    history: int = Field(default=10, ge=1, le=MAX_HISTORY)
    reason: Reason = ""


class ChangeCron(Body):
    suspended: bool
    reason: Reason = ""


class CronView(View):
    """`next_at`: null while suspended. `last_tick`: the newest time that it was run, skipped or missed for."""

    team: str
    app: str
    component: str
    name: str
    schedule: str
    zone: str
    command: str
    policy: str
    late_seconds: int
    run_seconds: int
    history: int
    suspended: bool
    next_at: datetime | None
    last_tick: datetime | None
    missed: int
    skipped: int
    last_skip: str
    created_at: datetime


class CronRunView(View):
    """`tick`: the time it was scheduled for, null when asked for by hand. `status`: as an operation's."""

    team: str
    app: str
    component: str
    cron: str
    operation: str
    tick: datetime | None
    status: str
    reason: str
    began_at: datetime
    ended_at: datetime | None
