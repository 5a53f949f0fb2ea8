"""When ticks come: plain days, the nights on which the clocks change, what is missed, and what no schedule can be."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some

from events.model.cron import MISSED_COUNTED, CronJob, due_ticks, job_problem, next_tick, tick_text

SECOND = 1_000_000
MINUTE = 60 * SECOND
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")
SCHEDULES = ("* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "0,30 1-3 * * *", "15 0 1 * *", "0 9 * * 1-5",
             "59 23 L * *", "@daily")  # fmt: skip


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * SECOND


def job(schedule: str, zone: str = "UTC", **fields: object) -> CronJob:
    return CronJob(name="job", schedule=schedule, command="true", zone=zone, **fields)  # type: ignore[arg-type]


def ticks(schedule: str, zone: str, start: str, count: int) -> list[str]:
    """So many ticks after `start` (in the zone), as UTC."""
    found, now = [], at(start, zone)
    for _ in range(count):
        now = next_tick(job(schedule, zone), now)
        found.append(datetime.fromtimestamp(now / SECOND, UTC).strftime("%m-%d %H:%M"))
    return found


def test_a_schedule_is_read_in_its_zone() -> None:
    assert ticks("30 3 * * 1-5", "Europe/Berlin", "2026-01-02T12:00", 2) == ["01-05 02:30", "01-06 02:30"]
    assert ticks("30 3 * * 1-5", "UTC", "2026-01-02T12:00", 2) == ["01-05 03:30", "01-06 03:30"]
    assert ticks("@weekly", "UTC", "2026-01-02T12:00", 1) == ["01-04 00:00"]


def test_a_job_of_the_skipped_hour_runs_right_after_it() -> None:
    assert ticks("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]


def test_a_job_of_the_hour_that_comes_twice_runs_once() -> None:
    assert ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00", 3) == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]
    # Asked in the second of the two hours, when it has run already.
    assert next_tick(job("30 2 * * *", "Europe/Berlin"), at("2026-10-25T01:10")) == at("2026-10-26T01:30")


def test_what_runs_every_half_hour_runs_so_when_the_clocks_change_too() -> None:
    for night in ("2026-03-29", "2026-10-25"):
        now = at(f"{night}T00:00")
        for _ in range(6):
            following = next_tick(job("*/30 * * * *", "Europe/Berlin"), now)
            assert following - now == 30 * MINUTE
            now = following


@given(some.sampled_from(SCHEDULES), some.sampled_from(ZONES), some.integers(0, 1_500_000), some.integers(0, 59))
def test_the_next_tick_is_later_and_there_is_none_between(schedule: str, zone: str, minutes: int, seconds: int) -> None:
    asked = at("2025-01-01T00:00") + minutes * MINUTE + seconds * SECOND + 1
    tick = next_tick(job(schedule, zone), asked)
    assert tick > asked
    assert tick % MINUTE == 0
    middle = (asked + tick) // 2
    assert next_tick(job(schedule, zone), middle) == tick, "from wherever one looks, it is the same one"


@given(some.sampled_from(SCHEDULES), some.sampled_from(ZONES), some.integers(0, 365 * 24 * 60), some.integers(0, 4000))
def test_what_is_due_is_counted_as_one_tick_after_the_other(schedule: str, zone: str, start: int, away: int) -> None:
    asked = job(schedule, zone)
    first = next_tick(asked, at("2025-06-01T00:00") + start * MINUTE)
    now = first + away * MINUTE + 1
    counted = [first]
    while (tick := next_tick(asked, counted[-1])) <= now:
        counted.append(tick)
    due = due_ticks(asked, first, now)
    assert (due.first, due.last, due.more) == (first, counted[-1], len(counted) > MISSED_COUNTED)
    assert due.count == min(len(counted), MISSED_COUNTED)
    assert len(counted) < 2 or due.before_last == counted[-2]


def test_a_year_of_minutes_is_not_counted_one_by_one() -> None:
    due = due_ticks(job("* * * * *"), at("2025-01-01T00:00"), at("2026-01-01T00:00") + 1)
    assert (due.count, due.more) == (MISSED_COUNTED, True)
    assert (due.before_last, due.last) == (at("2025-12-31T23:59"), at("2026-01-01T00:00"))


def test_a_tick_that_was_promised_counts_though_the_schedule_has_it_no_more() -> None:
    promised = at("2026-01-01T00:17")
    assert due_ticks(job("0 * * * *"), promised, promised + 1).last == promised


def test_a_tick_names_what_it_causes() -> None:
    assert tick_text(at("2026-11-28T03:15")) == "20261128T031500Z"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (job("* * * *"), "4 fields"),
        (job("* * * * * *"), "6 fields"),
        (job("61 * * * *"), "Bad minute"),
        (job("0 0 30 2 *"), "Bad day-of-month"),
        (job("* * */20 * 1L"), "never comes"),
        (job("@reboot"), "1 fields"),
        (job("0 " * 200), "longer than"),
        (job("@daily", "Europe/Nowhere"), "time zone"),
        (job("@daily", "../../etc/passwd"), "time zone"),
        (job("@daily", "America"), "time zone"),
        (job("@daily", late_seconds=0), "late_seconds"),
        (job("@daily", history=1000), "history"),
        (CronJob(name="Job", schedule="@daily", command="true"), "lower-case"),
        (CronJob(name="job", schedule="@daily", command=" "), "command"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_reason(given: CronJob, expected: str) -> None:
    problem = job_problem(given)
    assert problem is not None and problem.code == "invalid"
    assert expected in problem.message


def test_what_can_be_kept_has_no_problem() -> None:
    for schedule in SCHEDULES:
        for zone in ZONES:
            assert job_problem(job(schedule, zone)) is None
