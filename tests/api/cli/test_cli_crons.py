"""Cron jobs on the command line: what is sent, and how jobs and their runs are shown."""

import pytest

from api.cli.main import main
from tests.api.cli.conftest import ContractServer

JOB = {
    "team": "default", "app": "shop", "component": "web", "name": "nightly", "schedule": "30 3 * * *",
    "zone": "Europe/Berlin", "command": "tidy up", "policy": "forbid", "late_seconds": 3600, "run_seconds": 86400,
    "history": 10, "suspended": False, "next_at": "2026-05-02T01:30:00Z", "last_tick": "2026-05-01T01:30:00Z",
    "missed": 2, "skipped": 1, "last_skip": "the run before is not over", "created_at": "2026-04-01T00:00:00Z",
}  # fmt: skip
RUN = {
    "team": "default", "app": "shop", "component": "web", "cron": "nightly", "operation": "cron-ab-nightly-x",
    "tick": "2026-05-01T01:30:00Z", "status": "failed", "reason": "exit code 3", "began_at": "2026-05-01T01:30:00Z",
    "ended_at": "2026-05-01T01:31:00Z",
}  # fmt: skip
DONE = {"team": "default", "operation": None, "position": "3:7", "stream": "s", "version": 1, "service_id": "ab"}


def test_a_job_is_set_with_everything_that_was_said(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers |= {"setCron": (200, DONE), "getCron": (200, JOB)}

    words = ["cron", "set", "--app", "shop", "--zone", "Europe/Berlin", "--policy", "replace", "--late", "10m",
             "--run-at-most", "2h", "--history", "3", "-m", "it piles up", "nightly", "30 3 * * *",
             "--", "tidy", "--all", "a b"]  # fmt: skip
    assert main(words) == 0

    [asked] = server.of("setCron")
    assert asked.body == {
        "name": "nightly", "schedule": "30 3 * * *", "zone": "Europe/Berlin", "policy": "replace", "late_seconds": 600,
        "run_seconds": 7200, "history": 3, "command": "tidy --all 'a b'", "reason": "it piles up",
    }  # fmt: skip
    assert server.of("getCron")[0].query == {"min_position": "3:7"}
    assert "2026-05-02 01:30 UTC" in capsys.readouterr().err


def test_a_time_that_is_none_is_a_wrong_use(server: ContractServer) -> None:
    assert main(["cron", "set", "--app", "shop", "--late", "soon", "nightly", "@daily", "true"]) == 2
    assert server.of("setCron") == []


def test_jobs_and_runs_are_shown(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers |= {
        "listCrons": (200, {"items": [JOB, {**JOB, "name": "held", "suspended": True, "next_at": None}],
                            "next_cursor": None}),
        "getCron": (200, JOB),
        "listCronRuns": (200, {"items": [RUN, {**RUN, "tick": None, "status": "succeeded"}], "next_cursor": None}),
    }  # fmt: skip

    assert main(["cron", "--app", "shop"]) == 0
    listed = capsys.readouterr().out
    assert main(["cron", "info", "nightly", "--app", "shop"]) == 0
    told = capsys.readouterr().out

    assert "2026-05-02 01:30 UTC" in listed and "suspended" in listed
    assert "exit code 3" in told and "by hand" in told and "2026-05-01 01:30 UTC" in told


def test_suspend_resume_and_remove(server: ContractServer) -> None:
    server.answers |= {"changeCron": (200, DONE), "removeCron": (200, DONE)}

    for word in ("suspend", "resume", "remove"):
        assert main(["cron", word, "nightly", "--app", "shop", "-m", "so"]) == 0

    assert [asked.body for asked in server.of("changeCron")] == [
        {"suspended": True, "reason": "so"},
        {"suspended": False, "reason": "so"},
    ]
    assert server.of("removeCron")[0].query == {"reason": "so"}


def test_run_gives_the_operation_to_follow(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers |= {
        "runCron": (202, {**DONE, "operation": "op1"}),
        "getLogs": (200, {"items": [], "next": 1, "first": 1, "gaps": []}),
    }

    assert main(["cron", "run", "nightly", "--app", "shop", "--detach"]) == 0

    assert capsys.readouterr().out.strip() == "op1"
    assert server.of("runCron")[0].params["cron"] == "nightly"
