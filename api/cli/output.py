"""What a command prints: data on stdout, talk on stderr, tables for people and JSON for programs.

Knows terminals, colours and widths; nothing of the API.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from api.cli.document import Document
from api.cli.errors import CliError
from api.cli.safe import visible

_STYLES = {
    "ok": "32",
    "good": "32",
    "warn": "33",
    "bad": "31",
    "dim": "2",
    "bold": "1",
    "name": "36",
}
_GOOD = frozenset({"active", "ready", "succeeded", "running", "up", "ok", "serving", "started", "true", "alive"})
_BAD = frozenset({"failed", "crashed", "unready", "timed_out", "exited", "down", "lost", "error", "dead"})
_WAITING = frozenset({"starting", "stopping", "queued", "cancelled", "destroying", "draining", "warn", "stopped"})


@dataclass(kw_only=True)
class Output:
    """Where a command's words go. `as_json`: stdout carries JSON only; `quiet`: no talk but errors."""

    as_json: bool = False
    quiet: bool = False

    def json(self, value: object) -> None:
        """One JSON value on stdout, indented for people only."""
        raw = value.raw if isinstance(value, Document) else value
        print(json.dumps(raw, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=_raw))

    def json_line(self, value: Document) -> None:
        """One JSON object on one line, flushed: for live lists."""
        print(json.dumps(value.raw, ensure_ascii=False), flush=True)

    def line(self, text: str) -> None:
        """A line of data."""
        print(text, flush=True)

    def say(self, text: str) -> None:
        """Talk: on stderr, and only when somebody wants it."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def facts(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and values, one a line; empty values are left out."""
        shown = [(name, value) for name, value in pairs if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            print(f"{styled(name.ljust(width), 'dim')}  {state(visible(value))}")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> None:
        """A table with as many columns as `headings`; `empty` is said when there is no row."""
        if not rows:
            if empty:
                self.say(empty)
            return
        safe = [[visible(cell) for cell in row] for row in rows]
        widths = [max(len(h), *(len(row[i]) for row in safe)) for i, h in enumerate(headings)]
        print(styled("  ".join(h.upper().ljust(w) for h, w in zip(headings, widths, strict=True)).rstrip(), "dim"))
        for row in safe:
            cells = [state(cell) + " " * (w - len(cell)) for cell, w in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())

    def error(self, error: CliError) -> None:
        """The error and what to do: text, or one line of JSON with `--json`; always on stderr."""
        if self.as_json:
            print(json.dumps(error.document(), ensure_ascii=False), file=sys.stderr)
            return
        stream = sys.stderr
        print(
            styled("error: ", "bad", stream) + "\n       ".join(map(visible, error.message.splitlines())), file=stream
        )
        for line in error.lines:
            print(f"    {visible(line)}", file=stream)
        if error.hint:
            print(
                styled("  fix: ", "bold", stream) + "\n       ".join(map(visible, error.hint.splitlines())), file=stream
            )
        if error.request_id:
            print(styled(f"       request {visible(error.request_id)}", "dim", stream), file=stream)


def _raw(value: object) -> object:
    if isinstance(value, Document):
        return value.raw
    raise TypeError(f"not JSON: {type(value).__name__}")


def coloured(stream: object = None) -> bool:
    """True when colours may be used: a terminal that is not dumb, and NO_COLOR is not set."""
    chosen = stream if stream is not None else sys.stdout
    tty = getattr(chosen, "isatty", lambda: False)()
    return bool(tty) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: object = None) -> str:
    """`text` in a style, where colours may be used."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if coloured(stream) else text


def state(text: str) -> str:
    """A state word in its colour; any other text as it is."""
    if text in _GOOD:
        return styled(text, "good")
    if text in _BAD:
        return styled(text, "bad")
    return styled(text, "warn") if text in _WAITING else text


def moment(text: str) -> datetime | None:
    """An ISO-8601 time, or None."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def ago(text: str) -> str:
    """An ISO-8601 time as `3 min ago`."""
    at = moment(text)
    return f"{duration(time.time() - at.timestamp())} ago" if at else text


def clock(text: str) -> str:
    """An ISO-8601 time as UTC to the millisecond, `2026-01-31T12:00:00.123Z`."""
    at = moment(text)
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if at else text


def duration(seconds: float) -> str:
    """A span as a person says it: `1.25 s`, `3 min`, `5 h`, `2 d`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.2f} s"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def size(count: float) -> str:
    """Bytes as a person says it: `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""
