"""A log that a newer version has written to: what cannot be read is not decided upon, and the rest is served."""

import msgspec
import pytest

from actors.supervisor.engine import PartitionEngine
from actors.supervisor.entity import Entity
from actors.supervisor.supervisor import Supervisor
from events.log.memory import MemoryEventLog, MemoryStore
from events.log.records import EventRecord, partition_of
from events.model.base import Envelope, Reply, partition_key
from events.model.component_progress import Effect
from events.model.placement import Room
from events.model.registry import encode_command, encode_event
from events.model.team import CreateTeam, TeamCreated

PARTITIONS = 2
OLD, NEW = "team/old", "team/shop"


class NoNodes:
    def nodes(self) -> list[Room]:
        return []

    async def run(self, engine: PartitionEngine, entity: Entity, effect: Effect) -> None:
        raise AssertionError(f"nothing may be done on the word of a log that cannot be read: {effect}")


def partition(stream: str) -> int:
    return partition_of(partition_key(stream), PARTITIONS)


def created(stream: str) -> EventRecord:
    name = stream.partition("/")[2]
    body = encode_event(TeamCreated(name=name))
    return EventRecord(stream, 1, "TeamCreated", 1, f"{stream}@1", 0, "c1", "c1", "", "t", "", "", body)


async def told_to(supervisor: Supervisor, stream: str) -> Reply:
    command = encode_command(CreateTeam(name=stream.partition("/")[2]))
    [reply] = await supervisor.submit([Envelope(stream=stream, command=command, command_id="c2")])
    return reply


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema_version": 9}, "TeamCreated in a schema version from 1 to 1, found version 9"),
        ({"type": "TeamCrowned"}, "found 'TeamCrowned'"),
        ({"body": msgspec.Raw(msgspec.msgpack.encode({"nom": "old"}))}, "name"),
    ],
)
async def test_its_partition_is_left_alone_and_says_why(change: dict[str, object], why: str) -> None:
    assert partition(OLD) != partition(NEW)
    store = MemoryStore(PARTITIONS)
    event_log = MemoryEventLog(partitions=PARTITIONS, store=store)
    await event_log.open()
    writer = await event_log.claim(partition(OLD), "newer")
    await writer.append("c1", [msgspec.structs.replace(created(OLD), **change)])
    await writer.release()
    hands = NoNodes()
    supervisor = Supervisor(name="s1", event_log=event_log, nodes=hands)  # type: ignore[arg-type]
    supervisor.use(hands)

    assert await supervisor.assign(range(PARTITIONS)) == [partition(NEW)]

    reply = await told_to(supervisor, OLD)
    assert reply.error == "unreadable" and why in reply.error_message
    assert f"partition {partition(OLD)} is not served" in reply.error_message
    served = await told_to(supervisor, NEW)
    assert not served.error and served.refusal is None
    assert await event_log.owner_of(partition(OLD)) is None, "a newer supervisor can claim it at once"
    assert await event_log.tail(partition(OLD)) == 1, "nothing was written to it"
    await supervisor.close()
    await event_log.close()
