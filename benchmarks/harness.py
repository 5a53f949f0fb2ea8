"""What every benchmark shares: the shape of its one JSON line, percentiles, and what machine it ran on.

Knows nothing of what is measured.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

import psutil
import structlog

Case = dict[str, str | int | float]
"""One measured case; keys as in docs/benchmarks.md, those that do not apply are left out."""

Result = dict[str, object]


def case(
    name: str, unit: str, samples: Sequence[float], *, seconds: float | None = None, **more: str | int | float
) -> Case:
    """A case from its samples, in seconds each. `seconds`: how long it took, where samples overlapped in time."""
    ordered = sorted(samples)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 2)

    total = sum(ordered) if seconds is None else seconds
    measured: Case = {
        "case": name,
        "unit": unit,
        "count": len(ordered),
        "seconds": round(total, 3),
        "per_second": round(len(ordered) / total, 3) if total else 0.0,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "max_ms": at(1.0),
        **more,
    }
    print(json.dumps(measured), file=sys.stderr, flush=True)  # what is known, should the rest not be reached
    return measured


def machine(*packages: str) -> Result:
    """The machine, and the versions of what matters to a benchmark."""
    return {
        "cpus": os.cpu_count(),
        "memory": psutil.virtual_memory().total >> 20,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def result(
    benchmark: str, packages: Sequence[str], cases: list[Case], peers: list[Case], ratios: dict[str, float]
) -> Result:
    """The one JSON line. A ratio is ours over the peer's, bigger is better."""
    return {
        "benchmark": benchmark,
        "machine": machine(*packages),
        "cases": cases,
        "peers": peers,
        "ratios": ratios,
    }


def main(run: Callable[[bool], Awaitable[Result]], about: str | None) -> None:
    """Read `--json --quick`, run, print one JSON line on stdout; everything else goes to stderr."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="the default: one JSON line")
    parser.add_argument("--quick", action="store_true", help="end within 60 s")
    arguments = parser.parse_args()
    # Told to end early, it takes down what it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def measured() -> Result:
        return await run(arguments.quick)

    print(json.dumps(asyncio.run(measured())))
