"""`rayfold cron`: commands that run at times: list, show, set, suspend, resume, run now, remove.

Knows what can be said of a job; when it comes next, the platform computes.
"""

import re
import shlex
from datetime import datetime
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.output import ago
from api.cli.session import Session, takes_session
from api.cli.tasks import run_and_follow
from api.cli.waiting import DEFAULT_SECONDS
from api.cli.words import Detach, Wait, Why

cron = typer.Typer(help="Commands that run at times: list, info, set, suspend, resume, run, remove.")

RUNS_SHOWN = 50
_DURATION = re.compile(r"^(\d{1,6})([smhd]?)$")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

Job = Annotated[str, typer.Argument(metavar="NAME", help="The job, as `rayfold cron` shows it.")]


@cron.callback(invoke_without_command=True)
@takes_session
def cron_root(session: Session) -> None:
    """The component's cron jobs, and when each comes next."""
    _list(session)


@cron.command("list")
@takes_session
def cron_list(session: Session) -> None:
    """The component's cron jobs, and when each comes next."""
    _list(session)


def _list(session: Session) -> None:
    found = session.listed("crons")
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [c.text("name"), c.text("schedule"), c.text("zone"), c.text("policy"), _next(c), ago(c.text("last_tick")),
         c.text("missed"), c.text("skipped"), c.text("command")]
        for c in found
    ]  # fmt: skip
    headings = ["job", "schedule", "zone", "policy", "next", "last", "missed", "skipped", "command"]
    session.out.table(headings, rows, "no job yet: rayfold cron set NAME SCHEDULE COMMAND...")


def _next(job: Document) -> str:
    return "suspended" if job.flag("suspended") else _minute(job.text("next_at"))


def _minute(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC") if text else ""


@cron.command("info")
@takes_session
def cron_info(session: Session, name: Job) -> None:
    """One job, and the runs that it remembers."""
    job = session.read("crons", name)
    runs = session.listed("crons", name, "runs", limit=RUNS_SHOWN)
    if session.out.as_json:
        session.out.json({**job.raw, "runs": [run.raw for run in runs]})
        return
    session.out.facts(
        [("job", job.text("name")), ("schedule", f"{job.text('schedule')} ({job.text('zone')})"),
         ("command", job.text("command")), ("policy", job.text("policy")), ("next", _next(job)),
         ("in time", f"up to {job.text('late_seconds')} s late"), ("runs for", f"at most {job.text('run_seconds')} s"),
         ("missed", job.text("missed")), ("skipped", f"{job.text('skipped')} {job.text('last_skip')}".strip())]
    )  # fmt: skip
    rows = [
        [r.text("operation"), _minute(r.text("tick")) or "by hand", r.text("status"), ago(r.text("began_at")),
         ago(r.text("ended_at")), r.text("reason")]
        for r in runs
    ]  # fmt: skip
    session.out.table(["operation", "scheduled for", "status", "began", "ended", "why"], rows, "it has not run yet")


def _duration(text: str) -> int:
    found = _DURATION.match(text)
    if found is None:
        raise CliError(f"expected a time like 90s, 5m, 2h or 1d, found {text[:40]!r}", exit_code=ExitCode.USAGE)
    return int(found[1]) * _UNITS[found[2]]


@cron.command("set")
@takes_session
def cron_set(
    session: Session,
    name: Job,
    schedule: Annotated[str, typer.Argument(metavar="SCHEDULE", help='"30 3 * * 1-5", @daily: in quotes.')],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run; -- before its own options.")],
    zone: Annotated[str, typer.Option("--zone", metavar="ZONE", help="Its clock: Europe/Berlin.")] = "UTC",
    policy: Annotated[
        str, typer.Option("--policy", metavar="allow|forbid|replace", help="While a run is not over.")
    ] = "forbid",
    late: Annotated[str, typer.Option("--late", metavar="TIME", help="A tick later than this is missed.")] = "1h",
    most: Annotated[str, typer.Option("--run-at-most", metavar="TIME", help="A longer run is stopped.")] = "1d",
    history: Annotated[int, typer.Option("--history", min=1, max=50, help="Ended runs to keep.")] = 10,
    message: Why = "",
) -> None:
    """Run a command at times, in the current release. The same name again changes the job."""
    text = command[0] if len(command) == 1 else shlex.join(command)
    body = {
        "name": name, "schedule": schedule, "command": text, "zone": zone, "policy": policy, "reason": message,
        "late_seconds": _duration(late), "run_seconds": _duration(most), "history": history,
    }  # fmt: skip
    answer = session.write("POST", "crons", body=body)
    if session.out.as_json:
        session.out.json(answer)
        return
    job = session.read("crons", name, query={"min_position": answer.text("position")})
    session.out.say(f"{name} is set; next: {_next(job)}")


@cron.command("suspend")
@takes_session
def cron_suspend(session: Session, name: Job, message: Why = "") -> None:
    """Have it no ticks for now; a run goes on to its end."""
    _change(session, name, suspended=True, why=message)
    session.out.say(f"{name} is suspended; go on with: rayfold cron resume {name}")


@cron.command("resume")
@takes_session
def cron_resume(session: Session, name: Job, message: Why = "") -> None:
    """Have it ticks again, from now on."""
    _change(session, name, suspended=False, why=message)
    session.out.say(f"{name} is resumed")


def _change(session: Session, name: str, *, suspended: bool, why: str) -> None:
    answer = session.write("PATCH", "crons", name, body={"suspended": suspended, "reason": why})
    if session.out.as_json:
        session.out.json(answer)


@cron.command("run")
@takes_session
def cron_run(
    session: Session, name: Job, message: Why = "", detach: Detach = False, timeout: Wait = DEFAULT_SECONDS
) -> None:
    """Run it now, also while it is suspended; its output and exit code become this command's."""
    path = ("crons", name, "runs")
    run_and_follow(session, f"cron job {name}", path, {"reason": message}, detach=detach, timeout=timeout)


@cron.command("remove")
@takes_session
def cron_remove(session: Session, name: Job, message: Why = "") -> None:
    """Have the job no more; a run goes on to its end."""
    answer = session.write("DELETE", "crons", name, query={"reason": message})
    if session.out.as_json:
        session.out.json(answer)
    session.out.say(f"{name} is removed")
