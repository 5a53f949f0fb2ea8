"""Positions: which offsets are applied once which generation is settled."""

import asyncio

import pytest

from actors.gateway.errors import NotAppliedError
from actors.gateway.positions import MAX_PENDING, AppliedPositions
from events.log.records import Position


def test_an_offset_is_applied_when_its_generation_is_settled() -> None:
    positions = AppliedPositions()
    positions.record(1, 0, 10)
    positions.record(2, 0, 11)
    positions.record(2, 5, 3)

    positions.settle(1)
    assert positions.applied == {0: 10}
    positions.settle(2)
    assert positions.applied == {0: 11, 5: 3}


def test_a_new_conversation_takes_nothing_back() -> None:
    positions = AppliedPositions()
    positions.record(1, 0, 10)
    positions.settle(1)
    positions.settle(-1)
    positions.record(1, 0, 12)

    assert positions.applied == {0: 10}
    positions.settle(1)
    assert positions.applied == {0: 12}


def test_a_long_absence_costs_bounded_memory_and_loses_no_position() -> None:
    positions = AppliedPositions()
    for generation in range(3 * MAX_PENDING):
        positions.record(generation, generation % 7, generation)

    positions.settle(3 * MAX_PENDING)
    assert len(positions._pending) <= MAX_PENDING
    assert max(positions.applied.values()) == 3 * MAX_PENDING - 1
    assert len(positions.applied) == 7


async def test_waiting_ends_with_the_position_and_not_before() -> None:
    positions = AppliedPositions()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(positions.wait(Position(0, 5), 5))
        positions.record(1, 0, 4)
        positions.settle(1)
        await asyncio.sleep(0)
        assert not waiting.done()
        positions.record(1, 0, 7)


async def test_waiting_in_vain_says_what_was_found() -> None:
    positions = AppliedPositions()
    positions.record(0, 0, 4)
    positions.settle(0)

    with pytest.raises(NotAppliedError, match="offset 4 of partition 0"):
        await positions.wait(Position(0, 5), 0.01)
