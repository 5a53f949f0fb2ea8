"""What lines say of themselves: their level, and of a gateway line its status and how long the request took.

Counts of both, which can be added up. Knows one line at a time and nothing of where lines are kept.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import msgspec

from actors.logs.line import LineRecord, LogLine

Level = Literal["", "trace", "debug", "info", "warning", "error", "fatal"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""In order of weight; "" is a line that does not say."""

LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of a gateway's latencies; one more bucket takes what is slower."""

_LOOK_CHARS = 200
"""A line says its level early; a word far behind is part of what it tells."""
_NAMES: dict[str, Level] = {
    "trace": "trace", "10": "trace", "debug": "debug", "dbg": "debug", "20": "debug", "info": "info", "inf": "info",
    "notice": "info", "information": "info", "30": "info", "warn": "warning", "warning": "warning", "wrn": "warning",
    "40": "warning", "error": "error", "err": "error", "severe": "error", "50": "error", "fatal": "fatal",
    "critical": "fatal", "crit": "fatal", "panic": "fatal", "emerg": "fatal", "alert": "fatal", "60": "fatal",
}  # fmt: skip
_WORDS = "trace|debug|info|notice|warn(?:ing)?|err(?:or)?|severe|fatal|crit(?:ical)?|panic|emerg|alert"
_LEVEL = re.compile(
    # A field of JSON or logfmt (numbers as pino writes them), a word in capitals, one in brackets, one that begins.
    rf"""\b(?:level|lvl|severity|levelname|log\.level)"?\s*[=:]\s*"?(\w+)|\b({_WORDS.upper()})\b"""
    rf"""|\[\s*((?i:{_WORDS}))\s*\]|^((?i:{_WORDS})):"""
)
_PLACES = {name: LEVELS.index(level) for name, level in _NAMES.items()}
_ROUTER = re.compile(r"^\S+ .*? ([1-5])\d\d ([0-9.]+)ms ")


def level_of(record: LineRecord | LogLine) -> Level:
    """The level that a line names; "" when it names none."""
    return LEVELS[levels_of((record,))[0]]


class Counts(msgspec.Struct, kw_only=True, array_like=True):
    """How many lines, and of which kinds. `lost`: numbers that gaps stand for; `levels` by `LEVELS`; `statuses` by
    class (1xx … 5xx); `latencies` by `LATENCY_SECONDS`, the last for what is slower; `latency_ms` is their sum."""

    lines: int = 0
    bytes: int = 0
    lost: int = 0
    levels: list[int] = msgspec.field(default_factory=lambda: [0] * len(LEVELS))
    sources: dict[str, int] = {}
    statuses: list[int] = msgspec.field(default_factory=lambda: [0] * 5)
    latencies: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_SECONDS) + 1))
    latency_ms: float = 0.0

    def take_request(self, text: str) -> None:
        """Count what a gateway's line says of its request."""
        found = _ROUTER.match(text)
        if found is None:
            return
        self.statuses[int(found[1]) - 1] += 1
        took = float(found[2]) if found[2].count(".") < 2 and found[2] != "." else 0.0
        self.latency_ms += took
        bucket = sum(took > bound * 1000 for bound in LATENCY_SECONDS)
        self.latencies[bucket] += 1

    def add(self, other: "Counts") -> None:
        """Add `other` to these."""
        self.lines += other.lines
        self.bytes += other.bytes
        self.lost += other.lost
        self.latency_ms += other.latency_ms
        self.levels = [a + b for a, b in zip(self.levels, other.levels, strict=True)]
        self.statuses = [a + b for a, b in zip(self.statuses, other.statuses, strict=True)]
        self.latencies = [a + b for a, b in zip(self.latencies, other.latencies, strict=True)]
        names = self.sources.keys() | other.sources.keys()
        self.sources = {name: self.sources.get(name, 0) + other.sources.get(name, 0) for name in sorted(names)}


def levels_of(records: Iterable[LineRecord | LogLine]) -> bytes:
    """The level of each record as its place in LEVELS; a gateway's line and a gap have none."""
    search, names = _LEVEL.search, _PLACES
    levels = bytearray()
    for record in records:
        found = None if record.gap or record.source == "router" else search(record.text, 0, _LOOK_CHARS)
        levels.append(names.get(found[found.lastindex or 1].lower(), 0) if found else 0)
    return bytes(levels)


def count(records: Sequence[LineRecord | LogLine], levels: bytes | None = None) -> Counts:
    """The counts of `records`; `levels` as `levels_of` gives them, where they are known already."""
    levels = levels_of(records) if levels is None else levels
    counts = Counts(levels=[levels.count(place) for place in range(len(LEVELS))])
    sources = Counter(record.source for record in records)
    texts = "".join(record.text for record in records)
    counts.lines, counts.bytes = len(records), len(texts.encode("utf-8", "replace"))
    for record in [record for record in records if record.gap or record.source == "router"]:
        if record.gap:
            counts.lost += record.gap
            counts.lines -= 1
            counts.bytes -= len(record.text.encode("utf-8", "replace"))
            sources[record.source] -= 1
            counts.levels[0] -= 1
        else:
            counts.take_request(record.text)
            counts.levels[0] -= 1
    counts.sources = {str(source): count for source, count in sources.items() if count}
    return counts
