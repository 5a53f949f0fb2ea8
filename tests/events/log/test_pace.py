"""How often transactions begin, on a clock that stands still while there is something to do."""

import asyncio
from collections.abc import Coroutine
from typing import cast

from events.log.pace import Pace


class StandingClock(asyncio.SelectorEventLoop):
    """Its time is the next timer's, as soon as nothing else is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def begun(coroutine: Coroutine[None, None, list[float]]) -> list[float]:
    with asyncio.Runner(loop_factory=StandingClock) as runner:
        return runner.run(coroutine)


async def _one_after_another(pace: Pace, count: int, rest: float = 0.0) -> list[float]:
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(count):
        await pace.turn()
        times.append(loop.time())
        pace.began()
        await asyncio.sleep(rest)
    return times


def test_a_burst_begins_at_once_and_then_one_each_so_many_seconds() -> None:
    assert begun(_one_after_another(Pace(seconds=2.0, burst=3), 6)) == [0.0, 0.0, 0.0, 2.0, 4.0, 6.0]


def test_without_a_burst_each_waits_for_its_turn() -> None:
    assert begun(_one_after_another(Pace(seconds=2.0, burst=1), 3)) == [0.0, 2.0, 4.0]


def test_what_seldom_comes_never_waits() -> None:
    assert begun(_one_after_another(Pace(seconds=2.0, burst=1), 3, rest=5.0)) == [0.0, 5.0, 10.0]


def test_those_who_wait_for_the_same_turn_have_it_together() -> None:
    async def several() -> list[float]:
        pace, loop = Pace(seconds=2.0, burst=1), asyncio.get_running_loop()
        pace.began()

        async def one() -> float:
            await pace.turn()
            return loop.time()

        return list(await asyncio.gather(one(), one(), one()))

    assert begun(several()) == [2.0, 2.0, 2.0]


def test_whoever_comes_when_the_turn_is_late_does_not_take_it_from_those_who_wait() -> None:
    async def overtaken() -> list[float]:
        pace, loop = Pace(seconds=2.0, burst=1), cast("StandingClock", asyncio.get_running_loop())
        pace.began()

        async def one() -> float:
            await pace.turn()
            loop.call_soon(pace.began)
            return loop.time()

        waiting = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.sleep(1.0)
        loop.now = 2.5  # something took long: the turn was at 2, and nobody has been told yet
        return list(await asyncio.gather(one(), *waiting))

    assert begun(overtaken()) == [2.5, 2.5, 2.5, 2.5]
