"""How large a pool should be for the work it has: decided from measures alone, slowly downwards and never to and fro.

Pure; what the work of a pool is, and who measures it, is other rooms' business.
"""

import math
from collections.abc import Sequence

import msgspec

GROW_AFTER_SECONDS = 10.0  # a burst that is over sooner is not worth a process of 100 MB
SHRINK_AFTER_SECONDS = 120.0
SPARE = 0.7  # of what one fewer could do: only below that is one taken away, so that it is not wanted back at once


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """`work` of a pool at a time (seconds of a clock that only grows), in units of what one actor of it can do.

    1.0 keeps one actor busy; `words` say it for a person.
    """

    at: float
    work: float
    words: str = ""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Another size, and why."""

    size: int
    why: str


def resize(*, size: int, least: int, most: int, scaled_at: float, measures: Sequence[Measure]) -> Wanted | None:
    """The size a pool should get now, or None to leave it.

    Grows when every measure of the last 10 s asks for more, to what the smallest of them asks for. Shrinks by one when
    every measure of the last 2 minutes would leave one fewer with some to spare. What was measured before the pool had
    its present size says nothing about it: that is the cool-down. A size outside `least`..`most` is put right at once.
    """
    if size < least:
        return Wanted(size=least, why=f"at least {least} are wanted")
    if size > most:
        return Wanted(size=most, why=f"at most {most} are wanted")
    if not measures:
        return None
    now = measures[-1].at
    known = [m for m in measures if m.at > scaled_at]
    if (recent := _window(known, now - GROW_AFTER_SECONDS)) is not None:
        asked = min(most, min(math.ceil(m.work) for m in recent))
        if asked > size:
            return Wanted(size=asked, why=f"{measures[-1].words} for {GROW_AFTER_SECONDS:.0f} s")
    quiet = _window(known, now - SHRINK_AFTER_SECONDS)
    if quiet is not None and size > least and max(m.work for m in quiet) < (size - 1) * SPARE:
        return Wanted(size=size - 1, why=f"{measures[-1].words}: {size - 1} can do it")
    return None


def _window(measures: Sequence[Measure], since: float) -> Sequence[Measure] | None:
    """The measures since then and the last one before, so that they cover all of it, however far they lie apart; None
    where none is as old: too little is known."""
    older = sum(m.at <= since for m in measures)
    return measures[older - 1 :] if older else None
