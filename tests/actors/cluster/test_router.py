"""Commands on their way: each is answered once, waits while its partition moves, and is refused where too many wait."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.cluster import router as module
from actors.cluster.channel import Channels, ChannelServer
from actors.cluster.directory import ActorUnreachable
from actors.cluster.fair import FairGate
from actors.cluster.router import Router
from events.log.memory import MemoryEventLog
from events.log.port import OwnerRecord
from events.log.records import partition_of
from events.model.base import Envelope, Reply, partition_key

PARTITIONS = 4


class Log(MemoryEventLog):
    """Whose owners the test names."""

    def __init__(self) -> None:
        super().__init__(partitions=PARTITIONS)
        self.owners: dict[int, str] = dict.fromkeys(range(PARTITIONS), "a")

    async def owner_of(self, partition: int) -> OwnerRecord | None:
        owner = self.owners.get(partition)
        return owner and OwnerRecord(owner=owner, node="n", pid=1, epoch=1, claimed_at=0)  # type: ignore[return-value]


class Owners:
    """The supervisors, as a directory finds them: each decides what it serves and notes what it decided."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.serving: dict[int, str] = dict(log.owners)
        self.decided: list[str] = []
        self.calls = 0
        self.away: set[str] = set()
        self.damaged: dict[int, str] = {}
        self.before: Callable[[], Any] | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def names(self, pool: str) -> list[str]:
        return ["a", "b"]

    async def call(self, actor: str, method: str, argument: Any = None, *, seconds: float | None = None) -> Any:
        await asyncio.sleep(0)
        if actor in self.away:
            raise ActorUnreachable(f"{actor} is away")
        if method == "serves":
            return self.serving.get(argument) == actor
        if method == "unserved":
            return self.damaged
        self.calls += 1
        await self.go_on.wait()
        envelopes = msgspec.msgpack.decode(argument, type=list[Envelope])
        return msgspec.msgpack.encode([self._decide(actor, envelope) for envelope in envelopes])

    def _decide(self, actor: str, envelope: Envelope) -> Reply:
        if self.serving.get(_partition(envelope)) != actor:
            return Reply(command_id=envelope.command_id, error="not_owner")
        self.decided.append(envelope.command_id)
        return Reply(command_id=envelope.command_id, stream=envelope.stream, version=1)


def _partition(envelope: Envelope) -> int:
    return int(partition_of(partition_key(envelope.stream), PARTITIONS))


def command(number: int, *, stream: str = "", team: str = "", size: int = 1) -> Envelope:
    body = msgspec.Raw(msgspec.msgpack.encode("x" * size))
    return Envelope(stream=stream or f"team/t{number}", command=body, command_id=f"c{number}", team=team)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def owners(log: Log) -> Owners:
    return Owners(log)


@pytest.fixture
def router(log: Log, owners: Owners, tmp_path: Path) -> Router:
    return Router(event_log=log, directory=owners, channels=Channels(tmp_path))  # type: ignore[arg-type]


async def test_what_is_sent_at_once_travels_in_few_calls_and_keeps_its_order(router: Router, owners: Owners) -> None:
    commands = [command(n, stream="team/one") for n in range(1000)]
    replies = await router.submit(commands)
    assert [r.command_id for r in replies] == [c.command_id for c in commands] == owners.decided
    assert owners.calls <= 6
    assert router.gate.things == 0


async def test_an_owner_that_listens_on_this_machine_is_asked_there_and_by_ray_once_it_does_not(
    router: Router, owners: Owners, tmp_path: Path
) -> None:
    async def decide(commands: bytes) -> bytes:
        return msgspec.msgpack.encode(
            [owners._decide("a", envelope) for envelope in msgspec.msgpack.decode(commands, type=list[Envelope])]
        )

    server = ChannelServer(tmp_path, "a", decide)
    await server.start()
    replies = await router.submit([command(n) for n in range(20)])
    assert [r.error for r in replies] == [""] * 20
    assert owners.calls == 0
    await server.aclose()
    [reply] = await router.submit([command(20)])
    assert reply.error == ""
    assert owners.calls == 1
    assert sorted(owners.decided) == sorted(f"c{n}" for n in range(21))


