"""What a reader asks for: which lines pass, how many, from where. Knows nothing of files or sockets."""

import re
from collections.abc import Callable

import msgspec

from actors.logs.errors import BadQuery
from actors.logs.line import LineRecord, LogLine, Source, check_stream_name
from actors.logs.segment import Closed

MAX_LINES = 10_000
"""Lines in one answer; more are had by asking again from `next_number`."""
MAX_PATTERN = 1_000
_SPECIAL = frozenset(".^$*+?{}[]\\|()")


class LineFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines pass: all conditions must hold, empty ones do. Gaps pass whatever `grep` and `sources` say.

    `since` (inclusive) and `until` (exclusive) are unix microseconds; `grep` is a Python regular expression, searched
    anywhere in the line.
    """

    since: int = 0
    until: int = 0
    sources: tuple[Source, ...] = ()
    instance: str = ""
    grep: str = ""
    ignore_case: bool = False

    def is_regex(self) -> bool:
        """Whether `grep` is more than plain text; a regular expression may run for ever, plain text cannot."""
        return not _SPECIAL.isdisjoint(self.grep)

    def passes_all(self) -> bool:
        """Whether nothing is filtered."""
        return not (self.since or self.until or self.sources or self.instance or self.grep)

    def predicate(self) -> Callable[[LineRecord], bool]:
        """The filter as a function. Raises BadQuery when `grep` is not a regular expression."""
        matches = self._matcher()

        def passes(record: LineRecord) -> bool:
            if record.at < self.since or (self.until and record.at >= self.until):
                return False
            if self.instance and record.instance not in ("", self.instance):
                return False
            if record.gap:
                return True
            if self.instance and not record.instance:
                return False
            if self.sources and record.source not in self.sources:
                return False
            return matches is None or matches(record.text)

        return passes

    def _matcher(self) -> Callable[[str], bool] | None:
        if len(self.grep) > MAX_PATTERN:
            raise BadQuery(f"expected a pattern of at most {MAX_PATTERN} characters, found {len(self.grep)}")
        if not self.grep:
            return None
        if not self.is_regex():
            wanted = self.grep
            if not self.ignore_case:
                return lambda text: wanted in text
            folded = wanted.casefold()
            return lambda text: folded in text.casefold()
        try:
            search = re.compile(self.grep, re.IGNORECASE if self.ignore_case else 0).search
        except (re.error, RecursionError, OverflowError) as error:
            raise BadQuery(f"expected a regular expression, found {self.grep[:80]!r}: {error}") from error
        return lambda text: search(text) is not None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question to one stream. `last` = the newest n that pass; else the oldest `limit` from `from_number` on."""

    stream: str
    last: int | None = None
    from_number: int = 1
    limit: int = 1_000
    filter: LineFilter = LineFilter()

    def check(self) -> None:
        """Raises BadStreamName or BadQuery."""
        check_stream_name(self.stream)
        if not 1 <= self.limit <= MAX_LINES or (self.last is not None and not 0 <= self.last <= MAX_LINES):
            raise BadQuery(f"expected a count of lines up to {MAX_LINES}, found last={self.last} limit={self.limit}")
        if len(self.filter.grep) > MAX_PATTERN:
            raise BadQuery(f"expected a pattern of at most {MAX_PATTERN} characters, found {len(self.filter.grep)}")


class QueryResult(msgspec.Struct, frozen=True, kw_only=True):
    """Lines in order of their numbers. `next_number`: where to read or tail on without loss or repetition.

    `complete` false: the time limit came first, or `limit` did; `looked_from` … `next_number - 1` was looked at.
    `closed` is the end of a finite stream (a build), None while it is open.
    """

    lines: list[LogLine]
    next_number: int
    looked_from: int
    complete: bool
    closed: Closed | None = None
