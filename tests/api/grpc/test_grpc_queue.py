"""The task queue over gRPC, by the client that is generated with it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from api.grpc import generate as generated
from api.grpc import queue_pb2 as pb
from api.grpc import queue_pb2_grpc
from api.grpc.server import serve_queue
from api.http.identity import Gatekeeper, digest_of
from events.queue.memory import MemoryTaskQueue, MemoryTopics

ADMIN = "an-administrators-token"
TEAM = "a-token-of-the-red-team"
LONG = 30.0


class Client:
    """A channel with a token."""

    def __init__(self, port: int, token: str) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.stub: Any = queue_pb2_grpc.TaskQueueStub(self._channel)  # type: ignore[no-untyped-call]
        self.metadata = (("authorization", f"Bearer {token}"),)

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self.stub, method)(request, metadata=self.metadata, timeout=LONG)

    def subscribe(self, **asked: Any) -> Any:
        return self.stub.Subscribe(pb.SubscribeRequest(**asked), metadata=self.metadata)

    async def close(self) -> None:
        await self._channel.close()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    queue = MemoryTaskQueue(MemoryTopics())
    await queue.open()

    async def teams(digest: str) -> str | None:
        return "red" if digest == digest_of(TEAM) else None

    server, bound = await serve_queue(queue, Gatekeeper(ADMIN, teams).principal, "127.0.0.1", 0)
    yield bound
    await server.stop(0)
    await queue.close()


@pytest.fixture
async def client(port: int) -> AsyncIterator[Client]:
    made = Client(port, ADMIN)
    yield made
    await made.close()


async def next_of(stream: Any) -> Any:
    async with asyncio.timeout(LONG):
        return await stream.read()


async def test_a_subscription_gets_what_is_published_and_its_words_count(client: Client) -> None:
    stream = client.subscribe(topic="mail", consumer="worker", in_flight=2)
    tasks = [pb.Task(id=f"t{n}", payload=bytes([n, 255])) for n in range(3)]
    sent = await client.call("Publish", pb.PublishRequest(topic="mail", tasks=tasks))
    assert [one.duplicate for one in sent.published] == [False] * 3
    first, second = await next_of(stream), await next_of(stream)
    assert (first.ref.task, first.payload, first.attempt) == ("t0", b"\x00\xff", 1)
    stats = await client.call("Stats", pb.StatsRequest(topic="mail"))
    assert (stats.claimed, stats.ready, stats.consumers) == (2, 1, 1)
    extended = await client.call("Extend", pb.ExtendRequest(claims=[first.ref], seconds=90))
    assert list(extended.accepted) == [True]
    acked = await client.call("Ack", pb.AckRequest(claims=[first.ref, second.ref]))
    assert list(acked.accepted) == [True, True]
    third = await next_of(stream)
    nacked = await client.call("Nack", pb.NackRequest(claims=[third.ref], reason="later", delay_seconds=0.0))
    assert list(nacked.became) == [pb.WAITING]
    again = await next_of(stream)
    assert (again.ref.task, again.attempt) == ("t2", 2)
    stale = await client.call("Ack", pb.AckRequest(claims=[third.ref]))
    assert list(stale.accepted) == [False]
    dead = await client.call("Nack", pb.NackRequest(claims=[again.ref], reason="never", dead=True))
    assert list(dead.became) == [pb.DEAD]
    assert list((await client.call("Topics", pb.TopicsRequest())).topics) == ["mail"]
    stream.cancel()


async def test_what_a_subscription_held_is_free_when_it_ends(client: Client) -> None:
    await client.call("Publish", pb.PublishRequest(topic="mail", tasks=[pb.Task(id="a")]))
    gone = client.subscribe(topic="mail", consumer="one")
    assert (await next_of(gone)).attempt == 1
    gone.cancel()
    stream = client.subscribe(topic="mail", consumer="two")
    assert (await next_of(stream)).attempt == 2
    stream.cancel()


async def test_who_has_no_token_or_a_teams_gets_nothing(port: int) -> None:
    for token, code in (("not-a-token-of-anybody", grpc.StatusCode.UNAUTHENTICATED), (TEAM, grpc.StatusCode.NOT_FOUND)):
        stranger = Client(port, token)
        for method, request in (("Topics", pb.TopicsRequest()), ("Publish", pb.PublishRequest(topic="mail"))):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stranger.call(method, request)
            assert refusal.value.code() is code
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await next_of(stranger.subscribe(topic="mail", consumer="x"))
        assert refusal.value.code() is code
        await stranger.close()


async def test_what_is_no_task_is_an_invalid_argument(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await client.call("Publish", pb.PublishRequest(topic="mail", tasks=[pb.Task(id="a/b")]))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "a/b" in (refusal.value.details() or "")


def test_the_generated_modules_are_those_of_the_proto_files(tmp_path: Path) -> None:
    for module in generated.generate(tmp_path):
        assert (tmp_path / module).read_bytes() == (generated.ROOT / module).read_bytes(), (
            f"{module} is not what its .proto says: python -m api.grpc.generate"
        )
