"""Cron: the schedules of a component's jobs, and the arithmetic of their ticks.

A tick is the time for which a run is scheduled; everything that a tick causes is named after it. Pure but for the
time zones' tables, which is why events carry the ticks that were computed and a fold computes none.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError

from events.model.base import Refusal, name_problem

SECOND = 1_000_000  # microseconds
MAX_CRONS = 20  # of one component
MAX_EXPRESSION = 120  # characters
MAX_COMMAND = 8192  # characters, of a command that runs once
MAX_SECONDS = 7 * 24 * 3600
MAX_HISTORY = 50  # runs that a job remembers
MISSED_COUNTED = 1000  # missed ticks, one by one; of more it is said that there were at least so many
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_ZONE = re.compile(r"^[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}$")


class CronPolicy(StrEnum):
    """What a tick comes to while a run of the same job is not over: it runs beside it; it is skipped, and that is
    said; it runs once the other one, which is stopped for it, has ended."""

    ALLOW = "allow"
    FORBID = "forbid"
    REPLACE = "replace"


class CronJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the user wants to run and when. `schedule`: five fields as in crontab(5), or @daily and the like, in `zone`
    (an IANA name). A tick later than `late_seconds` is missed; a run longer than `run_seconds` is stopped."""

    name: str
    schedule: str
    command: str
    zone: str = "UTC"
    policy: CronPolicy = CronPolicy.FORBID
    late_seconds: int = 3600
    run_seconds: int = 24 * 3600
    history: int = 10


class CronRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A run that is over. `tick` 0: asked for by hand. `outcome`: succeeded, failed, cancelled, timed_out."""

    operation: str
    outcome: str
    tick: int = 0
    began_at: int = 0
    ended_at: int = 0
    reason: str = ""


class Cron(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A job and where it stands; times in microseconds UTC. `next_at` 0: suspended, or its schedule has no tick left.

    `last_tick` is the newest that was run, skipped or missed; `runs` are the newest ones, the last one last."""

    job: CronJob
    suspended: bool = False
    next_at: int = 0
    last_tick: int = 0
    missed: int = 0
    skipped: int = 0
    runs: tuple[CronRun, ...] = ()


class Due(msgspec.Struct, frozen=True, gc=False):
    """Ticks that have come: the first, the newest, and how many; `more`: at least so many."""

    first: int
    last: int
    count: int
    before_last: int
    more: bool = False


def command_problem(command: str) -> Refusal | None:
    """None when `command` can be run once, or by the clock; else what is wrong with it."""
    if not command.strip() or len(command) > MAX_COMMAND or "\0" in command:
        return Refusal(code="invalid", message=f"expected a command of 1 to {MAX_COMMAND} characters without NUL")
    return None


def job_problem(job: CronJob) -> Refusal | None:
    """None when `job` can be kept; else what is wrong with it."""
    if problem := name_problem("a job name", job.name):
        return problem
    if problem := command_problem(job.command):
        return problem
    try:
        zone_of(job.zone)
    except (ValueError, KeyError, OSError):
        message = f"expected a time zone, found {job.zone[:60]!r}"
        return Refusal(code="invalid", message=message, hint="for example: UTC, Europe/Berlin, America/New_York")
    try:
        found = next_tick(job, 0)
    except CronSimError as error:
        return _bad_schedule(job.schedule, str(error))
    if not found:
        return _bad_schedule(job.schedule, "it never comes")
    for key, most in (("late_seconds", MAX_SECONDS), ("run_seconds", MAX_SECONDS), ("history", MAX_HISTORY)):
        value = getattr(job, key)
        if not 1 <= value <= most:
            message = f"{key}: expected a whole number from 1 to {most}, found {value}"
            return Refusal(code="invalid", message=message)
    return None


def _bad_schedule(schedule: str, why: str) -> Refusal:
    message = f"expected five fields (minute hour day month weekday) or one of {', '.join(sorted(_MACROS))}, "
    hint = 'for example: "30 3 * * 1-5" at 3:30 from Monday to Friday, "*/10 * * * *" every ten minutes'
    return Refusal(code="invalid", message=message + f"found {schedule[:MAX_EXPRESSION]!r}: {why}", hint=hint)


def zone_of(name: str) -> tzinfo:
    """The time zone of that name. Raises ValueError, KeyError, OSError."""
    if name == "UTC":
        return UTC
    if not _ZONE.match(name):
        raise ValueError(f"expected the name of a time zone, found {name[:60]!r}")
    return ZoneInfo(name)


def next_tick(job: CronJob, after: int) -> int:
    """The first tick later than `after` (microseconds UTC); 0 when none comes within 50 years. Raises CronSimError."""
    return next(_ticks(job, after), 0)


def due_ticks(job: CronJob, first: int, now: int) -> Due:
    """The ticks from `first`, which has come, to `now`.

    `first` counts as one even if the schedule has no such tick any more: time zones change, and it was promised.
    """
    count, last, before = 1, first, first
    for tick in _ticks(job, first):
        if tick > now:
            return Due(first, last, count, before)
        if count == MISSED_COUNTED:
            break
        count, last, before = count + 1, tick, last
    else:
        return Due(first, last, count, before)
    # So many that they are not worth counting: only the newest two matter.
    zone = zone_of(job.zone)
    behind = CronSim(_expression(job), _local(now, zone), reverse=True)
    anchor = min(next(behind), next(behind))
    for tick in _ticks(job, _micros(anchor) - 1):
        if tick > now:
            break
        last, before = max(last, tick), last
    return Due(first, last, count, before, more=True)


def tick_text(tick: int) -> str:
    """A tick as it stands in the ids of what it causes: 20261128T031500Z."""
    return datetime.fromtimestamp(tick / SECOND, UTC).strftime("%Y%m%dT%H%M%SZ")


def _ticks(job: CronJob, after: int) -> Iterator[int]:
    """In order, each once."""
    zone = zone_of(job.zone)
    for found in CronSim(_expression(job), _local(after, zone)):
        tick = _micros(found)
        # Between two and three at night in autumn the library may find again what is over already.
        if tick > after:
            after = tick
            yield tick


def _expression(job: CronJob) -> str:
    text = _MACROS.get(job.schedule.strip().lower(), job.schedule)
    if len(text) > MAX_EXPRESSION:
        raise CronSimError(f"longer than {MAX_EXPRESSION} characters")
    if len(text.split()) != 5:
        raise CronSimError(f"{len(text.split())} fields")  # the library would take seconds as a sixth
    return text


def _local(at: int, zone: tzinfo) -> datetime:
    return (datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at)).astimezone(zone)


def _micros(found: datetime) -> int:
    return int(found.astimezone(UTC).timestamp()) * SECOND
