"""A member in a process of its own, for tests that kill it: publishes what it is told, works, and acks as it goes.

Says on its pipe how far it is. Knows nothing of what befalls it.
"""

import asyncio
from multiprocessing.connection import Connection

from events.log.etcd_client import EtcdClient
from events.log.etcd_connection import EtcdSettings
from events.queue.etcd_queue import EtcdTaskQueue
from events.queue.task import Consumer, NewTask

TOPIC = "work"
AT_ONCE = 500


def key_of(ident: str) -> str:
    """Every tenth task is one of a key's."""
    return f"k{ident[-3:]}" if ident.endswith("0") else ""


def serve(settings: EtcdSettings, tasks: int, acks: int, told: Connection) -> None:
    """The process's main function: publish `tasks`, do `acks` of them, claim some more, and stay."""
    asyncio.run(_serve(settings, tasks, acks, told))


async def _serve(settings: EtcdSettings, tasks: int, acks: int, told: Connection) -> None:
    async with EtcdClient(settings) as client:
        queue = EtcdTaskQueue(client, name="worker-0", alone=True)
        await queue.open()
        ids = [f"t{n:05d}" for n in range(tasks)]
        for first in range(0, tasks, AT_ONCE):
            some = ids[first : first + AT_ONCE]
            await queue.publish(TOPIC, [NewTask(id=i, payload=i.encode(), key=key_of(i)) for i in some])
        told.send("published")
        done: list[str] = []
        consumer = Consumer(name="worker")
        while len(done) < acks:
            claims = await queue.claim(TOPIC, consumer, most=min(50, acks - len(done)), wait_seconds=10.0)
            accepted = await queue.ack([claim.ref for claim in claims])
            assert all(accepted)
            done += [claim.task.id for claim in claims]
        held = await queue.claim(TOPIC, consumer, most=20, wait_seconds=10.0)
        told.send((done, [claim.ref for claim in held]))
        await asyncio.Event().wait()
