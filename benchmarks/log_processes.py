"""The processes that `benchmarks.logs` starts: a log server, a collector, tails and an emitter, each on its own.

Each prints one JSON object when it has done its part; the CPU seconds in it are its own. Knows nothing of cases.
"""

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path

from actors.logs.client import LogClient
from actors.logs.collector import Collector
from actors.logs.followed import Followed
from actors.logs.server import EventlogServer
from actors.logs.store import LogStore
from actors.runtime.shim.segments import Output

TOKEN = "b" * 32
TICK_SECONDS = 0.005


def stream_of(number: int) -> str:
    """The log stream of the instance with this number."""
    return f"{number:016x}"


def log_directory(root: Path, number: int) -> Path:
    """Where the instance's output is."""
    return root / "instances" / f"i-{number}"


def cpu_seconds() -> float:
    """What this process used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _say(**found: object) -> None:
    print(json.dumps(found), flush=True)


def _ready() -> float:
    """Say so; the CPU seconds that starting took, which are no part of any figure."""
    _say(ready=True)
    return cpu_seconds()


async def serve(root: Path) -> None:
    """Until stdin ends."""
    store = LogStore(root / "logs")
    await store.start()
    server = EventlogServer(store, TOKEN, port_file=root / "port")
    await server.start()
    start = _ready()
    await asyncio.to_thread(sys.stdin.read)
    await server.aclose()
    await store.aclose()
    _say(
        cpu=cpu_seconds() - start,
        commits=store.stats.commits,
        lines=store.stats.lines,
        lost=store.stats.retention_lines,
    )


async def collect(root: Path, instances: int) -> None:
    """Until every instance has ended and is stored."""
    client = LogClient(root / "port", TOKEN, node="bench")
    collector = Collector(client, root / "state")
    await collector.start()
    start = _ready()
    began = time.perf_counter()
    for number in range(instances):
        directory = str(log_directory(root, number))
        await collector.follow(
            Followed(instance_id=f"i-{number}", stream=stream_of(number), release=1, directory=directory)
        )
    for number in range(instances):
        if not await collector.drained(f"i-{number}", 120):
            raise TimeoutError(f"expected instance {number} to be stored within 120 s")
    seconds = time.perf_counter() - began
    await collector.aclose()
    await client.aclose()
    _say(seconds=seconds, cpu=cpu_seconds() - start, lines=collector.stats.lines, lost=collector.stats.lost_lines)


async def tail(root: Path, tails: int, instances: int, until: int, stamped: bool) -> None:
    """Until every tail has seen the line numbered `until` of its stream; latencies where lines begin with a time."""
    client = LogClient(root / "port", TOKEN)
    latencies: list[float] = []
    seen = 0

    async def one(number: int) -> None:
        nonlocal seen
        last = 0
        async for lines in client.tail(stream_of(number % instances), 1):
            now = time.time()
            if lines[0].number != last + 1 or lines[-1].number - last != len(lines):
                raise ValueError(f"expected line {last + 1} next, found {lines[0].number}")
            last = lines[-1].number
            seen += len(lines)
            if stamped:
                latencies.extend(now - float(line.text[:17]) for line in lines)
            if last >= until:
                return

    async with asyncio.timeout(150), asyncio.TaskGroup() as all_:
        for number in range(tails):
            all_.create_task(one(number))
        start = _ready()
    await client.aclose()
    _say(cpu=cpu_seconds() - start, lines=seen, latencies=latencies)


def emit(root: Path, instances: int, per_second: int, seconds: float) -> None:
    """Print lines of 200 bytes, which begin with the time, as applications do: into pipes that a shim empties."""
    outputs = []
    writers = []
    for number in range(instances):
        directory = log_directory(root, number)
        (directory / "pipes").mkdir(parents=True)
        (directory / "log").mkdir()
        for name in ("out", "err"):
            os.mkfifo(directory / "pipes" / name)
        outputs.append(Output(str(directory / "pipes"), str(directory / "log")))
        writers.append(os.open(directory / "pipes" / "out", os.O_WRONLY))
    _say(ready=True)
    sys.stdin.readline()
    began = time.monotonic()
    emitted = 0
    late = 0.0
    while emitted < per_second * seconds:
        due = began + (emitted / per_second) + TICK_SECONDS
        pause = due - time.monotonic()
        late = max(late, -pause)
        time.sleep(max(pause, 0))
        each = max(1, round(per_second * TICK_SECONDS / instances))
        for output, writer in zip(outputs, writers, strict=True):
            line = f"{time.time():.6f} ".encode().ljust(199, b"x") + b"\n"
            os.write(writer, line * each)
            output.drain()
            emitted += each
    for number, output in enumerate(outputs):
        output.finish()
        (log_directory(root, number) / "exit.json").write_text("{}")
    _say(lines=emitted, seconds=time.monotonic() - began, late_ms=late * 1000)


def main() -> None:
    """`log_processes ROLE ROOT NUMBERS…`."""
    role, root, numbers = sys.argv[1], Path(sys.argv[2]), [int(each) for each in sys.argv[3:]]
    if role == "serve":
        asyncio.run(serve(root))
    elif role == "collect":
        asyncio.run(collect(root, numbers[0]))
    elif role == "tail":
        tails, instances, until, stamped = numbers
        asyncio.run(tail(root, tails, instances, until, bool(stamped)))
    else:
        emit(root, *numbers)


if __name__ == "__main__":
    main()
