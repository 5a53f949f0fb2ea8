"""The simulation can fail: each defect that is put in on purpose is noticed within so many seeds.

How many it took when it was measured stands beside each; the bound leaves room for worlds to be drawn differently.
"""

import pytest

from tests.simulation import mutants
from tests.simulation.scenario import run_seed

CAUGHT = [
    (mutants.append_without_the_fence, 4),
    (mutants.append_over_what_is_there, 9),
    (mutants.append_without_the_predecessor, 20),
    (mutants.acknowledge_on_timeout, 18),
    (mutants.acknowledge_before_it_is_written, 3),
    (mutants.resend_under_another_id, 13),
    (mutants.claim_without_comparing, 12),
    (mutants.forget_the_commands_at_claim, 1),
    (mutants.forget_the_tail_at_claim, 1),
    (mutants.do_not_say_that_a_watch_is_new, 16),
    (mutants.believe_the_watch, 1),
    (mutants.hand_out_again_what_comes_again, 1),
    (mutants.delete_before_it_is_recorded, 3),
    (mutants.move_the_mark_without_comparing, 13),
    (mutants.read_hot_batches_only, 1),
    (mutants.do_not_look_at_the_mark_after_the_page, 1),
]
CAUGHT_LATE = [
    (mutants.refuse_what_may_be_written, 52),
    (mutants.see_the_fence_before_my_batch, 116),
    (mutants.archive_the_last_batch_too, 120),
]
"""These need several troubles at once."""


def seeds_until_caught(mutant: mutants.Mutant, most: int) -> int | None:
    """How many seeds it took; None if none of them noticed."""
    with mutant():
        for seed in range(most):
            if run_seed(seed).violations:
                return seed + 1
    return None


def _name(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("mutant", "measured"), CAUGHT, ids=_name)
def test_a_defect_is_noticed(mutant: mutants.Mutant, measured: int) -> None:
    assert seeds_until_caught(mutant, 20 * measured + 40) is not None


@pytest.mark.long
@pytest.mark.parametrize(("mutant", "measured"), CAUGHT_LATE, ids=_name)
def test_a_rare_defect_is_noticed_too(mutant: mutants.Mutant, measured: int) -> None:
    assert seeds_until_caught(mutant, 10 * measured) is not None
