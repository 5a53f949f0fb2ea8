"""How many lines a second go from a node's output to the log's disk, durable and numbered, and when a tail has them.

Ten tails are open in every case. The peer is Debian's rsyslog, given the same lines over TCP, which writes them to a
file without waiting for the disk; ours answers for nothing before its fsync. Run: python -m benchmarks.logs [--json]
[--quick]. Must not be imported.
"""

import asyncio
import contextlib
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil

from actors.runtime.shim.segments import Segments, encode
from benchmarks.harness import Case, Result, case, main, result
from benchmarks.log_processes import log_directory

LINE_BYTES = 200
TAILS = 10
INSTANCES = 20
WRITE_LINES = 1_000
LINES, QUICK_LINES = 2_000_000, 300_000
PACED_PER_SECOND = 20_000
PACED_SECONDS, QUICK_PACED_SECONDS = 20, 4
_METHODS = ("GET", "POST", "PUT", "DELETE")


def lines_of(first: int, count: int) -> bytes:
    """Lines of 200 bytes with the newline that differ as those of a service do."""
    made = []
    for number in range(first, first + count):
        head = f"n={number:09d} level=info method={_METHODS[number % 4]} path=/orders/{number * 7919 % 100_003}"
        tail = f"user={number * 31 % 977} ms={number * 13 % 419} trace={number * 2654435761 % (1 << 64):016x}"
        made.append(f"{head} {tail}")
    return b"".join(text.encode().ljust(LINE_BYTES - 1, b".") + b"\n" for text in made)


