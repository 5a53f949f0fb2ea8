"""Each team's lines are taken at its own rate: one that prints too much waits for itself, and loses nothing by it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.logs.client import LogClient
from actors.logs.collector import Collector
from actors.logs.errors import TooFast
from actors.logs.line import LineRecord
from actors.logs.policy import FixedPolicies, StreamPolicy
from actors.logs.ready import Ready
from actors.logs.rules import LinesSettings, NamedPolicies, TeamLines
from actors.logs.server import EventlogServer
from actors.logs.shares import BURST_SECONDS, LONGEST_WAIT_SECONDS, Shares, allowed_here
from actors.logs.store import LogStore
from tests.actors.logs.conftest import TOKEN
from tests.actors.logs.test_log_collector import Instance, stored

NOISY, QUIET = "1" * 16, "2" * 16
PER_SECOND = 100_000.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_comes_too_fast_is_acknowledged_later_and_then_refused() -> None:
    clock = Clock()
    shares = Shares(1 << 30, clock)
    waits: list[float] = []
    with pytest.raises(TooFast) as refused:
        while True:
            waits.append(shares.enter("red", 10_000, PER_SECOND))
    burst = int(PER_SECOND * BURST_SECONDS) // 10_000
    assert waits[:burst] == [0.0] * burst and waits[burst] > 0
    assert waits == sorted(waits) and waits[-1] <= LONGEST_WAIT_SECONDS
    assert refused.value.seconds > 0
    assert shares.enter("blue", 10_000, PER_SECOND) == 0.0, "another team's rate is its own"
    assert shares.enter("red", 10_000, PER_SECOND, must=True) == 0.0, "what cannot wait is taken and counts"
    clock.now += 60
    assert shares.enter("red", 10_000, PER_SECOND) == 0.0


def test_a_batch_larger_than_a_rate_allows_is_taken_all_the_same() -> None:
    shares = Shares(1 << 30, Clock())
    assert shares.enter("red", 4 << 20, 1024.0) == LONGEST_WAIT_SECONDS


def test_no_team_takes_all_the_room() -> None:
    shares = Shares(1000)
    with pytest.raises(TooFast):
        for _ in range(20):
            shares.enter("red", 100, 0)
    for _ in range(3):
        shares.enter("blue", 100, 0)
    shares.leave("red", 500)
    shares.enter("red", 100, 0)
    assert shares.held_back == {"red": 1}


@given(st.lists(st.integers(0, 400_000), min_size=1, max_size=6))
def test_members_come_to_share_a_rate_whatever_each_is_sent(wanted: list[int]) -> None:
    taken = [0.0] * len(wanted)
    for _ in range(60):  # each learns what the others took a moment ago
        before = list(taken)
        for me, want in enumerate(wanted):
            elsewhere = [rate for other, rate in enumerate(before) if other != me and rate]
            taken[me] = (before[me] + min(want, allowed_here(PER_SECOND, elsewhere))) / 2
    total = min(sum(wanted), PER_SECOND)
    assert sum(taken) == pytest.approx(total, rel=0.01), "no more than the rate, and all of it where it is wanted"
    even = PER_SECOND / len(wanted)
    assert all(rate >= min(want, even) * 0.99 for rate, want in zip(taken, wanted, strict=True))


def test_what_was_taken_is_told_as_long_as_it_matters() -> None:
    clock = Clock()
    shares = Shares(1 << 30, clock)
    for _ in range(50):
        clock.now += 0.1
        shares.enter("red", 5_000, PER_SECOND)
    shares.enter("blue", 5_000, 0.0)
    assert shares.rates() == {"red": pytest.approx(50_000, rel=0.1)}
    clock.now += 30
    assert shares.rates() == {}


async def test_streams_are_committed_one_team_after_the_other() -> None:
    ready = Ready()
    for number in range(4):
        ready.put(f"red-{number}", "red")
    ready.put("blue-0", "blue")
    assert [await ready.get() for _ in range(5)] == ["red-0", "blue-0", "red-1", "red-2", "red-3"]


@pytest.fixture
async def limited(store: LogStore, tmp_path: Path) -> AsyncIterator[EventlogServer]:
    teams = {
        NOISY: StreamPolicy(team="red", bytes_per_second=PER_SECOND),
        QUIET: StreamPolicy(team="blue", bytes_per_second=PER_SECOND),
    }
    server = EventlogServer(store, TOKEN, port_file=tmp_path / "port", policies=FixedPolicies(streams=teams))
    await server.start()
    yield server
    await server.aclose()


async def test_a_noisy_team_waits_alone_and_loses_nothing(limited: EventlogServer, tmp_path: Path) -> None:
    noisy = Instance(tmp_path / "noisy", segment_bytes=1 << 20)
    text = b"".join(b"noisy %d %s\n" % (number, b"x" * 90) for number in range(12_000))
    noisy.print(text)
    noisy.exit()
    # One connection, as all instances of a node share one.
    client = LogClient(tmp_path / "port", TOKEN)
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    await collector.follow(noisy.followed(NOISY))
    while not limited.shares.held_back:
        await asyncio.sleep(0.01)
    for number in range(100):
        line = LineRecord(at=number + 1, text=f"quiet {number}")
        await client.append(QUIET, "q", [line], after=number, upto=number + 1)
    assert not await collector.drained("i-1", 0.0), "the noisy one is still held back"
    assert "blue" not in limited.shares.held_back

    limited.shares.enter = _at_once  # type: ignore[method-assign] # the rest need not take its time
    assert await collector.drained("i-1", 60)
    assert [line.text.split()[1] for line in await stored(client, NOISY)] == [str(n) for n in range(12_000)]
    assert [line.text for line in await stored(client, QUIET)] == [f"quiet {n}" for n in range(100)]
    await collector.aclose()
    await client.aclose()


def _at_once(team: str, size: int, per_second: float, *, must: bool = False) -> float:
    return 0.0


async def test_the_first_line_of_a_new_component_is_masked_as_its_rules_say(tmp_path: Path) -> None:
    policies = NamedPolicies(LinesSettings(teams={"red": TeamLines(redact=(r"card=\d+",))}))
    store = LogStore(tmp_path / "own", policies=policies)
    server = EventlogServer(store, TOKEN, port_file=tmp_path / "port", policies=policies)
    asked = 0

    async def learn() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            policies.learn({NOISY: ("red", "shop", "web")}, {})

    server.learn = learn
    await store.start()
    await server.start()
    client = LogClient(tmp_path / "port", TOKEN)
    line = LineRecord(at=1, text="card=4111")
    await client.append(QUIET, "q", [line], after=0, upto=1)
    await client.append(QUIET, "q", [line], after=1, upto=2)
    assert asked == 1, "what nobody knows is asked for once, and stored as nobody's"
    await client.append(NOISY, "n", [line], after=0, upto=1)
    await client.append(NOISY, "n", [line], after=1, upto=2)
    assert [each.text for each in await stored(client, NOISY)] == ["••••", "••••"]
    assert asked == 2
    await client.aclose()
    await server.aclose()
    await store.aclose()
