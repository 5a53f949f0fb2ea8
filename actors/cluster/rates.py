"""How fast a count grows, between two looks at it. Knows nothing of what is counted."""

import time
from collections.abc import Callable

SHORTEST_SECONDS = 0.5  # two looks closer together than this see the same rate


class Rate:
    """Of one growing count, as seen at the last look and this one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._count = 0.0
        self._rate = 0.0

    def of(self, count: float) -> float:
        """The growth of `count` per second since the last look; a count that fell begins anew."""
        now = self._clock()
        if now - self._at >= SHORTEST_SECONDS:
            self._rate = max(0.0, count - self._count) / (now - self._at)
            self._at, self._count = now, count
        return self._rate
