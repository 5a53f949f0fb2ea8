"""How a log line looks on a terminal or in a pipe: time, source, instance, text.

Knows the log line's fields; nothing of how lines are fetched.
"""

from collections.abc import Callable

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.output import clock, size, styled
from api.cli.safe import visible
from api.cli.session import Session
from events.clock import now_micros
from events.replay.errors import BadTime
from events.replay.moments import parse_time, show_time


def shown(text: str) -> str:
    """One line of text, safe to print."""
    return visible(text)


def line_text(line: Document, component: str) -> str:
    """`2026-01-31T12:00:00.000Z app[web-3]: text`."""
    who = line.text("source", default="app")
    instance = line.text("instance").rpartition("-")[2]
    where = f"{who}[{visible(component)}-{visible(instance)}]" if instance else who
    head = f"{clock(line.text('at'))} {where}:"
    return f"{styled(head, 'name' if who == 'app' else 'dim')} {visible(line.text('text'))}"


def tell_line(session: Session, line: Document, text: Callable[[Document], str]) -> None:
    """One line of a page or a stream: as JSON, as a gap, or as `text` has it for people. A heartbeat is none."""
    if "text" not in line:
        return
    if session.out.as_json:
        session.out.json_line(line)
    elif line.whole("gap"):
        # Lines that could not be kept are counted and said, never passed over.
        session.out.say(f"--- {line.whole('gap')} lines are missing here: {visible(line.text('text'))}")
    else:
        session.out.line(text(line))


def tell_stats(session: Session, found: Document) -> None:
    """How many lines there are, and what they say of themselves."""
    if session.out.as_json:
        session.out.json(found)
        return

    def parts(name: str) -> str:
        return ", ".join(f"{visible(kind)} {count}" for kind, count in found.pairs(name).items() if count != "0")

    requests = found.whole("requests")
    took = f"{found.number('latency_ms'):g} ms on average, {_within(found, 0.99)}" if requests else ""
    session.out.facts(
        [
            ("lines", f"{found.whole('lines')} ({size(found.number('bytes'))}) from number {found.whole('first')} on"),
            ("missing", str(found.whole("lost")) if found.whole("lost") else ""),
            ("sources", parts("sources")),
            ("levels", parts("levels")),
            ("requests", f"{requests}: {parts('statuses')}" if requests else ""),
            ("latency", took),
            ("counted", "" if found.flag("complete") else f"only up to number {found.whole('next')}: time was over"),
        ]
    )


def _within(found: Document, share: float) -> str:
    """The bucket below which that share of the requests took."""
    for bound, count in found.pairs("latency_le_ms").items():
        if int(count) >= share * found.whole("requests"):
            return f"{share:.0%} within {bound} ms" if bound != "inf" else f"over {1 - share:.0%} took longer than 10 s"
    return ""


def since_time(text: str) -> str:
    """A time as people type it (`10m`, `2d ago`, `now`, ISO-8601, unix time), as ISO-8601 in UTC. Raises CliError."""
    try:
        return show_time(parse_time(text, now=now_micros()))
    except (BadTime, OverflowError) as error:
        raise CliError(str(error), exit_code=ExitCode.USAGE) from None
