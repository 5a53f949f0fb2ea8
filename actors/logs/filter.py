"""What a reader asks for: which lines pass, how many, from where. Knows nothing of files or sockets."""

from collections.abc import Callable

import msgspec

from actors.logs.errors import BadQuery
from actors.logs.line import LineRecord, LogLine, Source, check_stream_name
from actors.logs.measure import LEVELS, Level, level_of
from actors.logs.pattern import Matcher, matcher
from actors.logs.segment import Closed

MAX_LINES = 10_000
"""Lines in one answer; more are had by asking again from `next_number`."""
MAX_PATTERN = 1_000
MAX_CONDITIONS = 10
"""Words, and fields, of one filter."""


class LineFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines pass: all conditions must hold, empty ones do. Gaps pass whatever is asked but times and instance.

    `since` (inclusive) and `until` (exclusive) are unix microseconds; `level`: this one or a graver one; `words`: each
    as a whole word, in any case; `fields`: the line is a JSON object in which the path (`a.b`) has this value; `grep`:
    a regular expression as RE2 knows them, searched anywhere in the line.
    """

    since: int = 0
    until: int = 0
    sources: tuple[Source, ...] = ()
    instance: str = ""
    level: Level = ""
    words: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    grep: str = ""
    ignore_case: bool = False

    def passes_all(self) -> bool:
        """Whether nothing is filtered."""
        return self == _EVERYTHING

    def check(self) -> None:
        """Raises BadQuery where a condition is out of bounds; says nothing of the pattern's syntax."""
        if len(self.grep) > MAX_PATTERN:
            raise BadQuery(f"expected a pattern of at most {MAX_PATTERN} characters, found {len(self.grep)}")
        texts = (*self.words, *(text for field in self.fields for text in field))
        if len(self.words) > MAX_CONDITIONS or len(self.fields) > MAX_CONDITIONS:
            raise BadQuery(f"expected at most {MAX_CONDITIONS} words and as many fields, found more")
        if any(not text.strip() or len(text) > MAX_PATTERN or "\n" in text for text in texts):
            raise BadQuery("expected words and fields that are neither empty nor very long, found others")

    def matcher(self) -> Matcher | None:
        """The conditions on a line's text; None where there is none. Raises BadQuery."""
        self.check()
        return matcher(self.grep, self.words, self.fields, ignore_case=self.ignore_case)

    def levels(self) -> frozenset[int]:
        """Places in LEVELS of those that pass."""
        return frozenset(range(LEVELS.index(self.level) if self.level else 0, len(LEVELS)))

    def concerns(self, source: Source, instance: str) -> bool:
        """Whether a line of this source and instance may pass."""
        return (not self.sources or source in self.sources) and (not self.instance or instance == self.instance)

    def in_time(self, at: int) -> bool:
        """Whether a line of this time may pass."""
        return at >= self.since and not (self.until and at >= self.until)

    def gap_passes(self, at: int, instance: str) -> bool:
        """A gap is shown wherever a line that passes could have been."""
        return self.in_time(at) and not (self.instance and instance not in ("", self.instance))

    def beside_text(self) -> Callable[[LineRecord], bool]:
        """All conditions but those on the text, as a function of one record."""
        least = LEVELS.index(self.level)

        def passes(record: LineRecord) -> bool:
            if record.gap:
                return self.gap_passes(record.at, record.instance)
            return (
                self.in_time(record.at)
                and self.concerns(record.source, record.instance)
                and (not least or LEVELS.index(level_of(record)) >= least)
            )

        return passes


_EVERYTHING = LineFilter()


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One question to one stream. `last` = the newest n that pass; else the oldest `limit` from `from_number` on.

    `around`: the line of this number and `limit` lines on each side of it, as far as they pass. `team`: who asks, for
    a team's queries share what one may cost.
    """

    stream: str
    last: int | None = None
    from_number: int = 1
    around: int | None = None
    limit: int = 1_000
    filter: LineFilter = LineFilter()
    team: str = ""

    def check(self) -> None:
        """Raises BadStreamName or BadQuery."""
        check_stream_name(self.stream)
        if not 1 <= self.limit <= MAX_LINES or (self.last is not None and not 0 <= self.last <= MAX_LINES):
            raise BadQuery(f"expected a count of lines up to {MAX_LINES}, found last={self.last} limit={self.limit}")
        self.filter.check()


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
