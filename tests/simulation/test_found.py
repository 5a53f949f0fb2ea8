"""Defects that the simulation found, each played again step by step."""

from events.log.errors import LogUnavailable, PartitionOwned
from events.log.etcd_claim import win_claim
from events.log.etcd_client import EtcdClient
from events.log.etcd_wire import KeyValue, TxnResult
from events.log.keys import Keys
from events.log.store import StoredBatch
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
                claim = await win_claim(successor, KEYS, 0, "b", force=True, archived=nothing_archived)
                outcome.append(claim.record.epoch)
            return item

        client.txn = lose_the_reply  # type: ignore[method-assign]
        client.get = get_and_be_overtaken  # type: ignore[method-assign]
        try:
            await win_claim(client, KEYS, 0, "a", force=False, archived=nothing_archived)
        except PartitionOwned:
            outcome.append("b owns it")

    with World(1) as world:
        server = SimulatedServer(world, EtcdModel(), Weather())
        process = Process(world, "a")
        task = process.spawn(race(server.client(process), server.client(process)))
        world.run(task.done, 60.0)
    assert world.errors == []
    assert outcome == [2, "b owns it"]
