"""Offers tasks to a queue and takes them: the same producers and consumers for every queue that is measured.

Knows when a task was offered, got and done; nothing of what queues them.
"""

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from benchmarks.harness import Case, case

PAYLOAD = bytes(200)
"""A build's order is about as long."""
TAKE = 50
CONSUMERS = 8
OFFER_EVERY_S = 0.005


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """`per_second` 0: everything is there before the first consumer comes."""

    name: str
    tasks: int
    per_second: int = 0


class Queue(Protocol):
    """A queue under measurement: one topic."""

    async def offer(self, ids: Sequence[str]) -> None:
        """Returns when all of them are durable."""
        ...

    async def take(self, consumer: int, most: int) -> list[tuple[str, object]]:
        """(id, handle) of up to `most` tasks; waits a while for the first."""
        ...

    async def done(self, consumer: int, handles: Sequence[object]) -> None:
        """Returns when it is durable that they are done."""
        ...


async def drive(load: Load, queue: Queue, **more: str | int | float) -> Case:
    """One case: p50 to max are of the wait from offering a task until a consumer has it; per second is done tasks."""
    clock = time.perf_counter
    offered: dict[str, float] = {}
    waits = array("d")
    finished: set[str] = set()
    over = asyncio.Event()

    async def consume(number: int) -> None:
        while not over.is_set():
            got = await queue.take(number, TAKE)
            now = clock()
            waits.extend(now - offered[ident] for ident, _ in got if ident in offered)
            if got:
                await queue.done(number, [handle for _, handle in got])
                finished.update(ident for ident, _ in got)
                if len(finished) >= load.tasks:
                    over.set()

    async def offer() -> None:
        step = max(1, int(load.per_second * OFFER_EVERY_S))
        began, sent = clock(), 0
        async with asyncio.TaskGroup() as group:
            while sent < load.tasks:
                # An open loop: whether the queue keeps up does not change how much is offered.
                due = min(load.tasks, int((clock() - began) * load.per_second) + step)
                if due > sent:
                    ids = [f"t{n:07d}" for n in range(sent, due)]
                    offered.update(dict.fromkeys(ids, clock()))
                    group.create_task(_offer(queue, ids))
                    sent = due
                await asyncio.sleep(OFFER_EVERY_S)

    if not load.per_second:
        ids = [f"t{n:07d}" for n in range(load.tasks)]
        for first in range(0, load.tasks, 500):
            await queue.offer(ids[first : first + 500])
        offered.update(dict.fromkeys(ids, clock()))
    began = clock()
    async with asyncio.TaskGroup() as group:
        consumers = [group.create_task(consume(number)) for number in range(CONSUMERS)]
        if load.per_second:
            group.create_task(offer())
        await over.wait()
        took = clock() - began
        for consumer in consumers:
            consumer.cancel()
    if len(finished) != load.tasks:
        raise AssertionError(f"{load.name}: expected {load.tasks} tasks done, found {len(finished)}")
    result = case(load.name, "task", waits, seconds=took, consumers=CONSUMERS, **more)
    if not load.per_second:
        # How long a task of a backlog waits says how long the backlog was, nothing more.
        result = {key: value for key, value in result.items() if not key.endswith("_ms")}
    return result


async def _offer(queue: Queue, ids: Sequence[str]) -> None:
    await queue.offer(ids)


Measured = Callable[[Sequence[Load]], Awaitable[list[Case]]]
