"""Whether the log still holds what the read models have folded: a log restored from a backup may not.

Knows checkpoints and the log's port; must not know what any model means, nor what is done about it.
"""

from collections.abc import Mapping
from contextlib import aclosing

import msgspec

from events.log.errors import BeyondTail, LogDamaged
from events.log.port import EventLog
from events.log.records import Position
from projections.errors import HistoryLost

WAY_OUT = "rebuild them from the log as it is now: rayfold projections rebuild all"


class Checkpoint(msgspec.Struct, frozen=True, order=True):
    """Everything of `partition` below `next` is folded; `last_at` is the time of the last folded event (µs UTC)."""

    partition: int
    next: int
    last_at: int


async def check_history(log: EventLog, checkpoints: Mapping[Checkpoint, str]) -> None:
    """Compare each checkpoint ({checkpoint: the name of a projection}) with the log. Raises HistoryLost.

    Beyond the tail: the log lost what was folded. Another time at the last folded event: it lost it and went on, so
    the offset is there again and holds something else. Also raises what the log's reading raises, but for damage: what
    cannot be read cannot be compared, and whoever reads on from there meets it.
    """
    for checkpoint, name in sorted(checkpoints.items()):
        if checkpoint.next:
            await _check(log, checkpoint, name)


async def _check(log: EventLog, checkpoint: Checkpoint, name: str) -> None:
    last = Position(checkpoint.partition, checkpoint.next - 1)
    found = "none"
    try:
        async with aclosing(log.read(*last)) as reading:  # type: ignore[type-var]
            async for events in reading:
                if events[0].record.at == checkpoint.last_at:
                    return
                found = f"another, {events[0].record.event_id}"
                break
    except BeyondTail:
        pass
    except LogDamaged:
        return
    tail = await log.tail(checkpoint.partition)
    raise HistoryLost(
        f"the read models are ahead of the log: expected the event at {last} that {name} has folded, found {found} "
        f"(the tail is {checkpoint.partition}:{tail}); the log was restored from before it. Nothing is folded until "
        f"you {WAY_OUT}"
    )
