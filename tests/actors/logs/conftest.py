"""Stores, servers and clients of the log service for its tests: real ones, each in its own directory and port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from actors.logs.client import LogClient
from actors.logs.search import Searcher
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore

TOKEN = "t" * 32


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LogStore]:
    store = LogStore(tmp_path / "logs")
    await store.start()
    yield store
    await store.aclose()


@pytest.fixture
async def searcher() -> AsyncIterator[Searcher]:
    searcher = Searcher(1)
    yield searcher
    await searcher.aclose()


@pytest.fixture
async def server(store: LogStore, tmp_path: Path) -> AsyncIterator[EventlogServer]:
    server = EventlogServer(store, TOKEN, port_file=tmp_path / "port")
    await server.start()
    yield server
    await server.aclose()


@pytest.fixture
async def client(server: EventlogServer, tmp_path: Path) -> AsyncIterator[LogClient]:
    client = LogClient(tmp_path / "port", TOKEN, node="test")
    yield client
    await client.aclose()


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    async def wait(holds: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while not await holds():
                await asyncio.sleep(0.02)

    return wait
