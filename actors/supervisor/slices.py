"""Going through many things on an event loop without holding it up. Knows nothing of the things."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

SLICE_SECONDS = 0.005  # what a command for another partition may have to wait
LOOKED_AT = 16  # items between two looks at the clock, which takes as long as looking at a stream at rest

_T = TypeVar("_T")


def batched(items: Iterable[_T], most: int) -> Iterator[list[_T]]:
    """The items in lists of at most `most`."""
    rest = iter(items)
    while some := list(islice(rest, most)):
        yield some


async def in_slices(items: Sequence[_T]) -> AsyncIterator[_T]:
    """The items; the loop serves others in between: recovering thousands of streams takes longer than they may wait."""
    loop = asyncio.get_running_loop()
    until = loop.time() + SLICE_SECONDS
    for number, item in enumerate(items, 1):
        yield item
        if number % LOOKED_AT == 0 and loop.time() >= until:
            await asyncio.sleep(0)
            until = loop.time() + SLICE_SECONDS
