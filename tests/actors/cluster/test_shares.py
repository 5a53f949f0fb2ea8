"""How partitions get to a pool's actors, and how large pools are: asked, then told, losers first, and never a guess."""

import asyncio
from typing import Any

from actors.cluster.directory import ActorUnreachable
from actors.cluster.pools import Pool
from actors.cluster.shares import Shares
from actors.cluster.shell import WORK, Health, Serving
from actors.cluster.sizes import Sizes
from events.model.pool import PoolState

PARTITIONS = 16


class Owners:
    """Actors that serve what they were told, if nobody else does, as the log's fence sees to."""

    def __init__(self) -> None:
        self.serving: dict[str, set[int]] = {}
        self.away: set[str] = set()
        self.refused = 0
        self.unserved = 0
        self.damaged: set[int] = set()

    async def call(self, actor: str, method: str, *arguments: Any, seconds: float | None = None) -> Serving:
        await asyncio.sleep(0)
        if actor in self.away:
            raise ActorUnreachable(f"{actor} is away")
        mine = self.serving.setdefault(actor, set())
        if method == "assign":
            wanted = set(arguments[0])
            mine &= wanted
            others = {p for name, held in self.serving.items() if name != actor for p in held}
            self.refused += len(wanted & others)
            mine |= wanted - others - self.damaged
        served = sum(len(held) for name, held in self.serving.items() if name not in self.away)
        self.unserved = max(self.unserved, PARTITIONS - served)
        pools = [PoolState(name="builder", size=3)] if 5 in mine else []
        return Serving(partitions=sorted(mine), unserved=dict.fromkeys(self.damaged, "damaged"), pools=pools)


def shares_of(owners: Owners) -> Shares:
    return Shares("supervisor", PARTITIONS, owners, ["pool/builder"])  # type: ignore[arg-type]


async def rounds(shares: Shares, staying: list[str], going: list[str] | None = None) -> int:
    """Until everything is where it belongs; returns how many it took."""
    for number in range(1, 40):
        await shares.round(staying=staying, going=going or [])
        if not shares.yet_to_move(staying):
            return number
    raise AssertionError("it never came to rest")


async def test_the_first_one_gets_everything_at_once_and_tells_what_it_knows_of_pools() -> None:
    owners = Owners()
    shares = shares_of(owners)
    assert not shares.complete
    states = await shares.round(staying=["a"], going=[])
    assert shares.complete
    assert [(state.name, state.size) for state in states] == [("builder", 3)]


async def test_one_that_joins_gets_its_share_a_few_at_a_time_and_each_is_free_when_it_claims() -> None:
    owners = Owners()
    shares = shares_of(owners)
    await rounds(shares, ["a"])
    owners.unserved = 0
    assert await rounds(shares, ["a", "b"]) >= 4
    assert {len(held) for held in owners.serving.values()} == {8}
    assert owners.unserved <= 2
    assert owners.refused == 0, "a gainer was told before its loser had let go"


async def test_one_that_goes_is_emptied_first() -> None:
    owners = Owners()
    shares = shares_of(owners)
    await rounds(shares, ["a", "b"])
    assert shares.holds("b")
    await rounds(shares, ["a"], ["b"])
    assert not shares.holds("b")
    assert shares.owned() == {"a": list(range(PARTITIONS))}


async def test_what_cannot_be_served_is_not_waited_for_but_it_is_not_served_either() -> None:
    owners = Owners()
    owners.damaged = {7}
    shares = shares_of(owners)
    assert not shares.settled
    await shares.round(staying=["a"], going=[])
    assert (shares.settled, shares.complete) == (True, False)
    assert 7 not in shares.owned()["a"]
    assert (shares.unserved_by("a"), shares.unserved_by("b")) == (["damaged"], [])


async def test_what_a_dead_one_had_goes_to_the_others_at_once() -> None:
    owners = Owners()
    shares = shares_of(owners)
    await rounds(shares, ["a", "b"])
    owners.away.add("b")
    owners.serving["b"] = set()  # its lease has lapsed
    await shares.round(staying=["a"], going=[])
    assert shares.owned() == {"a": list(range(PARTITIONS))}


async def test_a_reconciler_that_starts_anew_moves_nothing_that_is_where_it_belongs() -> None:
    owners = Owners()
    await rounds(shares_of(owners), ["a", "b"])
    before = {name: set(held) for name, held in owners.serving.items()}
    await shares_of(owners).round(staying=["a", "b"], going=[])
    assert owners.serving == before


def test_a_pool_has_the_size_it_was_started_with_until_the_log_says_otherwise() -> None:
    pool = Pool(name="builder", actor="x:Y", size=2, most=4)
    sizes = Sizes([pool])
    assert (sizes.of(pool), sizes.known) == (2, False)
    sizes.learn(PoolState(name="builder", size=3))
    sizes.learn(PoolState(name="unheard-of", size=9))
    assert sizes.of(pool) == 3
    sizes.learn(PoolState(name="builder", size=9))
    assert sizes.of(pool) == 4, "no more are of use"


def test_it_follows_its_work_only_where_told_and_only_when_all_have_answered() -> None:
    pool = Pool(name="builder", actor="x:Y", size=1, most=4, unit=2.0)
    sizes = Sizes([pool])
    sizes.known = True
    busy = [Health(name="builder-0", pid=1, ready=True, gauges={WORK: 6.0})]
    for now in range(0, 60, 5):
        assert sizes.resized(pool, busy, float(now)) is None, "nobody allowed it"
    sizes.learn(PoolState(name="builder", size=1, least=1, most=3))
    assert sizes.resized(pool, [], 60.0) is None
    wanted = sizes.resized(pool, busy, 65.0)
    assert wanted is not None and wanted.size == 3
    assert "builder" in wanted.why
