"""How many events a second become durable, and how long one waits for it, with 1 to 5,000 entities at once.

The peers write the same events with the same durability in the same run: one put per event through the same client,
the `eventsourcing` library on SQLite and PostgreSQL, Redis Streams, NATS JetStream. Run: python -m benchmarks.append
[--json] [--quick].
"""

from collections.abc import Awaitable, Callable, Sequence

from benchmarks.append_load import Plan, measure
from benchmarks.harness import Case, Result, main, result
from benchmarks.peers import eventsourcing_library, nats_jetstream, one_put, redis_streams
from events.scheduling import give_way

SECONDS = 10.0
QUICK_SECONDS = 1.5
HEADLINE = "1000 entities"
PLANS = (
    Plan(name="1 entity", entities=1),
    Plan(name="16 entities", entities=16),
    Plan(name="64 entities", entities=64),
    Plan(name="1000 entities, one process", entities=1000),
    Plan(name=HEADLINE, entities=1000, processes=2, partitions=2),
    Plan(name="1000 entities, 16 partitions", entities=1000, processes=2, partitions=16),
    Plan(name="5000 entities", entities=5000, processes=2, partitions=2),
    Plan(name="1000 entities, Zipf keys", entities=1000, processes=2, partitions=2, zipf=1.1),
    Plan(name="1000 entities, 4 KiB events", entities=1000, processes=2, partitions=2, event_bytes=4096),
)
QUICK_PLANS = tuple(plan for plan in PLANS if plan.name in {"1 entity", "64 entities", HEADLINE})
Peer = Callable[[float], Awaitable[Case]]

PEERS: tuple[Peer, ...] = (
    one_put.run,
    eventsourcing_library.run_sqlite,
    eventsourcing_library.run_postgresql,
    redis_streams.run,
    nats_jetstream.run,
)


async def run(quick: bool) -> Result:
    """Every case and every peer."""
    give_way()  # the peers and their servers too: as the processes of the platform
    return await compare(QUICK_PLANS if quick else PLANS, PEERS, QUICK_SECONDS if quick else SECONDS)


async def compare(plans: Sequence[Plan], peers: Sequence[Peer], seconds: float) -> Result:
    """Ours, one case after the other, then each peer by itself: nothing shares the machine with what is measured.

    `plans` must hold the one named HEADLINE; ratios are of it.
    """
    ours = [await measure(plan, seconds) for plan in plans]
    theirs = [await peer(seconds) for peer in peers]
    headline = next(each for each in ours if each["case"] == HEADLINE)
    return result("append", ("msgspec", "zstandard", "grpcio"), ours, theirs, _ratios(headline, theirs))


def _ratios(headline: Case, peers: list[Case]) -> dict[str, float]:
    """Events per second of the headline case over each peer's."""
    ours = float(headline["per_second"])
    return {str(peer["case"]): round(ours / float(peer["per_second"]), 1) for peer in peers if "absent" not in peer}


if __name__ == "__main__":
    main(run, __doc__)
