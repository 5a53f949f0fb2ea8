"""Requests over an actor's socket: each gets its own answer, or its caller learns that it may have had its effect."""

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from actors.cluster.channel import MAX_FRAME_BYTES, Channels, ChannelServer, NoChannel, socket_path
from actors.cluster.directory import ActorUnreachable

ECHO = """
import asyncio, sys
from pathlib import Path
from actors.cluster.channel import ChannelServer

async def echo(request: bytes) -> bytes:
    return sys.argv[2].encode() + request

async def main() -> None:
    await ChannelServer(Path(sys.argv[1]), "s", echo).start()
    print("listens", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Served:
    """What the actor was asked; it answers the same bytes, once it may."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, request: bytes) -> bytes:
        self.asked.append(request)
        if request == b"bad":
            raise ValueError("this cannot be answered")
        if request != b"fast":
            await self.go_on.wait()
        return request


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
async def server(tmp_path: Path, served: Served) -> AsyncIterator[ChannelServer]:
    server = ChannelServer(tmp_path / "sockets", "s", served)
    await server.start()
    yield server
    await server.aclose()


@pytest.fixture
def channels(tmp_path: Path) -> Channels:
    return Channels(tmp_path / "sockets")


async def test_each_call_gets_its_own_answer_whatever_its_size_and_whoever_is_slow(
    server: ChannelServer, channels: Channels, served: Served
) -> None:
    served.go_on.clear()
    requests = [b"", b"x", os.urandom(3 << 20), b"y" * 70_000]
    waiting = [asyncio.create_task(channels.call("s", request, seconds=30)) for request in requests]
    assert await channels.call("s", b"fast", seconds=30) == b"fast"
    served.go_on.set()
    assert await asyncio.gather(*waiting) == requests
    assert sorted(served.asked) == sorted([*requests, b"fast"])


async def test_the_directory_admits_only_its_owner(server: ChannelServer, tmp_path: Path) -> None:
    assert (tmp_path / "sockets").stat().st_mode & 0o777 == 0o700


async def test_one_that_does_not_listen_here_was_asked_nothing(
    server: ChannelServer, channels: Channels, served: Served
) -> None:
    with pytest.raises(NoChannel):
        await channels.call("other", b"x", seconds=30)
    await server.aclose()
    with pytest.raises(NoChannel):
        await channels.call("s", b"x", seconds=30)
    assert served.asked == []


async def test_a_call_under_way_when_its_actor_goes_may_have_had_its_effect(
    server: ChannelServer, channels: Channels, served: Served
) -> None:
    served.go_on.clear()
    waiting = asyncio.create_task(channels.call("s", b"x", seconds=30))
    while not served.asked:
        await asyncio.sleep(0.01)
    await server.aclose()
    with pytest.raises(ActorUnreachable):
        await waiting


async def test_a_request_that_cannot_be_answered_breaks_its_caller_and_nobody_else(
    server: ChannelServer, channels: Channels, tmp_path: Path
) -> None:
    other = Channels(tmp_path / "sockets")
    assert await other.call("s", b"before", seconds=30) == b"before"
    with pytest.raises(ActorUnreachable):
        await channels.call("s", b"bad", seconds=30)
    assert await other.call("s", b"after", seconds=30) == b"after"
    assert await channels.call("s", b"again", seconds=30) == b"again"


async def test_a_frame_beyond_all_bounds_ends_its_connection_before_it_is_read(
    server: ChannelServer, channels: Channels, tmp_path: Path
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket_path(tmp_path / "sockets", "s")))
    writer.write(struct.pack(">II", MAX_FRAME_BYTES + 1, 1))
    with pytest.raises((ConnectionError, EOFError)):
        await reader.readexactly(1)
    writer.close()
    assert await channels.call("s", b"x", seconds=30) == b"x"


@pytest.mark.servers
async def test_a_process_that_stands_still_is_given_up_and_one_of_its_name_is_asked_next(
    channels: Channels, tmp_path: Path
) -> None:
    def start(name: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-c", ECHO, str(tmp_path / "sockets"), name], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        return process

    first = start("first:")
    second: subprocess.Popen[bytes] | None = None
    try:
        assert await channels.call("s", b"1", seconds=30) == b"first:1"
        first.send_signal(signal.SIGSTOP)
        with pytest.raises(ActorUnreachable, match="did not answer"):
            await channels.call("s", b"2", seconds=0.3)
        second = start("second:")
        assert await channels.call("s", b"3", seconds=30) == b"second:3"
        first.send_signal(signal.SIGCONT)
        second.kill()
        second.wait()
        with pytest.raises((ActorUnreachable, NoChannel)):
            await channels.call("s", b"4", seconds=30)
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
