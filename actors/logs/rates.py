"""Bytes a second by name, fading with time. Knows a clock; nothing of what is named or why it is measured."""

import math
import time
from collections.abc import Callable, Iterable


class Rates:
    """Of each name and of all together. A burst of a moment weighs little; what has stopped halves every `half_life`
    seconds."""

    def __init__(self, half_life: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._half_life = half_life
        self._clock = clock
        self._named: dict[str, tuple[float, float]] = {}
        self._total = (0.0, clock())

    def add(self, name: str, size: int) -> None:
        """Count `size` bytes that were taken for `name`."""
        now = self._clock()
        per_second = size / self._half_life * math.log(2)
        self._named[name] = (self._faded(self._named.get(name, (0.0, now)), now) + per_second, now)
        self._total = (self._faded(self._total, now) + per_second, now)

    def total(self) -> float:
        """Bytes a second of all."""
        return self._faded(self._total, self._clock())

    def of(self, names: Iterable[str]) -> dict[str, float]:
        """Bytes a second of each; what is not among `names` is forgotten."""
        now = self._clock()
        rates = {name: self._faded(self._named.get(name, (0.0, now)), now) for name in names}
        self._named = {name: at for name, at in self._named.items() if name in rates}
        return rates

    def _faded(self, value: tuple[float, float], now: float) -> float:
        rate, at = value
        return float(rate * 0.5 ** ((now - at) / self._half_life))
