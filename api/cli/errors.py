"""What a command can end with: exit codes that scripts rely on, and errors that say what to do next.

Knows nothing of the terminal or of HTTP connections; only how a problem document maps to an exit code.
"""

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """The contract with scripts. `DEPLOY_FAILED`: nothing changed for users, the old release (if any) still serves."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    CONFLICT = 5
    DEPLOY_FAILED = 6
    TIMED_OUT = 7
    INTERRUPTED = 130


_BY_STATUS = {
    400: ExitCode.USAGE,
    401: ExitCode.REFUSED,
    403: ExitCode.REFUSED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    422: ExitCode.USAGE,
    504: ExitCode.TIMED_OUT,
}


class CliError(Exception):
    """A command's failure: `message` says what was expected and found, `hint` what to do, `lines` what matters."""

    def __init__(
        self,
        message: str,
        *,
        exit_code: ExitCode = ExitCode.FAILED,
        hint: str = "",
        lines: tuple[str, ...] = (),
        code: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.hint = hint
        self.lines = lines
        self.code = code
        self.request_id = request_id

    def document(self) -> dict[str, object]:
        """The error as `--json` shows it."""
        document: dict[str, object] = {"error": self.message, "exit_code": int(self.exit_code)}
        extras = {"code": self.code, "hint": self.hint, "request_id": self.request_id, "lines": list(self.lines)}
        return document | {key: value for key, value in extras.items() if value}


class Unreachable(CliError):
    """Nobody answers at the platform's address."""


class ApiProblem(CliError):
    """The API refused, with its problem document. `status` is the HTTP status."""

    def __init__(self, status: int, problem: Mapping[str, object]) -> None:
        title = str(problem.get("title") or f"the platform answered with status {status}")
        detail = str(problem.get("detail") or title)
        super().__init__(
            detail,
            exit_code=_BY_STATUS.get(status, ExitCode.FAILED),
            hint=str(problem.get("hint") or problem.get("next") or ""),
            code=str(problem.get("code") or ""),
            request_id=str(problem.get("request_id") or ""),
        )
        self.status = status
        self.problem = dict(problem)
