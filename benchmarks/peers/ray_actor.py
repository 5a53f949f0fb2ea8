"""A plain Ray actor that keeps the same counters in a dict: no log, no HTTP, no fold; lost when it dies.

Asked one command a call, many calls in flight, as one would write it; and in lists, as ours is. Must know nothing of
the platform.
"""

import time
from typing import Any

from benchmarks.harness import Case, case

ENTITIES = 64
IN_FLIGHT = 96
LIST = 128


class Counters:
    """Async, as ours are."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}

    async def set(self, entity: str, value: str) -> int:
        """One command."""
        self._states[entity] = value
        return len(self._states)

    async def set_all(self, commands: list[tuple[str, str]]) -> list[int]:
        """Many commands."""
        return [await self.set(entity, value) for entity, value in commands]


def run(seconds: float) -> list[Case]:
    """Both ways."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        actor: Any = ray.remote(Counters).options(max_concurrency=1000).remote()
        ray.get(actor.set.remote("warm", "up"))
        single = _drive(ray, lambda n: actor.set.remote(f"c{n % ENTITIES}", str(n)), IN_FLIGHT, 1, seconds)
        lists = _drive(
            ray,
            lambda n: actor.set_all.remote([(f"c{(n + i) % ENTITIES}", str(n + i)) for i in range(LIST)]),
            2,
            LIST,
            seconds,
        )
    finally:
        ray.shutdown()
    shared = {"durability": "none", "transport": "Ray call, no HTTP"}
    return [
        case("Ray actor, one command a call", "command", single[0], seconds=single[1], **shared),
        case(f"Ray actor, lists of {LIST}", "command", lists[0], seconds=lists[1], **shared),
    ]


def _drive(ray: Any, call: Any, in_flight: int, each: int, seconds: float) -> tuple[list[float], float]:
    """Seconds per command, and in all."""
    began = time.perf_counter()
    sent: dict[Any, float] = {}
    samples: list[float] = []
    number = 0
    while time.perf_counter() - began < seconds or sent:
        while len(sent) < in_flight and time.perf_counter() - began < seconds:
            sent[call(number)] = time.perf_counter()
            number += each
        done, _ = ray.wait(list(sent), num_returns=1)
        now = time.perf_counter()
        for reference in done:
            samples += [now - sent.pop(reference)] * each
    return samples, time.perf_counter() - began
