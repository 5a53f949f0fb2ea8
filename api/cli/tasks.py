"""`rayfold run`: a command once in the current release, with its output and its exit code.

Knows the component's events and log lines; the process runs on some node of the platform.
"""

import shlex
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.safe import visible
from api.cli.session import Session, takes_session
from api.cli.story import ENDINGS
from api.cli.waiting import DEFAULT_SECONDS, how_to_follow
from api.cli.words import Detach, Wait, Why

POLL_SECONDS = 0.2
QUIET_SECONDS = 1.0  # lines may arrive a little after the process has ended
_PAGE = 1000


@takes_session
def run(
    session: Session,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run; -- before its own options.")],
    message: Why = "",
    detach: Detach = False,
    timeout: Wait = DEFAULT_SECONDS,
) -> None:
    """Run a command once in the current release; its output and exit code become this command's."""
    text = command[0] if len(command) == 1 else shlex.join(command)
    body = {"command": text, "reason": message}
    run_and_follow(session, text, ("tasks",), body, detach=detach, timeout=timeout)


def run_and_follow(
    session: Session, text: str, path: Sequence[str], body: object, *, detach: bool, timeout: float
) -> None:
    """POST what starts a task (`text` in words), and become it: its output, its exit code. Raises CliError."""
    number = session.read("logs", query={"n": 1}).whole("next", 1)
    answer = session.write("POST", *path, body=body)
    operation = answer.text("operation")
    if detach:
        session.out.json(answer) if session.out.as_json else session.out.line(operation)
        session.out.say(how_to_follow(operation))
        return
    task = _Task(session, answer, number)
    try:
        task.follow(time.monotonic() + timeout)
    except KeyboardInterrupt as error:
        raise CliError(
            f"stopped watching; `{text}` goes on", exit_code=ExitCode.INTERRUPTED, hint=how_to_follow(operation)
        ) from error
    except TimeoutError as error:
        raise CliError(
            f"`{text}` still runs after {timeout:.0f} s", exit_code=ExitCode.TIMED_OUT, hint=how_to_follow(operation)
        ) from error
    if session.out.as_json:
        session.out.json({"operation": operation, "exit_code": task.exit_code, "lines": task.kept})
    task.leave()


class _Task:
    """One run: reads its events and its lines in turns until both are at their end."""

    def __init__(self, session: Session, accepted: Document, number: int) -> None:
        self._session = session
        self._operation = accepted.text("operation")
        self._cursor = accepted.text("position")
        self._number = number
        self._instance = ""
        self._ended = ""
        self.exit_code: int | None = None
        self.kept: list[str] = []

    def follow(self, deadline: float) -> None:
        """Until it ended and its lines have come. Raises TimeoutError."""
        quiet_since = 0.0
        while True:
            self._read_events()
            came = self._read_lines()
            now = time.monotonic()
            if self._ended:
                quiet_since = now if came or not quiet_since else quiet_since
                if now - quiet_since >= QUIET_SECONDS:
                    return
            if now >= deadline:
                raise TimeoutError
            time.sleep(POLL_SECONDS)

    def leave(self) -> None:
        """Exit with the task's own code. Raises CliError when it never ran."""
        code = self.exit_code
        if code is None:
            raise CliError(f"the command did not run: {self._ended}")
        if code != 0:
            raise typer.Exit(code if 0 < code < 256 else int(ExitCode.FAILED))

    def _read_events(self) -> None:
        # The component's events and not the operation's: what the node reports of the instance carries no operation.
        page = self._session.read("events", query={"since": self._cursor, "limit": _PAGE})
        self._cursor = page.text("next_cursor", default=self._cursor)
        for event in page.items():
            body, kind = event.inner("body"), event.text("type")
            if kind == "InstanceStarting" and body.text("task") == self._operation:
                self._instance = body.text("instance")
            elif kind == "InstanceExited" and self._instance and body.text("instance") == self._instance:
                signal = body.whole("signal")
                self.exit_code = 128 + signal if signal else body.whole("exit_code")
            elif kind in ENDINGS and body.text("operation") == self._operation:
                self._ended = body.text("reason", "detail", default=kind)

    def _read_lines(self) -> bool:
        page = self._session.read("logs", query={"from": self._number, "n": _PAGE})
        mine = [line for line in page.items() if line.text("instance") == self._instance]
        if not self._instance:
            return False  # the lines stay where they are until we know which are ours
        for line in mine:
            self._show(line)
        self._number = page.whole("next", self._number)
        return bool(page.items())

    def _show(self, line: Document) -> None:
        text = visible(line.text("text"))
        if self._session.out.as_json:
            self.kept.append(line.text("text"))
        elif line.text("source") == "app":
            print(text, file=sys.stderr if line.text("stream") in ("e", "stderr") else sys.stdout, flush=True)
