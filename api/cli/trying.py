"""`rayfold whatif` and `rayfold check`: what a change would have made of a history, and whether folding it is sound.

Knows the commands' options and how an answer is laid out. A changed `apply` runs in this process, never in a platform.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from api.cli.debugtext import change_lines
from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.fetched import history_of, moment_in, offline
from api.cli.history import event_text
from api.cli.output import styled
from api.cli.safe import visible, visible_json
from api.cli.session import Session, takes_session
from api.cli.streams import At, File, Offset, Stream, Version, one_moment, path_of, stream_name

_BODY_CHARACTERS = 200  # of an event; --json shows all of it
_MAX_COMMAND_BYTES = 4 * 1024 * 1024

Reducer = Annotated[
    str, typer.Option("--with", metavar="MODULE:APPLY", help="Your apply(state, event, at), from this directory.")
]


@takes_session
def whatif(
    session: Session,
    stream: Stream,
    reducer: Reducer = "",
    command: Annotated[
        list[str] | None,
        typer.Option(
            "--command",
            metavar="JSON|FILE",
            help='Like {"type": "ChangeSpec", "scale": 3} or {"type": "ChangeSpec", "settings": '
            '{"memory_bytes": "1073741824"}}; may be repeated.',
        ),
    ] = None,
    at: At = "",
    offset: Offset = None,
    version: Version = None,
    file: File = None,
) -> None:
    """What another apply would have made of the history, or what commands would come to. Nothing is written."""
    query = one_moment(at, offset, version)
    if bool(reducer) == bool(command):
        raise CliError("expected either --with or --command", exit_code=ExitCode.USAGE, hint="rayfold whatif --help")
    name = stream_name(session, stream)
    if reducer:
        if any(given is not None for given in query.values()):
            raise CliError("expected --at, --offset and --version with --command only", exit_code=ExitCode.USAGE)
        with history_of(session, file, path_of("export", name)) as tools:
            _refolded(session, Document(tools.refold(name, reducer)))
        return
    commands = [one for text in command or () for one in _commands(text)]
    if file is not None:
        tools = offline(file)
        moment = moment_in(tools, at, offset, version)
        found = Document(tools.what_if(name, moment, json.dumps(commands).encode()))
    else:
        body = {"commands": commands, **{key: value for key, value in query.items() if value is not None}}
        found = session.client.send("POST", path_of("whatif", name), body)
    _outcomes(session, found)


def _commands(text: str) -> list[object]:
    """JSON as it stands, or the content of a file; a list in it is several commands."""
    source = text
    if not text.lstrip().startswith(("{", "[")):
        try:
            with Path(text).open(encoding="utf-8") as opened:
                source = opened.read(_MAX_COMMAND_BYTES)
        except (OSError, ValueError) as error:
            raise CliError(
                f"expected a command as JSON or a file that holds it: {error}", exit_code=ExitCode.USAGE
            ) from (error)
    try:
        found = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise CliError(f"expected a command as JSON: {error}", exit_code=ExitCode.USAGE) from error
    return found if isinstance(found, list) else [found]


def _outcomes(session: Session, found: Document) -> None:
    if session.out.as_json:
        session.out.json(found)
        return
    session.out.say(f"{found.text('stream')} from version {found.whole('version')}; nothing was written")
    for outcome in found.items("outcomes"):
        refusal = outcome.inner("refusal")
        session.out.line(styled(outcome.text("command"), "bold"))
        if refusal:
            hint = f" ({visible(refusal.text('hint'))})" if refusal.text("hint") else ""
            refused = f"refused, {refusal.text('code')}: {visible(refusal.text('message'))}{hint}"
            session.out.line(f"  {styled(refused, 'bad')}")
            continue
        for line in _outcome_lines(outcome):
            session.out.line(line)
    for note in found.words("notes"):
        session.out.line(styled(f"note: {visible(note)}", "dim"))


def _outcome_lines(outcome: Document) -> list[str]:
    """What is wanted compared with what is, the events that would be written, and what they change in the state."""
    events = outcome.items("events")
    if not events:
        return ["  nothing would change"]
    lines = change_lines(outcome.items("wanted"))
    lines.append("  by these events:")
    for event in events:
        text = visible_json(event.raw.get("body"))
        body = text if len(text) <= _BODY_CHARACTERS else text[: _BODY_CHARACTERS - 1] + "…"
        follows = "then " if event.flag("follows") else ""
        lines.append(f"    {follows}{styled(event.text('type'), 'name')} {styled(body, 'dim')}")
    for failed in [event.inner("body") for event in events if event.text("type") == "OperationFailed"]:
        why = f"it would fail, {failed.text('code')}: {visible(failed.text('reason'))}"
        lines.append(f"  {styled(why, 'bad')}")
    lines.append("  in the whole state:")
    return lines + change_lines(outcome.items("changes"), indent="    ")


def _refolded(session: Session, found: Document) -> None:
    """Exit code 1 when the states part, so that scripts can tell."""
    if session.out.as_json:
        session.out.json(found)
    elif found.flag("same"):
        session.out.line(f"the same state after each of {found.whole('events')} events")
    else:
        for line in _parting(found):
            session.out.line(line)
    if not found.flag("same"):
        raise typer.Exit(int(ExitCode.FAILED))


def _parting(found: Document) -> list[str]:
    first, error = event_text(found.inner("first")), visible(found.text("error"))
    at_first = change_lines(found.items("at_first"))
    if error and not at_first:
        return [f"{styled('failed at', 'bad')} {first}", f"  your apply failed: {error}"]
    lines = [f"{styled('parts at', 'bad')} {first}", "then (recorded → yours):", *at_first]
    if error:
        # It has no state at the end that could be compared.
        return [*lines, f"after that your apply failed: {error}"]
    return [*lines, "at the end (recorded → yours):", *(change_lines(found.items("final")) or ["  nothing differs"])]


# --- check ------------------------------------------------------------------------------------------------------------


@takes_session
def check(
    session: Session,
    streams: Annotated[list[str] | None, typer.Argument(metavar="[STREAM]…", help="One or more streams.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every stream of the platform, or of the file.")] = False,
    reducer: Reducer = "",
    file: File = None,
) -> None:
    """Fold twice, under another hash seed, clock, time zone, locale and environment: same state, or exit code 1."""
    if bool(streams) == everything:
        raise CliError("expected either streams or --all", exit_code=ExitCode.USAGE, hint="rayfold check shop")
    names = [stream_name(session, text) for text in streams or ()]
    unsound = count = 0
    # A platform sends one stream at a time, or everything; a file is there as a whole.
    for some in [names] if file is not None or everything else [[name] for name in names]:
        path = "/v1/export" if everything else path_of("export", some[0])
        with history_of(session, file, path) as tools:
            for told in map(Document, tools.check(reducer, some)):
                count += 1
                unsound += not told.flag("same") or bool(told.text("error"))
                _verdict(session, told)
    session.out.say(f"{count} streams checked, {unsound} unsound")
    if unsound:
        raise typer.Exit(int(ExitCode.FAILED))


def _verdict(session: Session, told: Document) -> None:
    if session.out.as_json:
        session.out.json_line(told)
        return
    events = f"{told.whole('events')} events"
    if told.text("error"):
        session.out.line(f"{styled('fails', 'bad')}  {visible(told.text('stream'))}  {visible(told.text('error'))}")
    elif told.flag("same"):
        session.out.line(f"{styled('same', 'good')}  {visible(told.text('stream'))}  {events}  {told.text('sha256')}")
    if not told.flag("same"):
        where = f"first after version {told.whole('version')}"
        session.out.line(f"{styled('differs', 'bad')}  {visible(told.text('stream'))}  {events}, {where}:")
        for line in change_lines(told.items("changes")):
            session.out.line(line)
