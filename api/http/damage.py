"""What this process has met in the log that cannot be read: said in `rayfold status` for as long as it stands.

Knows positions; nothing of requests, nor of what is in the log.
"""

from contextlib import aclosing

import structlog

from events.log.errors import BeyondTail, LogDamaged
from events.log.port import EventLog
from events.log.records import Position

log = structlog.get_logger("api")

MOST_PLACES = 16
"""Kept at once: each is read again at every look, and a person mends them one by one or all together."""


class Damage:
    """The places met, by where their events are. Used from one event loop."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._places: dict[Position, str] = {}

    def note(self, error: BaseException | None) -> None:
        """Somebody met this; what is no damage of the log is passed over."""
        if not isinstance(error, LogDamaged) or error.position is None or len(self._places) >= MOST_PLACES:
            return
        if error.position not in self._places:
            log.error("a part of the log cannot be read", error=str(error))
        self._places[error.position] = str(error)

    async def standing(self) -> list[str]:
        """What is still damaged, in order. Raises LogUnavailable."""
        for position in sorted(self._places):
            try:
                async with aclosing(self._log.read(*position)) as reading:  # type: ignore[type-var]
                    await anext(reading, None)
            except LogDamaged as error:
                self._places[position] = str(error)
                continue
            except BeyondTail:
                pass  # a log from before it was put in place
            self._places.pop(position, None)
        return [self._places[position] for position in sorted(self._places)]
