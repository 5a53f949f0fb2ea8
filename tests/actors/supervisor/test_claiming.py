"""A supervisor takes its partitions: what it cannot recover it gives up, so that whoever comes next can have it."""

from collections.abc import AsyncIterator, Sequence

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from actors.supervisor.supervisor import Supervisor
from events.log.errors import LogUnavailable
from events.log.memory import MemoryEventLog
from events.log.runs import Runs
from events.log.store import StoredBatch
from events.model.component_progress import Effect
from events.model.placement import Room


class NoHands:
    def nodes(self) -> list[Room]:
        return []

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        raise AssertionError(f"an empty log owes nothing, found {effect}")


class FailingOnce(MemoryEventLog):
    """Cannot be read the first time, as when etcd goes away between the claim and the fold."""

    failed = False

    def read_to_fold(self, partition: int, from_offset: int) -> AsyncIterator[Sequence[StoredBatch] | Runs]:
        if not self.failed:
            self.failed = True
            raise LogUnavailable("expected etcd to answer, found it gone")
        return super().read_to_fold(partition, from_offset)


async def test_a_partition_whose_recovery_fails_is_given_up_and_taken_again() -> None:
    event_log = FailingOnce(partitions=1)
    await event_log.open()
    hands = NoHands()
    supervisor = Supervisor(name="s1", event_log=event_log, nodes=hands)  # type: ignore[arg-type]
    supervisor.use(hands)

    assert await supervisor.assign([0]) == []
    assert event_log.failed
    assert await event_log.owner_of(0) is None, "another supervisor can claim it at once"

    assert await supervisor.assign([0]) == [0]
    await supervisor.close()
    await event_log.close()
