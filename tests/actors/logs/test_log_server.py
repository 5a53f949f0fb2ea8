"""What the server and its client promise: the token, order, tails that resume, slow readers, platform lines."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from actors.logs import protocol
from actors.logs.appender import LogAppender
from actors.logs.client import LogClient
from actors.logs.errors import AccessRefused, BadQuery, BadStreamName, Unreachable, WrongPosition
from actors.logs.filter import LineFilter, Query
from actors.logs.line import LineRecord, LogLine
from actors.logs.reader import PIECE_CHARS
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore

STREAM = "0123456789abcdef"
TOKEN = "t" * 32
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


def lines(start: int, count: int, text: str = "line {n}") -> list[LineRecord]:
    return [LineRecord(at=n, text=text.format(n=n)) for n in range(start + 1, start + count + 1)]


async def collect(client: LogClient, count: int, **how: object) -> list[LogLine]:
    seen: list[LogLine] = []
    async with asyncio.timeout(30):
        async for piece in client.tail(STREAM, **how):  # type: ignore[arg-type]
            seen += piece
            if len(seen) >= count:
                return seen
    return seen


async def test_a_wrong_token_is_refused_and_counted(server: EventlogServer, tmp_path: Path) -> None:
    for token in ("x" * 32, "", "t" * 31, "ü" * 20):
        stranger = LogClient(tmp_path / "port", token)
        with pytest.raises(AccessRefused):
            await stranger.query(Query(stream=STREAM))
        with pytest.raises(AccessRefused):
            await stranger.append(STREAM, "s", lines(0, 1), after=0, upto=1, seconds=5)
        await stranger.aclose()
    assert server.stats.refused_tokens == 8
    assert (await server.store.view(STREAM)).next_number == 1


async def test_rubbish_closes_the_connection_only(server: EventlogServer, client: LogClient, tmp_path: Path) -> None:
    host, _, port = (tmp_path / "port").read_text().strip().rpartition(":")
    hello = protocol.encode(protocol.Hello(token=TOKEN))
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, hello + b"\0\0\0\4abcd", hello + b"\x7f\xff\xff\xff"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(rubbish)
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
    await client.append(STREAM, "s", lines(0, 1), after=0, upto=1, seconds=5)


async def test_append_query_and_refusals_cross_the_wire(client: LogClient) -> None:
    landed = await client.append(STREAM, "s", lines(0, 10), after=0, upto=10)
    assert (landed.first, landed.next_number) == (1, 11)
    assert (await client.append(STREAM, "s", lines(0, 10), after=0, upto=10)).duplicate
    with pytest.raises(WrongPosition) as refused:
        await client.append(STREAM, "s", lines(20, 1), after=20, upto=21)
    assert refused.value.stored == 10 == await client.position(STREAM, "s")
    assert await client.position(STREAM, "other") is None
    newest = await client.query(Query(stream=STREAM, last=2, filter=LineFilter(grep="line [1-5]$")))
    assert [line.text for line in newest.lines] == ["line 4", "line 5"]
    with pytest.raises(BadQuery, match="regular expression"):
        await client.query(Query(stream=STREAM, filter=LineFilter(grep="(")))
    with pytest.raises(BadStreamName):
        await client.query(Query(stream="../etc"))


async def test_a_tail_gives_what_is_stored_and_then_what_comes(client: LogClient) -> None:
    await client.append(STREAM, "s", lines(0, 5), after=0, upto=5)
    tail = asyncio.create_task(collect(client, 8, from_number=3))
    await client.append(STREAM, "s", lines(5, 5), after=5, upto=10)
    seen = await tail
    assert [line.number for line in seen] == list(range(3, 11))


async def test_a_filtered_tail_shows_matches_only(client: LogClient) -> None:
    tail = asyncio.create_task(collect(client, 2, from_number=1, flt=LineFilter(grep="7$")))
    for start in range(0, 20, 5):
        await client.append(STREAM, "s", lines(start, 5), after=start, upto=start + 5)
    assert [line.text for line in await tail] == ["line 7", "line 17"]


async def test_a_tail_of_a_build_ends_with_it(client: LogClient) -> None:
    await client.append("build/b1", "s", lines(0, 3), after=0, upto=3)
    seen: list[LogLine] = []

    async def read() -> None:
        async for piece in client.tail("build/b1", 1):
            seen.extend(piece)

    tail = asyncio.create_task(read())
    await client.append("build/b1", "s", lines(3, 3), after=3, upto=6)
    await client.close_stream("build/b1", "succeeded")
    async with asyncio.timeout(20):
        await tail
    assert [line.number for line in seen] == [1, 2, 3, 4, 5, 6]
    result = await client.query(Query(stream="build/b1", last=1))
    assert result.closed is not None and result.closed.outcome == "succeeded"


async def test_a_tail_resumes_by_number_when_its_server_is_replaced(store: LogStore, tmp_path: Path) -> None:
    client = LogClient(tmp_path / "port", TOKEN)
    seen: list[int] = []
    read_all = asyncio.Event()

    async def read() -> None:
        async for piece in client.tail(STREAM, 1):
            seen.extend(line.number for line in piece)
            if len(seen) >= 500:
                read_all.set()

    async with asyncio.TaskGroup() as tasks:
        tail = tasks.create_task(read())
        for round_ in range(5):
            server = EventlogServer(store, TOKEN, port_file=tmp_path / "port")
            await server.start()
            for start in range(round_ * 100, round_ * 100 + 100, 10):
                await client.append(STREAM, "s", lines(start, 10), after=start, upto=start + 10)
            if round_ < 4:
                await server.aclose()
        async with asyncio.timeout(30):
            await read_all.wait()
        tail.cancel()
    assert seen == list(range(1, 501))
    await client.aclose()
    await server.aclose()


async def test_a_slow_reader_slows_only_itself(server: EventlogServer, client: LogClient, tmp_path: Path) -> None:
    host, _, port = (tmp_path / "port").read_text().strip().rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(protocol.encode(protocol.Hello(token=TOKEN)))
    writer.write(protocol.encode(protocol.Tail(id=1, stream=STREAM, from_number=1, filter=LineFilter())))
    text = "x" * 1_000 + "{n}"
    for start in range(0, 20_000, 1_000):
        await client.append(STREAM, "s", lines(start, 1_000, text), after=start, upto=start + 1_000, seconds=20)
    brisk = await collect(client, 20_000, from_number=1)
    assert [line.number for line in brisk] == list(range(1, 20_001))
    assert server.stats.tails >= 1
    await protocol.read_frame(reader, protocol.MAX_ANSWER)
    late: list[int] = []
    async with asyncio.timeout(30):
        while len(late) < 20_000:
            reply = protocol.decode_reply(await protocol.read_frame(reader, protocol.MAX_ANSWER) or b"")
            assert isinstance(reply, protocol.More) and sum(len(line.text) for line in reply.piece.lines) <= PIECE_CHARS
            late += [line.number for line in reply.piece.lines]
    assert late == list(range(1, 20_001))
    writer.close()


async def test_platform_lines_never_block_and_losses_are_a_gap(server: EventlogServer, client: LogClient) -> None:
    appender = LogAppender(client, "node-1/supervisor", max_bytes=50_000)
    kept = [appender.emit(STREAM, f"step {n}") for n in range(1_000)]
    assert 0 < kept.count(True) < 1_000 and not kept[-1]
    appender.start()
    assert await appender.flush()
    assert appender.emit(STREAM, "two\nlines")
    assert await appender.flush()
    result = await client.query(Query(stream=STREAM, last=10_000))
    first = [line for line in result.lines if not line.gap]
    gaps = [line for line in result.lines if line.gap]
    assert [line.text for line in first] == [f"step {n}" for n in range(kept.count(True))] + ["two", "lines"]
    assert [gap.gap for gap in gaps] == [kept.count(False)] and appender.lost_lines == kept.count(False)
    assert result.next_number == 1_003
    await appender.aclose()


async def test_build_output_waits_for_room_and_loses_nothing(client: LogClient, server: EventlogServer) -> None:
    appender = LogAppender(client, "node-1/builder", max_bytes=5_000)
    appender.start()
    for record in lines(0, 500):
        await appender.write("build/b2", record)
    await appender.close_stream("build/b2", "succeeded")
    result = await client.query(Query(stream="build/b2"))
    assert [line.text for line in result.lines] == [f"line {n}" for n in range(1, 501)]
    assert result.closed is not None
    await appender.aclose()


async def test_no_server_is_said_in_time(tmp_path: Path) -> None:
    client = LogClient(tmp_path / "nothing", TOKEN)
    with pytest.raises(Unreachable):
        await client.query(Query(stream=STREAM))
    with pytest.raises(Unreachable):
        await client.append(STREAM, "s", lines(0, 1), after=0, upto=1, seconds=0.3)
    await client.aclose()
