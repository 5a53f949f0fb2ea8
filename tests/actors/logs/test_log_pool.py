"""A pool of log servers: any member answers for any stream, each has one writer, and only what must move moves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.logs.client import LogClient
from actors.logs.filter import Query
from actors.logs.line import LineRecord
from actors.logs.placement import BOUND, FLOOR, capacity, place, to_give
from actors.logs.policy import FixedPolicies, StreamPolicy
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore

TOKEN = "t" * 32
RATE = 100e6
STREAMS = [f"{number:016x}" for number in range(40)]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
_LOADS = st.dictionaries(st.sampled_from([f"eventlog-{n}" for n in range(6)]), st.floats(0, 1e9), min_size=1)


class Pool:
    """Members in one process, each with its own store over the same directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.stores: dict[str, LogStore] = {}
        self.servers: dict[str, EventlogServer] = {}

    async def join(self, name: str) -> None:
        store = self.stores[name] = LogStore(self._root / "logs", member=name)
        await store.start()
        mesh = self._root / "m"
        self.servers[name] = EventlogServer(
            store,
            TOKEN,
            port_file=mesh / f"{name}.addr",
            member=name,
            mesh_directory=mesh,
            policies=FixedPolicies(StreamPolicy(team="red", bytes_per_second=RATE)),
        )
        await self.servers[name].start()

    async def leave(self, name: str) -> None:
        await self.servers.pop(name).aclose()
        await self.stores.pop(name).aclose()

    def client(self, name: str = "") -> LogClient:
        return LogClient(self._root / "m" / f"{name}.addr" if name else self._root / "m", TOKEN)

    def where(self) -> dict[str, str | None]:
        """Who has claimed each stream, or was given it."""
        store = next(iter(self.stores.values()))
        return {stream: store.owner_of(stream) for stream in STREAMS}

    def expected(self) -> dict[str, str | None]:
        """Where each belongs while nobody is loaded."""
        return {stream: place(stream, dict.fromkeys(self.stores, 0.0)) for stream in STREAMS}

    async def settled(self) -> bool:
        """Whether those that joined have got what is theirs."""
        return self.where() == self.expected()


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    pool = Pool(tmp_path)
    yield pool
    for name in list(pool.servers):
        await pool.leave(name)


async def write(client: LogClient, stream: str, first: int, count: int) -> None:
    lines = [LineRecord(at=5, text=f"line {n}") for n in range(first, first + count)]
    await client.append(stream, "source", lines, after=first, upto=first + count, seconds=60)


async def read(client: LogClient, stream: str) -> list[str]:
    return [line.text for line in (await client.query(Query(stream=stream, limit=10_000))).lines]


@given(_LOADS, st.text(max_size=20))
def test_a_stream_goes_to_a_member_with_room(loads: dict[str, float], stream: str) -> None:
    member = place(stream, loads)
    assert loads[member] <= capacity(loads) and capacity(loads) >= FLOOR
    assert place(stream, dict(reversed(loads.items()))) == member


@given(st.lists(st.text(max_size=20), unique=True))
def test_when_a_member_goes_only_its_own_streams_move(streams: list[str]) -> None:
    loads = {f"eventlog-{n}": 0.0 for n in range(4)}
    before = {stream: place(stream, loads) for stream in streams}
    del loads["eventlog-2"]
    assert all(place(stream, loads) == member for stream, member in before.items() if member != "eventlog-2")


@given(st.lists(st.floats(0, 1e8), min_size=1, max_size=30))
def test_a_loaded_member_gives_until_it_may_carry_the_rest_or_nothing_fits(rates: list[float]) -> None:
    mine = {f"s{n}": rate for n, rate in enumerate(rates)}
    loads = {"a": sum(rates), "b": 0.0, "c": 0.0}
    given_ = to_give("a", mine, loads, frozenset())
    left = dict(loads)
    for stream, member in given_.items():
        left["a"] -= mine[stream]
        left[member] += mine[stream]
    most = capacity(loads)
    assert all(left[member] <= most * 1.000001 for member in ("b", "c")) and "a" not in given_.values()
    kept = [rate for stream, rate in mine.items() if stream not in given_ and rate]
    assert left["a"] <= most * 1.000001 or all(min(left["b"], left["c"]) + rate > most * 0.999999 for rate in kept)
    assert BOUND > 1


