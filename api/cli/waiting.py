"""Waiting for an operation: shows each step with its time, and turns the ending into an exit code.

Knows operations and what detaching, time-outs and failures mean to a script; nothing of what was asked for.
"""

import time

from api.cli.client import quote
from api.cli.document import Document
from api.cli.errors import ApiProblem, CliError, ExitCode
from api.cli.feed import Feed
from api.cli.output import duration
from api.cli.progress import Progress
from api.cli.session import Session
from api.cli.story import Ending, Story

DEFAULT_SECONDS = 1800.0


def operation_path(operation: str, *rest: str) -> str:
    """`/v1/operations/{operation}/…`."""
    return "/".join(["/v1/operations", quote(operation), *rest])


def how_to_follow(operation: str) -> str:
    """What to type to go on watching, or to stop it."""
    return f"follow it: rayfold operations {operation} --follow\nstop it:   rayfold operations {operation} --cancel"


def watch(
    session: Session, operation: str, progress: Progress, seconds: float = DEFAULT_SECONDS, *, position: str = ""
) -> Story:
    """Follow `operation` until it ended, at most `seconds`. `position` is where the log has its beginning, if known.

    Raises CliError with INTERRUPTED on Ctrl-C (the operation goes on) and with TIMED_OUT when the time is up.
    """
    story = Story(operation)
    deadline = time.monotonic() + seconds
    try:
        query = {"min_position": position}
        for sent in Feed(session.client, operation_path(operation, "events"), query, deadline=deadline):
            event = sent.document()
            if not event.text("type"):
                continue
            for step in story.on(event):
                progress.done(step.name, step.detail, step.seconds)
            progress.doing(story.current)
            if story.ending is not None:
                return story
            if time.monotonic() >= deadline:
                raise TimeoutError
        story.ending = _ending_of(session.client.get(operation_path(operation)))
    except KeyboardInterrupt as error:
        raise CliError(
            f"stopped watching; operation {operation} goes on (at: {story.current})",
            exit_code=ExitCode.INTERRUPTED,
            hint=how_to_follow(operation),
            code="detached",
        ) from error
    except ApiProblem as problem:
        if problem.code == "log_damaged":
            raise CliError(
                f"operation {operation} was accepted and goes on, but cannot be watched: {problem.message}",
                hint=problem.hint,
                code=problem.code,
                request_id=problem.request_id,
            ) from problem
        raise
    except TimeoutError as error:
        raise CliError(
            f"operation {operation} is still going after {seconds:.0f} s (at: {story.current})",
            exit_code=ExitCode.TIMED_OUT,
            hint=how_to_follow(operation),
            code="still_going",
        ) from error
    return story


def _ending_of(view: Document) -> Ending:
    return Ending(
        status=view.text("status"),
        detail=view.text("reason", "result", "detail"),
        code=view.text("code"),
        lines=view.words("lines"),
        still_serving=view.whole("still_serving"),
    )


def expect_success(story: Story, what: str, app: str = "") -> Ending:
    """The good ending; `app` is named in the hints.

    Raises CliError with DEPLOY_FAILED and the lines that matter when it was none.
    """
    ending = story.ending
    if ending is None or ending.good:
        return ending or Ending(status="succeeded")
    serving = f"v{ending.still_serving} still serves" if ending.still_serving else "no release serves"
    word = {"timed_out": "timed out", "cancelled": "was cancelled"}.get(ending.status, "failed")
    at = f" --app {app}" if app else ""
    build = f"the whole output: rayfold builds output {story.build}{at}\n" if story.build and not story.release else ""
    logs = "" if build or ending.status == "cancelled" else f"look closer: rayfold logs -n 50{at}\n"
    raise CliError(
        f"{what} {word}: {ending.detail}\n{serving}",
        exit_code=ExitCode.DEPLOY_FAILED,
        lines=ending.lines,
        hint=f"{build}{logs}what happened: rayfold operations {story.operation}",
        code=ending.code or ending.status,
    )


def carry_out(
    session: Session, accepted: Document, what: str, *, detach: bool = False, seconds: float = DEFAULT_SECONDS
) -> Story | None:
    """After a write: wait for its operation and tell how it ended; with `--json` the operation is printed.

    None when there is nothing to wait for: nothing had to change, or `detach`. Raises CliError when it failed.
    """
    operation, out = accepted.text("operation"), session.out
    if not operation or detach:
        if out.as_json:
            out.json(accepted)
        elif operation:
            out.line(operation)
            out.say(how_to_follow(operation))
        else:
            out.say(f"{what}: nothing had to change")
        return None
    with Progress(out) as progress:
        story = watch(session, operation, progress, seconds, position=accepted.text("position"))
    if out.as_json:
        out.json(session.client.get(operation_path(operation), {"min_position": story.position}))
    ending = expect_success(story, what, session.app)
    out.say(f"{what}: {ending.detail or 'done'} ({duration(story.seconds)})")
    return story
