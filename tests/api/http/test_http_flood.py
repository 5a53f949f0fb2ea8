"""Twenty clients that flood: what is held of them is bounded, they are told so at once, and others are served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.api.http.conftest import ADMIN, House

pytestmark = pytest.mark.servers

ROOM = 12
BODY = b'{"name": "never-made-%d"}'


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.http.context.BODIES", ROOM)


@asynccontextmanager
async def half_sent(house: House, number: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request of the team `default` of whose body the end is not sent."""
    body = BODY % number
    reader, writer = await asyncio.open_connection("127.0.0.1", int(house.url.rpartition(":")[2]))
    head = (
        f"POST /v1/teams/default/apps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body[:5])
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_who_floods_is_told_at_once_and_another_team_is_served(little_room: None, house: House) -> None:
    token = await house.team("quiet")
    async with asyncio.TaskGroup() as group:
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        go_on = asyncio.Event()

        async def client(number: int) -> None:
            async with half_sent(house, number) as (reader, writer):
                waiting = asyncio.create_task(go_on.wait())
                first = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
                await asyncio.wait({waiting, first}, return_when=asyncio.FIRST_COMPLETED)
                if not first.done():
                    writer.write((BODY % number)[5:])
                answers.put_nowait(await first)
                waiting.cancel()

        for number in range(20):
            group.create_task(client(number))
        refused = [await asyncio.wait_for(answers.get(), 20) for _ in range(20 - ROOM // 2)]
        assert all(head.startswith(b"HTTP/1.1 429") and b"Retry-After: 1" in head for head in refused)
        served = await house.post("/v1/teams/quiet/apps", {"name": "mine"}, token=token)
        assert served.status == 201
        late = await house.post("/v1/teams/default/apps", {"name": "more"})
        assert (late.status, late.json["code"]) == (429, "overloaded")
        go_on.set()
        taken = [await asyncio.wait_for(answers.get(), 20) for _ in range(ROOM // 2)]
        assert all(head.startswith(b"HTTP/1.1 201") for head in taken)
    assert (await house.post("/v1/teams/default/apps", {"name": "more"})).status == 201