class Process:
    """One of `benchmarks.log_processes`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def said(self) -> dict[str, Any]:
        """Its next JSON object."""
        assert self._process.stdout is not None
        async with asyncio.timeout(180):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("expected a process's figures, found its end; see above")
        found: dict[str, Any] = json.loads(line)
        return found

    def go(self) -> None:
        """Let an emitter begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def end(self) -> dict[str, Any]:
        """Let a server end; its figures."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        found = await self.said()
        await self._process.wait()
        return found

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@contextlib.asynccontextmanager
async def started(role: str, root: Path, *numbers: int) -> AsyncIterator[Process]:
    """A process that is ready."""
    pipe = asyncio.subprocess.PIPE
    arguments = (sys.executable, "-m", "benchmarks.log_processes", role, str(root), *map(str, numbers))
    process = Process(await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, limit=1 << 28))
    try:
        await process.said()
        yield process
    finally:
        await process.kill()


def _print(root: Path, instances: int, lines: int) -> None:
    """What `instances` printed in all, as their shims left it."""
    for number in range(instances):
        directory = log_directory(root, number)
        (directory / "log").mkdir(parents=True)
        segments = Segments(str(directory / "log"), unread_bytes_max=1 << 40)
        for first in range(0, lines // instances, WRITE_LINES):
            micros = time.time_ns() // 1000
            segments.write(encode(lines_of(number * 10_000_000 + first, WRITE_LINES), b"o", micros, False)[0])
        segments.close()
        (directory / "exit.json").write_text("{}")


async def drained(root: Path, name: str, instances: int, lines: int) -> Case:
    """From output on the node's disk to numbered, durable lines in the log's store; a tail on each of ten streams."""
    tailing = min(TAILS, instances)
    await asyncio.to_thread(_print, root, instances, lines)
    async with (
        started("serve", root) as server,
        started("tail", root, tailing, instances, lines // instances, 0) as tails,
        started("collect", root, instances) as collector,
    ):
        collected = await collector.said()
        followed = await tails.said()
        served = await server.end()
    if served["lines"] != lines or collected["lost"]:
        raise RuntimeError(f"expected {lines} lines stored, found {collected} and {served}")
    cpu = collected["cpu"] + served["cpu"]
    return {
        "case": name,
        "unit": "line stored",
        "count": lines,
        "seconds": round(collected["seconds"], 3),
        "per_second": round(lines / collected["seconds"]),
        "line_bytes": LINE_BYTES,
        "instances": instances,
        "tails": tailing,
        "tailed_lines": followed["lines"],
        "cpu_seconds_collector": round(collected["cpu"], 2),
        "cpu_seconds_server": round(served["cpu"], 2),
        "cpu_seconds_tailing_clients": round(followed["cpu"], 2),
        "per_core_second": round(lines / cpu),
        "fsyncs": served["commits"],
    }


async def paced(root: Path, seconds: int) -> Case:
    """From an application's write to a tail's hands."""
    lines = PACED_PER_SECOND * seconds
    async with (
        started("serve", root) as server,
        started("emit", root, INSTANCES, PACED_PER_SECOND, seconds) as emitter,
        started("collect", root, INSTANCES) as collector,
        started("tail", root, TAILS, INSTANCES, lines // INSTANCES, 1) as tails,
    ):
        emitter.go()
        emitted = await emitter.said()
        followed = await tails.said()
        await collector.said()
        await server.end()
    return case(
        "emit → tail",
        "line in a tail",
        followed["latencies"],
        seconds=emitted["seconds"],
        emitted_per_second=round(emitted["lines"] / emitted["seconds"]),
        emitter_late_ms=round(emitted["late_ms"], 1),
        tails=TAILS,
    )


async def rsyslog(root: Path, lines: int) -> Case:
    """Debian's rsyslog: the same lines over one TCP connection until they are all in its file."""
    daemon = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root.mkdir()
    out = root / "out.log"
    (root / "conf").write_text(
        f'module(load="imptcp")\ninput(type="imptcp" address="127.0.0.1" port="{port}" ruleset="r"'
        ' supportOctetCountedFraming="off")\n'
        'template(name="t" type="string" string="%timereported% %rawmsg%\\n")\n'
        f'ruleset(name="r") {{ action(type="omfile" file="{out}" template="t" asyncWriting="on") }}\n'
    )
    data = await asyncio.to_thread(lambda: [lines_of(first, WRITE_LINES) for first in range(0, lines, WRITE_LINES)])
    process = await asyncio.create_subprocess_exec(
        daemon, "-n", "-f", str(root / "conf"), "-i", str(root / "pid"), stdout=2, stderr=2
    )
    try:
        writer = await _connected(port)
        began = time.perf_counter()
        for piece in data:
            writer.write(piece)
            await writer.drain()
        wanted = lines * (LINE_BYTES + len("Nov 27 23:00:00 "))
        async with asyncio.timeout(120):
            while not out.exists() or out.stat().st_size < wanted:
                await asyncio.sleep(0.01)
        seconds = time.perf_counter() - began
        cpu = sum(_cpu_of(process.pid))
        writer.close()
    finally:
        process.terminate()
        await process.wait()
    return {
        "case": "rsyslog: TCP → file, not synced",
        "unit": "line stored",
        "count": lines,
        "seconds": round(seconds, 3),
        "per_second": round(lines / seconds),
        "line_bytes": LINE_BYTES,
        "per_core_second": round(lines / cpu),
    }


async def _connected(port: int) -> asyncio.StreamWriter:
    async with asyncio.timeout(20):
        while True:
            try:
                return (await asyncio.open_connection("127.0.0.1", port))[1]
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


def _cpu_of(pid: int) -> tuple[float, float]:

    times = psutil.Process(pid).cpu_times()
    return times.user, times.system


async def run(quick: bool) -> Result:
    """All cases, the peer among them."""
    lines = QUICK_LINES if quick else LINES
    with tempfile.TemporaryDirectory(prefix="rayfold-logs-", dir="/var/tmp") as name:
        root = Path(name)
        peer = await rsyslog(root / "peer", lines // 2)
        many = await drained(root / "many", "20 instances → disk", INSTANCES, lines)
        noisy = await drained(root / "noisy", "one noisy instance → disk", 1, lines // 4)
        latency = await paced(root / "paced", QUICK_PACED_SECONDS if quick else PACED_SECONDS)
    ratios = {
        "lines per core-second": round(float(many["per_core_second"]) / float(peer["per_core_second"]), 3),
        "lines per second": round(float(many["per_second"]) / float(peer["per_second"]), 3),
    }
    return result("logs", ["msgspec", "zstandard"], [many, noisy, latency], [peer], ratios)


if __name__ == "__main__":
    main(run, __doc__)
