"""Log lines while everything that carries them is killed, stopped, filled or restarted: each is there once or counted.

Three nodes print to components of which many have instances on several nodes; three members of the pool store them.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from actors.logs.client import LogClient
from actors.logs.filter import Query
from actors.logs.line import LogLine
from tests.faults.log_household import TOKEN

NODES = ("node-a", "node-b", "node-c")
MEMBERS = ("eventlog-0", "eventlog-1", "eventlog-2")
FULL = "node-c"
"""The node whose disk is filled."""
HOUSEHOLD = Path(__file__).with_name("log_household.py")
ROOT = str(Path(__file__).parents[2])


class Household:
    """All processes of the test, by role and name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self.mounted = False

    async def start(self, role: str, name: str, *numbers: int) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        arguments = (str(HOUSEHOLD), role, str(self.root), name, *map(str, numbers))
        environment = {**os.environ, "PYTHONPATH": ROOT}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=pipe, stdout=pipe, env=environment
        )
        self._running[f"{role} {name}"] = process
        return process

    def send(self, what: str, number: signal.Signals) -> None:
        self._running[what].send_signal(number)

    async def kill(self, what: str) -> None:
        process = self._running.pop(what)
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()

    async def says(self, what: str, word: bytes, seconds: float = 90) -> None:
        """Wait until a process says so on its standard output, as the next thing."""
        output = self._running[what].stdout
        assert output is not None
        async with asyncio.timeout(seconds):
            assert await output.readline() == word + b"\n", f"{what} ended, or says something else"

    async def ended(self, what: str, seconds: float) -> int:
        async with asyncio.timeout(seconds):
            return await self._running[what].wait()

    async def close(self) -> None:
        for what in list(self._running):
            await self.kill(what)
        if self.mounted:
            subprocess.run(["umount", str(self.root / FULL)], check=True)

    def mount_small_disk(self, mebibytes: int) -> None:
        place = self.root / FULL
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)], check=True)
        self.mounted = True

    def stored_segments(self) -> int:
        """Bytes in the store: that they grow shows that lines are stored."""
        return sum(path.stat().st_size for path in (self.root / "logs").glob("*/*/*.seg"))

    def refused(self) -> int:
        """Losses that the shims of the full node have counted."""
        return sum(path.stat().st_size for path in (self.root / FULL).glob("instances/*/log/dropped"))


@pytest.fixture
async def household(tmp_path: Path) -> AsyncIterator[Household]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk is mounted to be filled: run as root")
    household = Household(tmp_path)
    yield household
    await household.close()


async def until(holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(holds):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"expected within {seconds} s: {what}") from None


async def progress(household: Household) -> None:
    """Wait until more is stored than now."""
    before = await asyncio.to_thread(_settled, household)
    await until(lambda: _settled(household) != before, "lines are being stored")


def _settled(household: Household) -> int:
    try:
        return household.stored_segments()
    except FileNotFoundError:
        return -1  # a claim renamed a stream in the middle of the look


async def lines_of(client: LogClient, stream: str) -> list[LogLine]:
    lines: list[LogLine] = []
    cursor = 1
    while True:
        result = await client.query(Query(stream=stream, from_number=cursor, limit=10_000))
        lines += result.lines
        if result.next_number == cursor or result.complete:
            return lines
        cursor = result.next_number


@pytest.mark.servers
@pytest.mark.parametrize(
    ("components", "lines"),
    [pytest.param(30, 60_000, id="small"), pytest.param(200, 1_000_000, id="full", marks=pytest.mark.long)],
)
@pytest.mark.timeout(600)
async def test_every_line_is_stored_once_or_counted(household: Household, components: int, lines: int) -> None:
    instances = _lay_out(household.root, components)
    each = lines // sum(map(len, instances.values()))
    household.mount_small_disk(max(lines // 10_000, 8))
    for member in MEMBERS:
        await household.start("member", member)
    for node in NODES:
        process = await household.start("node", node, each, max(lines // 3 // 25, 1_000))
        assert process.stdin is not None
        await household.says(f"node {node}", b"ready")
        await household.start("collector", node)
        process.stdin.write(b"\n")
    await _faults(household)
    for node in NODES:
        assert await household.ended(f"node {node}", 240) == 0
        assert await household.ended(f"collector {node}", 240) == 0
    await _check(household, instances, each)


def _lay_out(root: Path, components: int) -> dict[str, dict[str, str]]:
    """Instances of each node, with their streams; every fifth component runs on all three."""
    instances: dict[str, dict[str, str]] = {node: {} for node in NODES}
    for number in range(components):
        for place, node in enumerate(NODES):
            if number % 5 == 0 or number % 3 == place:
                instances[node][f"i-{number}-{place}"] = f"{number:016x}"
    for node, of_node in instances.items():
        (root / f"{node}.json").write_text(json.dumps(of_node))
    return instances


async def _faults(household: Household) -> None:
    await progress(household)
    # Early: on a slow machine there would be nothing left to print when the disk is full.
    ballast = household.root / FULL / "ballast"
    await asyncio.to_thread(_fill, ballast)
    # What was written to has room in its last page yet.
    await household.says(f"node {FULL}", b"refused")

    await household.kill("member eventlog-0")
    await progress(household)
    await household.start("member", "eventlog-0")

    household.send("member eventlog-1", signal.SIGSTOP)
    await progress(household)

    for _ in range(3):
        await progress(household)
    household.send("member eventlog-1", signal.SIGCONT)
    ballast.unlink()
    await until(lambda: household.refused() > 0, "the shims of the full disk have counted what it refused")

    for what in [*(f"member {name}" for name in MEMBERS), *(f"collector {node}" for node in NODES)]:
        await household.kill(what)
    for member in MEMBERS:
        await household.start("member", member)
    for node in NODES:
        await household.start("collector", node)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass
        try:
            while True:
                file.write(b"x")
        except OSError:
            pass


async def _check(household: Household, instances: dict[str, dict[str, str]], each: int) -> None:
    client = LogClient(household.root / "m", TOKEN)
    kept, gaps = Counter[str](), Counter[str]()
    last: dict[str, int] = {}
    for stream in {stream for of_node in instances.values() for stream in of_node.values()}:
        number = 1
        for line in await lines_of(client, stream):
            assert line.number == number, "numbers are contiguous"
            number = line.next_number
            if line.gap:
                gaps[line.instance] += line.gap
                continue
            instance, sequence = line.text.split()[:2]
            assert instance == line.instance and int(sequence) > last.get(instance, -1), "order kept, no line twice"
            last[instance] = int(sequence)
            kept[instance] += 1
    await client.aclose()
    sent = {instance: each for of_node in instances.values() for instance in of_node}
    assert {name: kept[name] + gaps[name] for name in sent} == sent
    assert set(gaps) <= set(instances[FULL]), "only the full disk lost lines"
    print(f"{sum(sent.values())} lines sent, {kept.total()} stored, {gaps.total()} counted in gaps")
