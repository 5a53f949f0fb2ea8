"""Rules for log lines, and alarms on them, from the command line."""

import pytest

from api.cli.main import main
from tests.api.cli.conftest import ContractServer

DONE = {"team": "default", "operation": None, "position": None, "stream": "s", "version": 1, "service_id": None}


def test_rules_are_shown_by_whom_they_are_of(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    blank = {"team_gib": None, "kib_per_second": None, "redact": None, "component_mib": None}
    found = [
        {"team": "default", "app": "", "component": "", **blank, "keep_days": 7.0, "redact": [r"card=\d+"]},
        {"team": "default", "app": "shop", "component": "web", **blank, "keep_days": 0.0},
    ]
    server.answers["listLogRules"] = (200, {"items": found, "next_cursor": None})
    assert main(["log-rules"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("the team", r"card=\d+", "shop/web", "7.0"))


def test_what_is_set_and_what_is_given_back_is_sent(server: ContractServer) -> None:
    server.answers |= {"changeLogRules": (200, DONE), "changeTeamLogRules": (200, DONE)}
    given = ["--keep-days", "3", "--redact", "a=.", "--redact", "b=.", "--inherit", "component-mib"]
    assert main(["log-rules", "set", "--app", "shop", *given, "-m", "why"]) == 0
    [asked] = server.of("changeLogRules")
    assert asked.body == {"keep_days": 3.0, "redact": ["a=.", "b=."], "component_mib": None, "reason": "why"}
    assert main(["log-rules", "set", "--whole-team", "--kib-per-second", "0"]) == 0
    [asked] = server.of("changeTeamLogRules")
    assert asked.body == {"kib_per_second": 0, "reason": ""}


@pytest.mark.parametrize("arguments", [[], ["--inherit", "everything"]])
def test_what_says_nothing_is_wrong_usage(server: ContractServer, arguments: list[str]) -> None:
    assert main(["log-rules", "set", "--app", "shop", *arguments]) == 2
    assert not server.asked


def test_the_status_shows_alarms_with_where_to_look(server: ContractServer, capsys: pytest.CaptureFixture[str]) -> None:
    alarm = {
        "name": "log lines lost", "team": "red", "app": "shop", "component": "web",
        "found": "12 within the last hour, the last 10:15 UTC", "fix": "rayfold logs --app shop",
    }  # fmt: skip
    status = {
        "version": "1", "ready": True, "gateway_port": 1, "partitions": 16, "apps": 1, "components": 1,
        "running_operations": 0, "checks": [], "alarms": [alarm],
    }  # fmt: skip
    server.answers["status"] = (200, status)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("ALARM", "red/shop/web", "12 within the last hour", "rayfold logs --app shop"))
