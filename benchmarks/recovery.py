"""How long until a partition serves again after its owner was killed: from claim to the first durable append.

The owner is killed by kill -9 and the next one, a process that runs already as a supervisor does, claims the partition;
how long the dead owner's lease lives on is left out. Peers in the same run: the same without a snapshot, and the
`eventsourcing` library taking its aggregates up from their snapshots. Run: python -m benchmarks.recovery [--json]
[--quick].
"""

import asyncio

import msgspec

from benchmarks.harness import Case, Result, main, result
from benchmarks.partition_log import Place, Worker, etcd_place, fill
from benchmarks.peers.eventsourcing_fold import reload_case

EVENTS = 1_000_000
QUICK_EVENTS = 150_000
ENTITIES = 10_000
QUICK_ENTITIES = 1_500
STREAMS_OF = 1000  # events of a component's life: some 7,500 components, builds and routes; the rest is idle
TAIL_COMMANDS = 6_667  # of three events each: what the snapshot policy lets gather, 20,000 events
QUICK_TAIL_COMMANDS = 1_667
PEER_EVENTS = 40_000
QUICK_PEER_EVENTS = 10_000
ROUNDS = 5
QUICK_ROUNDS = 3


async def run(quick: bool) -> Result:
    """Fill, snapshot, then kill and recover, again and again."""
    tail, rounds = (QUICK_TAIL_COMMANDS, QUICK_ROUNDS) if quick else (TAIL_COMMANDS, ROUNDS)
    events, entities = (QUICK_EVENTS, QUICK_ENTITIES) if quick else (EVENTS, ENTITIES)
    async with etcd_place() as place:
        idle = (await fill(place, 0, events, streams_of=STREAMS_OF, entities=entities)).idle
        owner, snapshot = await _owner_with_snapshot(place, idle, tail)
        told: list[dict[str, float]] = []
        for number in range(rounds):
            owner, answer = await _killed_and_recovered(place, owner, idle, f"b{number}-")
            told.append(answer)
        case = _case("snapshot and tail", told) | {
            "snapshot_seconds": round(snapshot["snapshot"], 3),
            "snapshot_cpu_seconds": round(snapshot["cpu"], 3),
        }
        bare = msgspec.structs.replace(place, archive="")
        without: list[dict[str, float]] = []
        for number in range(rounds):
            owner, answer = await _killed_and_recovered(bare, owner, idle, f"c{number}-")
            without.append(answer)
        await owner.kill()
    peers = [_case("no snapshot, folded from the first event", without)]
    peers.append(await asyncio.to_thread(reload_case, QUICK_PEER_EVENTS if quick else PEER_EVENTS))
    return result("recovery", ("msgspec", "zstandard", "grpcio"), [case], peers, _ratios(case, peers))


async def _owner_with_snapshot(place: Place, idle: int, tail: int) -> tuple[Worker, dict[str, float]]:
    """The first owner, after it took a snapshot and answered `tail` commands more."""
    todo = {"place": place, "partition": 0, "name": "a", "idle": idle, "commands": 1 + tail, "tail": tail}
    worker = Worker("benchmarks.owner_worker", snapshot=True, **todo)
    await worker.answer()
    worker.say("go")
    await worker.answer()
    snapshot = await worker.answer()
    await worker.answer()
    return worker, snapshot


async def _killed_and_recovered(place: Place, owner: Worker, idle: int, name: str) -> tuple[Worker, dict[str, float]]:
    successor = Worker("benchmarks.owner_worker", place=place, partition=0, idle=idle, name=name)
    await successor.answer()
    await owner.kill()
    successor.say("go")
    told = await successor.answer()
    await successor.answer()
    return successor, told


def _case(name: str, told: list[dict[str, float]]) -> Case:
    """Times of the median round; pauses and memory of the worst."""
    ordered = sorted(told, key=lambda each: each["total"])
    median = ordered[len(ordered) // 2]
    return {
        "case": name,
        "unit": "recovery",
        "count": len(told),
        "seconds": round(median["total"], 3),
        "max_ms": round(ordered[-1]["total"] * 1000, 1),
        "p50_ms": round(median["total"] * 1000, 1),
        "claim_ms": round(median["claim"] * 1000, 1),
        "fold_ms": round(median["recover"] * 1000, 1),
        "append_ms": round(median["append"] * 1000, 1),
        "cpu_seconds": round(median["cpu"], 3),
        "longest_pause_ms": round(max(each["longest_pause"] for each in told) * 1000, 1),
        "events": int(median["events"]),
        "streams": int(median["streams"]),
        "folded_events": int(median["folded"]),
        "rss_mb": int(max(each["rss_mb"] for each in told)),
    }


def _ratios(case: Case, peers: list[Case]) -> dict[str, float]:
    """Seconds of the peer over ours; for the library, streams taken up a second."""
    bare, library = peers
    ratios = {f"{case['case']} over {bare['case']}": round(float(bare["seconds"]) / float(case["seconds"]), 1)}
    if "absent" not in library:
        ours = float(case["streams"]) / float(case["seconds"])
        ratios[f"streams a second over {library['case']}"] = round(ours / float(library["per_second"]), 1)
    return ratios


if __name__ == "__main__":
    main(run, __doc__)