async def test_any_member_answers_for_any_stream(pool: Pool, until: Until) -> None:
    for name in ("eventlog-0", "eventlog-1", "eventlog-2"):
        await pool.join(name)
    writer = pool.client()
    for stream in STREAMS:
        await write(writer, stream, 0, 3)
        await write(writer, stream, 3, 2)
    await until(pool.settled)
    where = pool.where()
    assert set(where.values()) == set(pool.servers)
    for name in pool.servers:
        client = pool.client(name)
        for stream in STREAMS:
            assert await read(client, stream) == [f"line {n}" for n in range(5)]
        await client.aclose()
    assert pool.where() == where, "reading moves nothing"
    await writer.aclose()


async def test_a_tail_at_another_member_sees_every_line_once(pool: Pool) -> None:
    for name in ("eventlog-0", "eventlog-1"):
        await pool.join(name)
    writer = pool.client()
    await write(writer, STREAMS[0], 0, 10)
    other = next(name for name in pool.servers if name != pool.where()[STREAMS[0]])
    reader = pool.client(other)
    seen: list[str] = []

    async def tail() -> None:
        async for lines in reader.tail(STREAMS[0], 1):
            seen.extend(line.text for line in lines)
            if len(seen) >= 200:
                return

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(tail())
        for first in range(10, 200, 10):
            await write(writer, STREAMS[0], first, 10)
    assert seen == [f"line {n}" for n in range(200)]
    await writer.aclose()
    await reader.aclose()


async def test_what_a_member_leaves_behind_is_taken_over_and_nothing_else_moves(pool: Pool, until: Until) -> None:
    for name in ("eventlog-0", "eventlog-1", "eventlog-2"):
        await pool.join(name)
    client = pool.client()
    for stream in STREAMS:
        await write(client, stream, 0, 3)
    await until(pool.settled)
    before = pool.where()
    await pool.leave("eventlog-1")
    for stream in STREAMS:
        await write(client, stream, 3, 3)
        assert await read(client, stream) == [f"line {n}" for n in range(6)]
    after = pool.where()
    assert {stream: after[stream] for stream in STREAMS if before[stream] != "eventlog-1"} == {
        stream: name for stream, name in before.items() if name != "eventlog-1"
    }
    await client.aclose()


async def test_a_member_that_joins_takes_its_share_and_no_line_is_lost(pool: Pool, until: Until) -> None:
    await pool.join("eventlog-0")
    client = pool.client()
    for stream in STREAMS:
        await write(client, stream, 0, 3)
    await pool.join("eventlog-1")
    await until(pool.settled)
    assert set(pool.where().values()) == {"eventlog-0", "eventlog-1"}
    for stream in STREAMS:
        await write(client, stream, 3, 3)
        assert await read(client, stream) == [f"line {n}" for n in range(6)]
    assert await pool.settled()
    await client.aclose()


async def test_a_teams_rate_holds_for_the_pool_and_is_whole_again_when_the_others_are_idle(
    pool: Pool, until: Until
) -> None:
    for name in ("eventlog-0", "eventlog-1"):
        await pool.join(name)
    one, other = pool.servers["eventlog-0"], pool.servers["eventlog-1"]
    assert one.share_of(STREAMS[0]) == ("red", RATE)
    other.shares.enter("red", 4_000_000, RATE)

    async def less() -> bool:
        return one.share_of(STREAMS[0])[1] < RATE

    async def whole() -> bool:
        return one.share_of(STREAMS[0])[1] == RATE

    await until(less)
    assert one.share_of(STREAMS[0])[1] >= RATE / 2, "an even part is always there"
    assert other.share_of(STREAMS[0])[1] == RATE, "its own is not another's"
    await until(whole)
