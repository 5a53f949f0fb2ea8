"""The gRPC intake: operation and build lines at any member, stored once where their stream is, and ended."""

import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from actors.logs import relay
from actors.logs.appender import LogAppender
from actors.logs.client import LogClient
from actors.logs.errors import AccessRefused, LogError, StreamClosed, WrongPosition
from actors.logs.filter import Query
from actors.logs.intake.client import IntakeClient
from actors.logs.intake.service import LogIntake
from actors.logs.line import LineRecord
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.logs.view import Appended

TOKEN = "t" * 32
STREAMS = [f"build/b-{number}" for number in range(8)]


@pytest.fixture
async def meet(tmp_path: Path) -> AsyncIterator[Path]:
    """Two members of a pool, each with its intake."""
    meet, opened = tmp_path / "m", []
    for name in ("eventlog-0", "eventlog-1"):
        store = LogStore(tmp_path / "logs", member=name)
        await store.start()
        server = EventlogServer(store, TOKEN, port_file=meet / f"{name}.addr", member=name, mesh_directory=meet)
        await server.start()
        intake = LogIntake(meet / f"{name}.grpc", TOKEN, partial(relay.write, server))
        await intake.start()
        opened.append((intake, server, store))
    yield meet
    for intake, server, store in opened:
        await intake.aclose()
        await server.aclose()
        await store.aclose()


async def texts(meet: Path, stream: str) -> list[str]:
    client = LogClient(meet, TOKEN)
    result = await client.query(Query(stream=stream))
    await client.aclose()
    return [line.text for line in result.lines]


async def test_lines_go_to_whoever_has_the_stream_once(meet: Path) -> None:
    client = IntakeClient(meet, TOKEN)
    for stream in STREAMS:
        line = LineRecord(at=5, text="one", source="build")
        assert await client.append(stream, "s", [line], after=0, upto=1) == Appended(first=1, next_number=2)
        again = await client.append(stream, "s", [line], after=0, upto=1)
        assert again.duplicate
        with pytest.raises(WrongPosition) as wrong:
            await client.append(stream, "s", [line], after=3, upto=4)
        assert wrong.value.stored == 1
        await client.close_stream(stream, "succeeded")
        with pytest.raises(StreamClosed):
            await client.append(stream, "s", [line], after=1, upto=2)
        assert await texts(meet, stream) == ["one"]
    await client.aclose()


async def test_an_appender_writes_through_it(meet: Path) -> None:
    client = IntakeClient(meet, TOKEN)
    appender = LogAppender(client, "builder-0")
    appender.start()
    for number in range(2_000):
        assert appender.emit(STREAMS[0], f"line {number}", source="build")
    await appender.close_stream(STREAMS[0], "succeeded", seconds=30)
    assert (await texts(meet, STREAMS[0]))[:3] == ["line 0", "line 1", "line 2"]
    await appender.aclose()
    await client.aclose()


async def test_a_stream_ends_behind_what_was_said_and_nobody_waits_for_it(meet: Path) -> None:
    client = IntakeClient(meet, TOKEN)
    appender = LogAppender(client, "supervisor-0")
    appender.emit("operation/o-1", "begun")
    appender.end("operation/o-1", "succeeded")
    appender.start()
    assert await appender.flush(30)
    assert await texts(meet, "operation/o-1") == ["begun"]
    with pytest.raises(StreamClosed, match="succeeded"):
        await client.append("operation/o-1", "s", [LineRecord(at=5, text="late")], after=0, upto=1)
    await appender.aclose()
    await client.aclose()


async def test_who_has_not_the_token_is_refused(meet: Path) -> None:
    client = IntakeClient(meet, "another token, as long as it must be")
    with pytest.raises(AccessRefused):
        await client.append(STREAMS[0], "s", [LineRecord(at=5, text="one")], after=0, upto=1)
    await client.aclose()


async def test_a_server_that_has_not_the_token_gets_no_line(tmp_path: Path) -> None:
    taken: list[object] = []

    async def take(request: object) -> relay.Reply:
        taken.append(request)
        raise LogError("never")

    impostor = LogIntake(tmp_path / "x.grpc", TOKEN, take)
    await impostor.start()
    impostor._admit = lambda context: context.send_initial_metadata(())  # type: ignore[method-assign,assignment]
    client = IntakeClient(tmp_path, TOKEN)
    with pytest.raises(LogError, match="took the lines"):
        await client.append(STREAMS[0], "s", [LineRecord(at=5, text="one")], after=0, upto=1, seconds=1)  # type: ignore
    assert taken == []
    await client.aclose()
    await impostor.aclose()


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    intake = Path(relay.__file__).with_name("intake")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(intake), f"--python_out={tmp_path}", "lines.proto"]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "lines_pb2.py").read_text() == (intake / "lines_pb2.py").read_text()
