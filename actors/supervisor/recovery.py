"""Taking a partition up from the log: every stream's entity, and what of them cannot be handled.

Knows snapshots and folds; decides nothing and starts nothing.
"""

from typing import NamedTuple

from actors.supervisor.entity import Entity
from actors.supervisor.parking import Parking
from actors.supervisor.slices import in_slices
from events.log.errors import LogBroken
from events.log.port import EventLog, PartitionWriter
from events.model.folding import Poisoned
from events.model.parked import KIND
from events.model.registry import apply_record
from events.replay.current import fold_partition


class RecoveredEntities(NamedTuple):
    """`folded`: how many events were folded, those in a snapshot not counted. `whole`: every state is what the log
    says; else no snapshot may be made of them."""

    entities: dict[str, Entity]
    folded: int
    next_offset: int
    whole: bool


async def recover_entities(event_log: EventLog, writer: PartitionWriter, parking: Parking) -> RecoveredEntities:
    """Fold the partition that `writer` has claimed, from its newest snapshot or from its start; tell `parking` what was
    and what must be set aside. Raises LogBroken when somebody else writes here, and what folding raises."""
    fold = await fold_partition(event_log, writer.partition, writer.take_snapshot())
    if fold.next_offset != writer.next_offset:
        raise LogBroken(
            f"partition {writer.partition}: expected the log to end at {writer.next_offset} as when it was claimed, "
            f"found {fold.next_offset}; somebody else writes here: claim again"
        )
    entities: dict[str, Entity] = {}
    async for stream in in_slices(list(fold.states)):
        entity = entities[stream] = Entity(stream, fold.states.pop(stream))
        if stream.startswith(f"{KIND}/"):
            parking.learn(entity)
    whole = True
    for stream, poisoned in fold.poisoned.items():
        fault = await _fold_without(event_log, writer.partition, entities[stream], poisoned, parking.left_out(stream))
        if fault is not None:
            parking.poisoned(stream, fault)
            whole = False
    return RecoveredEntities(entities, fold.folded, fold.next_offset, whole)


async def _fold_without(
    event_log: EventLog, partition: int, entity: Entity, poisoned: Poisoned, left_out: tuple[int, ...]
) -> Poisoned | None:
    """Fold a stream that could not be folded whole without what is to be left out; what is wrong with it then."""
    if poisoned.version not in left_out:
        return poisoned
    entity.state, fault = entity.aggregate.state(), None
    async for page in event_log.read(partition, 0, stream=entity.stream):
        for record in (stored.record for stored in page if stored.record.version not in left_out):
            try:
                if fault is None:
                    entity.state = apply_record(entity.state, record)
            except Exception as error:
                fault = Poisoned(record.version, f"{type(error).__name__}: {error}")
    return fault
