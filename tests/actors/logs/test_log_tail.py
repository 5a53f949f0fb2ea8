"""A tail that is cut a hundred times gives every line once, in order; wherever in an answer it is cut."""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from actors.logs.client import LogClient
from actors.logs.keeper import Keeper
from actors.logs.line import Batch, LineRecord, gap_record
from actors.logs.policy import FixedPolicies, StreamPolicy
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.logs.view import StoreLimits

STREAM = "0123456789abcdef"
TOKEN = "t" * 32
CUTS = 100
LINES = 4_000


class Cutter:
    """A way to the server that breaks after some bytes of answers, a certain number of times."""

    def __init__(self, port: int, cuts: int, draw: Callable[[], int]) -> None:
        self.left = cuts
        self._under_way: set[asyncio.Task[None] | None] = set()
        self._port = port
        self._draw = draw

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._pass, "127.0.0.1", 0)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._under_way.add(asyncio.current_task())  # asyncio alone would let a paused connection be collected
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        asked = asyncio.ensure_future(self._copy(reader, back, 1 << 60))
        room = self._draw() if self.left else 1 << 60
        with suppress(ConnectionError):
            if await self._copy(there, writer, room):
                self.left -= 1
        asked.cancel()
        for each in (writer, back):
            each.transport.abort()

    @staticmethod
    async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, room: int) -> bool:
        """Whether all of `room` was used."""
        while room > 0:
            data = await source.read(min(room, 64 * 1024))
            if not data:
                return False
            room -= len(data)
            sink.write(data)
            await sink.drain()
        return True


@pytest.mark.servers  # a hundred reconnections with their pauses
async def test_a_tail_cut_a_hundred_times_resumes_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.logs.client._BACKOFF_MOST", 0.05)
    draw = random.Random(20)
    store = LogStore(tmp_path / "logs", StoreLimits(segment_bytes=30_000))
    await store.start()
    server = EventlogServer(store, TOKEN)
    # Once the greeting is through some cuts come in it, most in the middle of a piece.
    cutter = Cutter(
        await server.start(), CUTS, lambda: draw.choice((draw.randint(1, 40), *[draw.randint(100, 400_000)] * 4))
    )
    proxy = await cutter.serve()
    client = LogClient(f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}", TOKEN)
    keeper = Keeper(store, FixedPolicies(StreamPolicy(keep_seconds=0)))
    keeper.start()
    numbers: list[int] = []
    texts: list[str] = []
    wanted: list[str] = []

    async def write() -> None:
        sent = 0
        while sent < LINES:
            lines = [LineRecord(at=n, text=f"line {n} {draw.random()}") for n in range(sent, sent + 100)]
            if draw.random() < 0.1:
                lines[50] = gap_record(draw.randint(1, 9), "lost", sent)
            wanted.extend(line.text for line in lines)
            await store.append(STREAM, Batch.of("s", lines, after=sent, upto=sent + 100))
            sent += 100
            await asyncio.sleep(0.02)

    async def read() -> None:
        """All lines once; they may all have come before all cuts."""
        numbers.clear()
        texts.clear()
        async with aclosing(client.tail(STREAM, 1)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                for line in piece:
                    assert line.number == (numbers[-1] if numbers else 1), "expected the next number"
                    numbers.append(line.next_number)
                    texts.append(line.text)
                if len(texts) >= LINES:
                    return

    async with asyncio.timeout(120):
        writing = asyncio.create_task(write())
        await read()
        await writing
        while cutter.left:
            await read()
    assert texts == wanted
    assert cutter.left == 0
    await keeper.aclose()
    await client.aclose()
    proxy.close()
    await server.aclose()
    await store.aclose()
