"""`python -m tests.simulation`: run many seeds and say how fast, or one seed with its trace."""

import argparse
import gc
import sys
import time

from tests.simulation.scenario import Result, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one and print what happened in it")
    parser.add_argument("--first", type=int, default=0, help="the first of many seeds (default 0)")
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    given = parser.parse_args()
    if given.seed is not None:
        return _show(run_seed(given.seed, tracing=True))
    return _run_many(range(given.first, given.first + given.seeds))


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


def _run_many(seeds: range) -> int:
    began, used = time.perf_counter(), time.process_time()
    events = failed = 0
    # What is loaded by now stays: no need to look through it for garbage after each seed.
    gc.freeze()
    virtual_s = 0.0
    for seed in seeds:
        result = run_seed(seed)
        events += result.events
        virtual_s += result.virtual_s
        if result.violations:
            failed += 1
            print(f"seed {seed} failed: {result.violations[0]}\n  see it: {reproduce(seed)}")
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - used
    print(
        f"{len(seeds)} seeds, {failed} failed, {events} events, {virtual_s / 3600:.1f} h of their time "
        f"in {seconds:.1f} s ({cpu_s:.1f} s of CPU): {60 * len(seeds) / cpu_s:.0f} seeds a minute of one core"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
