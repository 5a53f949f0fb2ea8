"""The load generator: every request is sent once and counted once, also where connections break."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from benchmarks.http_load import load, post


class Server:
    """Answers with the number that it was asked with; breaks the connection at every multiple of `breaks` instead."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.breaks = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
            number = int(await reader.readexactly(length))
            self.asked.append(number)
            if self.breaks and number % self.breaks == 0:
                break
            answer = f"HTTP/1.1 202 Accepted\r\nContent-Length: {length}\r\n\r\n{number}".encode()
            writer.write(answer[:20])  # an answer may come in pieces
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(answer[20:])
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Nothing at the end."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _request(number: int) -> bytes:
    return post("/", "token", str(number).encode())


async def test_as_fast_as_they_are_answered_each_is_sent_and_counted_once(server: Server) -> None:
    seen = await load(server.port, _request, connections=8, seconds=0.3)

    assert sorted(server.asked) == list(range(len(server.asked)))
    assert seen.statuses == {202: len(server.asked)}
    assert sorted(number for number, _, _ in seen.marks) == sorted(server.asked)
    assert len(seen.seconds) == len(server.asked) > 8
    assert all(due <= answered for _, due, answered in seen.marks)


async def test_at_a_pace_no_more_is_sent_than_is_due(server: Server) -> None:
    seen = await load(server.port, _request, connections=4, seconds=0.5, rate=100)

    assert sorted(server.asked) == list(range(50))
    first = min(due for _, due, _ in seen.marks)
    assert [round((due - first) * 100) for _, due, _ in sorted(seen.marks)] == list(range(50))


async def test_what_is_due_while_it_warms_up_is_sent_and_not_counted(server: Server) -> None:
    seen = await load(server.port, _request, connections=4, warm_up=0.25, seconds=0.25, rate=100)

    assert sorted(server.asked) == list(range(50))
    counted = sorted(number for number, _, _ in seen.marks)
    assert counted == list(range(25, 50))
    assert seen.statuses == {202: 25}
    assert len(seen.seconds) == 25


async def test_a_broken_connection_is_counted_and_another_takes_its_place(server: Server) -> None:
    server.breaks = 10
    seen = await load(server.port, _request, connections=3, seconds=0.5, rate=200)

    assert sorted(server.asked) == list(range(100))
    assert seen.statuses == {202: 90, 0: 10}


async def test_it_ends_earlier_when_it_is_told_to(server: Server) -> None:
    until = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, until.set)
    async with asyncio.timeout(10):
        seen = await load(server.port, _request, connections=2, seconds=60, until=until)
    assert seen.statuses == {202: len(server.asked)}


async def test_an_answer_that_counts_for_many_has_so_many_times(server: Server) -> None:
    seen = await load(
        server.port, _request, connections=1, seconds=0.1, rate=50, statuses=lambda status, body: {status: 3, 404: 1}
    )
    assert seen.statuses == {202: 15, 404: 5}
    assert len(seen.seconds) == 20


async def test_nobody_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.http_load.ANSWER_SECONDS", 0.1)
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await load(1, _request, connections=1, seconds=1)
