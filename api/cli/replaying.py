"""`rayfold replay`: any past moment of anything, event by event, or of the whole platform.

Knows the command's options and how an answer is laid out; folding is the platform's work, or the offline tools'.
"""

import io
import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.debugtext import step_lines
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.fetched import history_of, moment_in, offline
from api.cli.loglines import since_time
from api.cli.output import clock
from api.cli.safe import visible_json
from api.cli.session import Session, takes_session
from api.cli.streams import AnyStream, At, File, Offset, Version, one_moment, path_of, stream_name

if TYPE_CHECKING:
    from api.cli.offline import Offline

_BLOCK = 50  # steps worded at once


@takes_session
def replay(
    session: Session,
    stream: AnyStream = "",
    at: At = "",
    offset: Offset = None,
    version: Version = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole platform, every stream.")] = False,
    step: Annotated[bool, typer.Option("--step", help="Event by event: its causes and what it changed.")] = False,
    begin: Annotated[int | None, typer.Option("--from", min=1, help="Steps from this version on.")] = None,
    end: Annotated[int | None, typer.Option("--to", min=1, help="Steps up to this version.")] = None,
    states: Annotated[bool, typer.Option("--states", help="With whole states before and after each step.")] = False,
    pdb: Annotated[bool, typer.Option("--pdb", help="Stop in the aggregate's own apply, event by event.")] = False,
    file: File = None,
) -> None:
    """The state of anything at any past moment; with --step or --pdb how it came about."""
    query = one_moment(at, offset, version)
    if everything:
        if stream or step or pdb or offset is not None or version is not None:
            raise CliError("expected --all with --at only, found more", exit_code=ExitCode.USAGE)
        _whole(session, at, file)
        return
    if not stream:
        raise CliError("expected a STREAM, or --all, found neither", exit_code=ExitCode.USAGE, hint="rayfold events")
    name = stream_name(session, stream)
    if step or pdb:
        if offset is not None and file is None:
            # What the platform sends ends with the stream's own events: whether there is such an offset it must say.
            then = session.client.get(path_of("replay", name), query)
            offset, version = None, then.whole("version")
        with history_of(session, file, path_of("export", name), {"related": step}) as tools:
            first, last = tools.bounds(name, begin, end, moment_in(tools, at, offset, version))
            if pdb:
                _debug(tools, name, first, last)
            else:
                _step(session, tools, name, first, last, states=states)
        return
    if begin is not None or end is not None or states:
        raise CliError("expected --from, --to and --states with --step or --pdb", exit_code=ExitCode.USAGE)
    if file is not None:
        tools = offline(file)
        found = Document(tools.state(name, moment_in(tools, at, offset, version)))
    else:
        found = session.client.get(path_of("replay", name), query)
    _state(session, name, found)


def _state(session: Session, name: str, found: Document) -> None:
    if session.out.as_json:
        session.out.json(found)
        return
    told = f"at version {found.whole('version')}, {found.text('position')}, {clock(found.text('at'))}"
    session.out.say(f"{name} {told if found.whole('version') else 'before its first event'}")
    session.out.line(visible_json(found.raw.get("state"), indent=2))


# --- step by step -----------------------------------------------------------------------------------------------------


def _step(session: Session, tools: "Offline", name: str, first: int, last: int, *, states: bool) -> None:
    """At a terminal a walk both ways; else every step, printed as it is folded."""
    walked = tools.steps(name, first, last)
    if sys.stdin.isatty() and sys.stdout.isatty() and not session.out.as_json:
        from api.cli.stepper import Stepper

        Stepper(list(walked), lambda step: Document(tools.told([step], states=True)[0]), say=session.out.line).run()
        return
    whole = states or session.out.as_json
    while block := list(islice(walked, _BLOCK)):
        for told in map(Document, tools.told(block, states=whole)):
            if session.out.as_json:
                session.out.json_line(told)
            else:
                for line in step_lines(told, states=states):
                    session.out.line(line)


def _debug(tools: "Offline", name: str, first: int, last: int) -> None:
    from api.cli.breaking import debug

    debug(name, tools.events(name), first, last, heading=name)


# --- everything -------------------------------------------------------------------------------------------------------


def _whole(session: Session, at: str, file: Path | None) -> None:
    """A summary; with --json every stream's whole state, one a line."""
    moment = since_time(at) if at else ""
    if file is not None:
        tools = offline(file)
        micros = tools.time(moment) if moment else None
        if session.out.as_json:
            for told in tools.states(micros):
                session.out.json_line(Document(told))
            return
        found = Document(tools.summary(micros))
    elif session.out.as_json:
        sys.stdout.flush()
        session.client.save("/v1/replay", {"at": moment, "states": True}, sys.stdout.buffer)
        return
    else:
        answer = io.BytesIO()  # not `get`: a long log takes longer than an answer usually may
        session.client.save("/v1/replay", {"at": moment}, answer)
        found = Document(json.loads(answer.getvalue()))
    _summary(session, found)


def _summary(session: Session, found: Document) -> None:
    when = f"at {clock(found.text('at'))}" if found.text("at") else "now"
    session.out.say(f"the platform {when}: {found.whole('streams')} streams, {found.whole('events')} events")
    rows = [
        [
            "/".join((c.text("team"), c.text("app"), c.text("component"))),
            c.text("status"),
            f"v{c.whole('release')}" if c.whole("release") else "-",
            f"{c.whole('ready')}/{c.whole('scale')}",
            " ".join(c.words("routes")) or "-",
            c.text("operation") or "-",
        ]
        for c in found.items("components")
    ]
    session.out.table(["component", "status", "release", "ready", "routes", "operation"], rows)
    named = [
        [kind.removesuffix("s"), one.text("team") or "-", one.text("name"), one.text("status")]
        for kind in ("teams", "apps", "nodes", "routes", "builds", "operations")
        for one in found.items(kind)
    ]
    session.out.table(["what", "team", "name", "status"], named, "there was nothing")
