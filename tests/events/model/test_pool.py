"""What is decided about a pool: by hand it is final, automatically only within what a person allowed."""

import pytest

from events.model.base import Event, Meta, Refusal
from events.model.pool import (
    AutoscalePool,
    FollowWork,
    PoolAutoscaleSet,
    PoolCommand,
    PoolScaled,
    PoolState,
    ScalePool,
    apply,
    decide,
)

META = Meta(command_id="c", at=7, actor="ann", reason="because")
AUTO = PoolState(name="builder", size=2, least=1, most=4)


def after(state: PoolState, command: PoolCommand) -> tuple[list[Event], PoolState]:
    decision = decide(state, command, META)
    assert not isinstance(decision, Refusal), decision
    for event in decision:
        assert isinstance(event, PoolScaled | PoolAutoscaleSet)
        state = apply(state, event, META.at)
    return list(decision), state


def test_a_size_by_hand_ends_automatic_scaling_and_keeps_who_and_why() -> None:
    events, state = after(AUTO, ScalePool(name="builder", size=3))
    assert len(events) == 1
    assert state == PoolState(name="builder", size=3, scaled_at=7, before=2, why="because", by="ann")


def test_the_size_it_has_is_no_new_decision_unless_it_ends_automatic_scaling() -> None:
    by_hand = PoolState(name="builder", size=3)
    assert after(by_hand, ScalePool(name="builder", size=3))[0] == []
    assert after(AUTO, ScalePool(name="builder", size=2))[1].automatic is False


def test_following_the_work_keeps_the_bounds() -> None:
    _, state = after(AUTO, FollowWork(size=4, before=2))
    assert (state.size, state.least, state.most, state.before) == (4, 1, 4, 2)


@pytest.mark.parametrize(("state", "size"), [(PoolState(name="builder", size=2), 3), (AUTO, 5), (AUTO, 0), (AUTO, 2)])
def test_following_the_work_does_nothing_where_nobody_allowed_it(state: PoolState, size: int) -> None:
    assert after(state, FollowWork(size=size, before=2))[0] == []


@pytest.mark.parametrize(
    "command",
    [
        ScalePool(name="builder", size=0),
        ScalePool(name="builder", size=257),
        ScalePool(name="No Name", size=1),
        AutoscalePool(name="builder", least=3, most=2),
        AutoscalePool(name="builder", least=0, most=2),
    ],
)
def test_what_cannot_be_is_refused(command: PoolCommand) -> None:
    refusal = decide(PoolState(), command, META)
    assert isinstance(refusal, Refusal) and refusal.code == "invalid"
