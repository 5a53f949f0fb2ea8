"""`python -m tests.simulation`: run many seeds and say how fast, or one seed with its trace."""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation.scenario import Result, run_seed, settle, timed_seed

SEEDS_AT_ONCE = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one and print what happened in it")
    parser.add_argument("--first", type=int, default=0, help="the first of many seeds (default 0)")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at once (default: one a core)")
    given = parser.parse_args()
    if given.seed is not None:
        return _show(run_seed(given.seed, tracing=True))
    return _run_many(range(given.first, given.first + given.seeds), max(1, given.processes))


def reproduce(seed: int) -> str:
    """The one command that shows what happened."""
    return f"python -m tests.simulation --seed {seed}"


def _show(result: Result) -> int:
    print("\n".join(result.trace))
    for violation in result.violations:
        print(f"VIOLATION {violation}")
    print(
        f"seed {result.seed}: {result.events} events, {result.claims} claims, {result.segments} segments, "
        f"{result.calls} calls in {result.virtual_s} s of its time; sha256 of the trace {result.digest}"
    )
    return 1 if result.violations else 0


def _run_many(seeds: range, processes: int) -> int:
    began = time.perf_counter()
    events = failed = 0
    virtual_s = cpu_s = 0.0
    # Each process begins with a clean interpreter: what a world replaces in one must not be seen in another.
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=settle) as pool:
        for result, used_s in pool.map(timed_seed, seeds, chunksize=SEEDS_AT_ONCE):
            events += result.events
            virtual_s += result.virtual_s
            cpu_s += used_s
            if result.violations:
                failed += 1
                print(f"seed {result.seed} failed: {result.violations[0]}\n  see it: {reproduce(result.seed)}")
    seconds = time.perf_counter() - began
    print(
        f"{len(seeds)} seeds, {failed} failed, {events} events, {virtual_s / 3600:.1f} h of their time "
        f"in {seconds:.1f} s by {processes} processes: {60 * len(seeds) / seconds:.0f} seeds a minute "
        f"({60 * len(seeds) / cpu_s:.0f} a minute of CPU)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
