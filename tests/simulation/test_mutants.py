"""The simulation can fail: each defect that is put in on purpose is noticed within so many seeds.

A seed that noticed when it was measured stands beside each and is tried first; the bound leaves room for worlds to be
drawn differently.
"""

import pytest

from tests.simulation import mutants
from tests.simulation.scenario import run_seed

CAUGHT = [
    (mutants.append_without_the_fence, 11),
    (mutants.append_over_what_is_there, 17),
    (mutants.append_without_the_predecessor, 19),
    (mutants.acknowledge_on_timeout, 10),
    (mutants.acknowledge_before_it_is_written, 2),
    (mutants.resend_under_another_id, 23),
    (mutants.claim_without_comparing, 11),
    (mutants.forget_the_commands_at_claim, 2),
    (mutants.forget_the_tail_at_claim, 0),
    (mutants.do_not_say_that_a_watch_is_new, 30),
    (mutants.believe_the_watch, 0),
    (mutants.hand_out_again_what_comes_again, 0),
    (mutants.delete_before_it_is_recorded, 2),
    (mutants.move_the_mark_without_comparing, 14),
    (mutants.read_hot_batches_only, 3),
    (mutants.do_not_look_at_the_mark_after_the_page, 0),
    (mutants.point_at_a_snapshot_without_the_fence, 1),
    (mutants.take_a_snapshot_of_what_is_not_written_yet, 16),
    (mutants.take_the_states_of_another_fold, 1),
    (mutants.forget_the_commands_of_a_snapshot, 6),
    (mutants.refuse_for_ever, 28),
]
CAUGHT_LATE = [
    (mutants.refuse_what_may_be_written, 51),
    (mutants.see_the_fence_before_my_batch, 115),
    (mutants.archive_the_last_batch_too, 119),
    (mutants.leave_the_alarm_on, 14),
    (mutants.archive_without_compacting, 14),
    (mutants.never_refuse, 57),
]
"""These need several troubles at once."""


def is_caught(mutant: mutants.Mutant, first: int, most: int) -> bool:
    """Whether one of so many seeds notices it; `first` is looked at before the others."""
    with mutant():
        return any(run_seed(seed).violations for seed in (first, *range(most)))


def _name(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("mutant", "measured"), CAUGHT, ids=_name)
def test_a_defect_is_noticed(mutant: mutants.Mutant, measured: int) -> None:
    assert is_caught(mutant, measured, 20 * measured + 60)


@pytest.mark.long
@pytest.mark.parametrize(("mutant", "measured"), CAUGHT_LATE, ids=_name)
def test_a_rare_defect_is_noticed_too(mutant: mutants.Mutant, measured: int) -> None:
    assert is_caught(mutant, measured, 10 * measured)
