"""The size that work asks for: within its bounds, not for a burst, and never to and fro."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.cluster.autoscale import SHRINK_AFTER_SECONDS, Measure, resize

STEP_SECONDS = 5.0
LATE_SECONDS = (0.0, 0.002, 0.3, 1.7)
"""What a look comes later than it was meant to: it is never on time to the last bit."""


def sizes(
    work: Callable[[float], float], *, seconds: float, size: int = 1, least: int = 1, most: int = 8, late: float = 0.0
) -> list[int]:
    """The sizes that a pool gets, one after the other, when there is so much work at a time."""
    seen = [size]
    measures: list[Measure] = []
    scaled_at = -1e9
    now = 0.0
    while now < seconds:
        measures.append(Measure(at=now, work=work(now)))
        measures = [m for m in measures if m.at >= now - 2 * SHRINK_AFTER_SECONDS]
        wanted = resize(size=seen[-1], least=least, most=most, scaled_at=scaled_at, measures=measures)
        if wanted is not None:
            seen.append(wanted.size)
            scaled_at = now
        now += STEP_SECONDS + late
    return seen


@given(
    work=st.floats(0, 50),
    size=st.integers(1, 20),
    least=st.integers(1, 5),
    more=st.integers(0, 10),
    late=st.floats(0, 10),
)
def test_steady_work_is_met_once_and_the_size_then_stays(
    work: float, size: int, least: int, more: int, late: float
) -> None:
    most = least + more
    seen = sizes(lambda now: work, seconds=6000, size=size, least=least, most=most, late=late)
    into = next(i for i, s in enumerate(seen) if least <= s <= most)
    inside = seen[into:]
    assert all(least <= s <= most for s in inside)
    ups = [b > a for a, b in pairwise(inside)]
    assert len(set(ups)) <= 1, f"it went up and down: {seen}"
    assert seen[-1] >= min(work, most), "there are enough for the work, or as many as may be"


@given(st.lists(st.floats(0, 12), min_size=1, max_size=40))
def test_whatever_the_work_two_changes_downwards_are_never_close_and_none_follows_a_rise_soon(
    works: list[float],
) -> None:
    changes: list[tuple[float, int, int]] = []
    measures: list[Measure] = []
    size, scaled_at, now = 1, -1e9, 0.0
    for work in (w for w in works for _ in range(12)):
        measures.append(Measure(at=now, work=work))
        wanted = resize(size=size, least=1, most=8, scaled_at=scaled_at, measures=measures[-60:])
        if wanted is not None:
            changes.append((now, size, wanted.size))
            size, scaled_at = wanted.size, now
        now += STEP_SECONDS
    for (before, _, _), (at, old, new) in pairwise(changes):
        if new < old:
            assert at - before >= SHRINK_AFTER_SECONDS


@pytest.mark.parametrize("late", LATE_SECONDS)
def test_a_burst_that_is_over_soon_changes_nothing(late: float) -> None:
    assert sizes(lambda now: 6.0 if 50 <= now < 58 else 0.5, seconds=400, late=late) == [1]


@pytest.mark.parametrize("late", LATE_SECONDS)
def test_a_load_that_rises_and_stays_is_met_within_some_measures_and_given_up_slowly(late: float) -> None:
    seen = sizes(lambda now: 3.6 if 50 <= now < 200 else 0.2, seconds=2000, late=late)
    assert seen == [1, 4, 3, 2, 1]
