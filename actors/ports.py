"""The ports by which the rooms of `actors`, and the API above it, reach one another without knowing of Ray."""

from collections.abc import Sequence
from typing import Protocol

from events.model.base import Envelope, Reply


class CommandPort(Protocol):
    """Where commands go, whoever owns the partition of their stream."""

    async def submit(self, envelopes: Sequence[Envelope]) -> list[Reply]:
        """One reply for each envelope, in order. Waits for the events to be durable; sends again by command id while an
        owner moves, and answers `error="unavailable"` when none was found in time."""
        ...
