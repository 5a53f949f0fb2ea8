"""One timer for many requests: each is still ended by itself, and only for being late."""

import asyncio

import pytest

from api.http.deadlines import Deadlines


async def test_what_ends_in_time_is_left_alone() -> None:
    deadlines = Deadlines()
    with deadlines.within(60.0):
        await asyncio.sleep(0)
    with deadlines.within(0.0):
        pass  # late, but over before anybody looked


async def test_what_is_late_ends_with_a_timeout_and_the_task_goes_on() -> None:
    deadlines = Deadlines()
    with pytest.raises(TimeoutError), deadlines.within(0.01):
        await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0
    await asyncio.sleep(0)


async def test_only_the_late_one_is_ended() -> None:
    deadlines = Deadlines()
    go_on = asyncio.Event()

    async def wait(seconds: float) -> str:
        try:
            with deadlines.within(seconds):
                await go_on.wait()
        except TimeoutError:
            go_on.set()
            return "late"
        return "answered"

    assert await asyncio.gather(wait(0.01), wait(60.0)) == ["late", "answered"]


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    deadlines = Deadlines()

    async def wait() -> None:
        with deadlines.within(60.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
