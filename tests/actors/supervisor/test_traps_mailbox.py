"""Traps 16 and 17 of docs/correctness.md: an async actor promises no order and no bound; its engine does both."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from actors.supervisor.engine import PartitionEngine
from events.log.memory import MemoryEventLog
from events.log.writer import WriterLimits
from events.model.base import Envelope
from events.model.node import JoinNode
from events.model.placement import Room
from events.model.registry import encode_command
from tests.actors.supervisor.test_partition_engine import Recorder

NODES = 7
GATEWAYS = 20
FLOOD = 150
QUEUED = 300
RSS_GROWTH_MAX = 256 << 20


@asynccontextmanager
async def engine_over(log: MemoryEventLog) -> AsyncIterator[PartitionEngine]:
    await log.open()
    writer = await log.claim(0, "supervisor-0")
    engine = PartitionEngine(event_log=log, writer=writer, runner=Recorder(), nodes=lambda: [Room(name="node1")])
    await engine.recover()
    try:
        yield engine
    finally:
        await engine.close()
        await log.close()


def join(node: str, command_id: str) -> Envelope:
    """A command that is never refused, however often it comes."""
    command = JoinNode(name=node, address="127.0.0.1", cpus=1, memory_bytes=1, runtime=command_id)
    return Envelope(stream=f"node/{node}", command=encode_command(command), command_id=command_id)


async def commands_by_stream(log: MemoryEventLog) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    async for part in log.read(0, 0):
        for stored in part:
            found.setdefault(stored.record.stream, []).append(stored.record.command_id)
    return found


@pytest.mark.parametrize("seed", range(25))
async def test_each_entitys_events_are_in_the_order_in_which_its_commands_came(seed: int) -> None:
    """Trap 16. Callers interleave at random, thousands of commands are in flight, and commits lag behind them."""
    dice = random.Random(seed)
    log = MemoryEventLog(partitions=1)
    came: dict[str, list[str]] = {}

    async def send(engine: PartitionEngine, node: str, command_id: str) -> None:
        came.setdefault(f"node/{node}", []).append(command_id)
        reply = await engine.handle(join(node, command_id))  # begins in this very turn of the loop
        assert not reply.error

    async def caller(number: int, engine: PartitionEngine) -> None:
        async with asyncio.TaskGroup() as group:
            for n in range(30):
                for _ in range(dice.randint(0, 4)):
                    await asyncio.sleep(0)
                sending = send(engine, f"n{dice.randrange(NODES)}", f"c{number}.{n}")
                if dice.random() < 0.5:
                    await sending
                else:
                    group.create_task(sending)

    async with engine_over(log) as engine:
        await asyncio.gather(*(caller(number, engine) for number in range(12)))

    assert await commands_by_stream(log) == came


async def test_a_flood_is_refused_not_lost_and_takes_bounded_memory() -> None:
    """Trap 17. Ray's bound is for each caller; twenty of them meet one bound here."""
    log = MemoryEventLog(partitions=1, limits=WriterLimits(queued_commands=QUEUED, append_deadline_s=60.0))
    refused = 0
    done: set[str] = set()
    process = psutil.Process()

    async def gateway(number: int, engine: PartitionEngine) -> None:
        nonlocal refused
        waiting = {f"g{number}.{n}" for n in range(FLOOD)}
        while waiting:
            asked = sorted(waiting)
            replies = await asyncio.gather(*(engine.handle(join(f"n{number}", command_id)) for command_id in asked))
            for command_id, reply in zip(asked, replies, strict=True):
                assert reply.error in ("", "overloaded"), reply
                if reply.error:
                    refused += 1
                else:
                    waiting.discard(command_id)
                    done.add(command_id)

    async with engine_over(log) as engine:
        before = process.memory_info().rss
        await asyncio.gather(*(gateway(number, engine) for number in range(GATEWAYS)))
        assert process.memory_info().rss - before < RSS_GROWTH_MAX

    assert refused > 0, "the bound was met"
    found = await commands_by_stream(log)
    stored = [command_id for ids in found.values() for command_id in ids]
    assert len(stored) == len(set(stored)) == GATEWAYS * FLOOD and set(stored) == done
