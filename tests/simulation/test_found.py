"""Defects that the simulation found, each played again step by step."""

from events.log.archive.archiver import ArchivePolicy, Archiver, Reach
from events.log.errors import LogUnavailable, PartitionOwned
from events.log.etcd_claim import win_claim
from events.log.etcd_client import EtcdClient
from events.log.etcd_group import GroupCommit
from events.log.etcd_wire import KeyValue, TxnResult
from events.log.keys import Keys
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.store import StoredBatch
from tests.events.log.contract import event
from tests.simulation.etcd_model import EtcdModel
from tests.simulation.server import SETTINGS, SimulatedServer, Weather
from tests.simulation.world import Process, World

KEYS = Keys(SETTINGS.namespace)


async def nothing_archived(partition: int, base: int) -> StoredBatch | None:
    return None


def test_a_claim_whose_reply_was_lost_does_not_take_its_successors_epoch() -> None:
    """The epoch key is read, a successor claims, the owner record is read: it is the successor's."""
    outcome: list[object] = []

    async def race(client: EtcdClient, successor: EtcdClient) -> None:
        send, get, gets = client.txn, client.get, 0

        async def lose_the_reply(**request: object) -> TxnResult:
            await send(**request)  # type: ignore[arg-type]
            client.txn = send  # type: ignore[method-assign]
            raise LogUnavailable("lost")

        async def get_and_be_overtaken(key: str) -> KeyValue | None:
            nonlocal gets
            gets += 1
            item = await get(key)
            if gets == 3:
                claim = await win_claim(
                    successor, GroupCommit(successor, 3.0), KEYS, 0, "b", force=True, archived=nothing_archived
                )
                outcome.append(claim.record.epoch)
            return item

        client.txn = lose_the_reply  # type: ignore[method-assign]
        client.get = get_and_be_overtaken  # type: ignore[method-assign]
        try:
            await win_claim(client, GroupCommit(client, 3.0), KEYS, 0, "a", force=False, archived=nothing_archived)
        except PartitionOwned:
            outcome.append("b owns it")

    with World(1) as world:
        server = SimulatedServer(world, EtcdModel(), Weather())
        process = Process(world, "a")
        task = process.spawn(race(server.client(process), server.client(process)))
        world.run(task.done, 60.0)
    assert world.errors == []
    assert outcome == [2, "b owns it"]


async def test_an_archiver_that_another_overtook_finds_no_hole() -> None:
    """Between the mark and the page, the other one archived and deleted what the page was to begin with."""
    store = MemoryStore(1)
    writer = await MemoryEventLog(partitions=1, store=store).claim(0, "a")
    for n in range(1, 9):
        await writer.append(f"c{n}", [event("s/1", n)])
    everything, policy = Reach(young=True, small=True), ArchivePolicy(segment_bytes=1)
    other = Archiver(hot=store, blobs=store.blobs, policy=policy)

    class Overtaken(MemoryStore):
        def __init__(self) -> None:
            self.__dict__ = store.__dict__

        async def page(self, partition: int, base: int) -> list[StoredBatch]:
            await other.step(0, everything)
            return await store.page(partition, base)

    overtaken = Archiver(hot=Overtaken(), blobs=store.blobs, policy=policy)
    assert await overtaken.step(0, everything) is None, "it was the other's turn"
    assert await other.step(0, everything) is not None
