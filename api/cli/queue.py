"""`rayfold queue`: topics, the tasks in them, dead letters, and trying those again.

Knows what is shown of the queue; nothing of who publishes or consumes.
"""

from typing import Annotated

import typer

from api.cli.client import quote
from api.cli.errors import CliError, ExitCode
from api.cli.loglines import shown
from api.cli.output import ago, duration
from api.cli.session import Session, takes_session
from api.cli.words import Limit

queue = typer.Typer(help="The task queue: topics, peek, stats, dead, retry.", no_args_is_help=True)

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="`rayfold queue topics` lists them.", show_default=False)]
OfTeam = Annotated[str, typer.Option("--of-team", help="Only this team's.", show_default=False)]
_COUNTS = ("ready", "claimed", "delayed", "blocked", "parked", "dead", "consumers")


@queue.command("topics")
@takes_session
def topics(session: Session) -> None:
    """Every topic with its counts."""
    found = session.client.get("/v1/queue").items()
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [t.text("topic"), *(str(t.whole(name)) for name in _COUNTS), duration(t.number("oldest_seconds"))]
        for t in found
    ]
    session.out.table(["topic", *_COUNTS, "oldest"], rows, "no topic has tasks, dead letters or consumers")


@queue.command("stats")
@takes_session
def stats(session: Session, topic: Topic) -> None:
    """The counts of one topic."""
    found = session.client.get(f"/v1/queue/{quote(topic)}")
    if session.out.as_json:
        session.out.json(found)
        return
    facts = [("topic", found.text("topic")), *((name, str(found.whole(name))) for name in _COUNTS)]
    session.out.facts([*facts, ("oldest", duration(found.number("oldest_seconds")))])


@queue.command("peek")
@takes_session
def peek(session: Session, topic: Topic, limit: Limit = 20, of_team: OfTeam = "") -> None:
    """Tasks in the order of publishing, and why each waits."""
    query = {"limit": limit, **({"team": of_team} if of_team else {})}
    found = session.client.get(f"/v1/queue/{quote(topic)}/tasks", query).items()
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [t.text("task"), t.text("status"), ago(t.text("published_at")), str(t.whole("attempts")), t.text("key") or "-",
         t.text("team") or "-", shown(t.text("consumer", "reason"))]
        for t in found
    ]  # fmt: skip
    session.out.table(["task", "status", "published", "attempts", "key", "team", "by / why"], rows, "no task is queued")


@queue.command("dead")
@takes_session
def dead(session: Session, topic: Topic, limit: Limit = 20, of_team: OfTeam = "") -> None:
    """Tasks that were given up, and why."""
    query = {"limit": limit, **({"team": of_team} if of_team else {})}
    found = session.client.get(f"/v1/queue/{quote(topic)}/dead", query).items()
    if session.out.as_json:
        session.out.json(found)
        return
    rows = [
        [
            t.text("task"),
            ago(t.text("dead_at")),
            str(t.whole("attempts")),
            t.text("team") or "-",
            shown(t.text("reason")),
        ]
        for t in found
    ]
    session.out.table(["task", "died", "attempts", "team", "reason"], rows, "no dead letter")


@queue.command("retry")
@takes_session
def retry(
    session: Session,
    topic: Topic,
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="Dead letters to try again.")],
) -> None:
    """Publish dead letters again, with as many attempts as at first."""
    answer = session.client.send("POST", f"/v1/queue/{quote(topic)}/retry", {"ids": tasks})
    if session.out.as_json:
        session.out.json(answer)
    missing = [task for task, retried in zip(tasks, answer.words("retried"), strict=False) if retried != "True"]
    for task in (task for task in tasks if task not in missing):
        session.out.say(f"{task} is queued again")
    if missing:
        raise CliError(
            f"expected a dead letter, found none called {', '.join(missing)}",
            exit_code=ExitCode.NOT_FOUND,
            hint=f"rayfold queue dead {topic}",
        )
