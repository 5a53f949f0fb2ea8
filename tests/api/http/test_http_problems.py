"""What a reply that is no decision looks like over HTTP."""

import pytest

from api.http.problems import of_error
from events.model.base import Reply


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ("overloaded", 429, "overloaded"),
        ("full", 507, "log_full"),
        ("unavailable", 503, "unavailable"),
        ("not_owner", 503, "unavailable"),
    ],
)
def test_a_command_of_which_nothing_is_known_may_be_repeated(error: str, status: int, code: str) -> None:
    problem = of_error(Reply(command_id="c", error=error, error_message="the log says why"))
    assert (problem.status, problem.code, problem.detail) == (status, code, "the log says why")
    assert int(problem.headers["Retry-After"]) > 0
    assert "Idempotency-Key" in problem.hint


def test_one_for_a_damaged_partition_is_not_to_be_repeated() -> None:
    problem = of_error(Reply(command_id="c", error="unreadable", error_message="batch at 8:76 is corrupt"))
    assert (problem.status, problem.code, problem.detail) == (500, "log_damaged", "batch at 8:76 is corrupt")
    assert "Retry-After" not in problem.headers
    assert "rayfold log verify" in problem.hint
