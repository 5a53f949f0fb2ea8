"""Worlds of publishers and consumers that die, freeze and lose replies: each task ends once and in its key's order."""

import functools

import pytest

from tests.simulation.queue_world import QueueResult, run_queue_seed

SEEDS = 120
BLOCK = 30


@functools.cache
def _world(seed: int) -> QueueResult:
    return run_queue_seed(seed)


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_breaks_a_promise_of_the_queue(first: int) -> None:
    for seed in range(first, first + BLOCK):
        result = _world(seed)
        shown = "\n".join(result.violations[:5])
        assert not result.violations, f"queue seed {seed}:\n{shown}"


@pytest.mark.long
@pytest.mark.parametrize("first", range(SEEDS, 3000, 240))
def test_no_seed_of_many_breaks_a_promise_of_the_queue(first: int) -> None:
    for seed in range(first, first + 240):
        assert not run_queue_seed(seed).violations, f"queue seed {seed}"


def test_a_late_word_about_an_earlier_session_does_not_end_the_present_one() -> None:
    """A claim made under a session that lapsed was refused for it, once the next one was there: for good, it seemed."""
    assert not run_queue_seed(2306).violations


def test_queue_worlds_are_worth_running() -> None:
    """Claims are lost and made again, late words are refused: a world where nothing happens proves nothing."""
    results = [_world(seed) for seed in range(40)]
    assert sum(result.done for result in results) > 500
    assert sum(result.claims - result.done for result in results) > 100
    assert sum(result.stale for result in results) > 10