async def test_commands_wait_for_a_partition_that_moves_and_each_is_decided_once(
    router: Router, owners: Owners, log: Log
) -> None:
    await router.submit([command(n) for n in range(20)])  # it knows the owners now
    moving = set(range(PARTITIONS))
    for partition in moving:
        owners.serving.pop(partition)
        log.owners.pop(partition)
    waiting = asyncio.create_task(router.submit([command(n) for n in range(20, 220)]))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    for partition in moving:
        log.owners[partition] = owners.serving[partition] = "b"
    replies = await waiting
    assert [r.error for r in replies] == [""] * 200
    assert sorted(owners.decided) == sorted(f"c{n}" for n in range(220))


async def test_an_owner_that_died_is_asked_no_more_once_another_serves(
    router: Router, owners: Owners, log: Log
) -> None:
    await router.submit([command(1)])
    owners.away.add("a")
    waiting = asyncio.create_task(router.submit([command(2)]))
    await asyncio.sleep(0.05)
    for partition in range(PARTITIONS):
        log.owners[partition] = owners.serving[partition] = "b"
    [reply] = await waiting
    assert reply.error == ""


async def test_an_owner_that_does_not_answer_is_found_out_once_for_all_its_partitions(
    router: Router, owners: Owners, log: Log
) -> None:
    await router.submit([command(n) for n in range(20)])
    owners.away.add("a")
    for partition in range(PARTITIONS):
        log.owners[partition] = owners.serving[partition] = "b"
    [reply] = await router.submit([command(20)])
    assert reply.error == ""
    assert set(router._owners.values()) == {"b"}


async def test_one_whose_time_is_up_is_told_so_and_nothing_is_kept_of_it(
    router: Router, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SUBMIT_SECONDS", 0.2)
    log.owners.clear()
    [reply] = await router.submit([command(1)])
    assert reply.error == "unavailable"
    assert "nobody serves" in reply.error_message
    assert router.gate.things == 0


async def test_twenty_clients_that_flood_are_refused_at_once_and_hold_no_more_than_may_wait(
    router: Router, owners: Owners
) -> None:
    """Trap 17: rejected is not lost, what waits is bounded, and one that sends little is always heard."""
    router.gate = FairGate(things=400, size=1 << 20)
    owners.go_on.clear()
    flooding = [
        asyncio.create_task(
            router.submit([command(1000 * c + n, team=f"flood-{c % 4}", size=2000) for n in range(200)])
        )
        for c in range(20)
    ]
    await asyncio.sleep(0.05)
    assert router.gate.things <= 400
    assert router.gate.size <= 1 << 20
    quiet = asyncio.create_task(router.submit([command(1, team="quiet")]))
    await asyncio.sleep(0.01)
    owners.go_on.set()
    [reply] = await quiet
    assert reply.error == ""
    replies = [reply for task in flooding for reply in await task]
    taken = {r.command_id for r in replies if not r.error}
    assert {r.error for r in replies} == {"", "overloaded"}
    assert taken | {"c1"} == set(owners.decided)
    assert len(owners.decided) == len(taken) + 1
    assert router.gate.things == 0


async def test_one_for_a_partition_that_cannot_be_served_is_answered_at_once_with_the_reason(
    router: Router, log: Log, owners: Owners
) -> None:
    envelope = command(1)
    damaged = _partition(envelope)
    log.owners[damaged] = None
    owners.serving.pop(damaged, None)
    owners.damaged = {damaged: "batch at 8:76 is corrupt"}
    async with asyncio.timeout(5):
        [reply] = await router.submit([envelope])
    assert (reply.error, reply.error_message) == ("unreadable", "batch at 8:76 is corrupt")
    assert router.gate.things == 0
