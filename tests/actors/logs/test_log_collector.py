"""What the collector promises: every line of every instance once and in order, whatever restarts or dies meanwhile."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from actors.logs.client import LogClient
from actors.logs.collector import Collector
from actors.logs.filter import Query
from actors.logs.followed import Followed
from actors.logs.line import LogLine
from actors.runtime.output import last_lines
from actors.runtime.shim.segments import Segments, encode

STREAM = "0123456789abcdef"
TOKEN = "t" * 32
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Instance:
    """An instance's directory, written by the shim's own code."""

    def __init__(self, root: Path, name: str = "i-1", segment_bytes: int = 2_000, unread_bytes: int = 1 << 30) -> None:
        self.name = name
        self.directory = root / name
        (self.directory / "log").mkdir(parents=True)
        self._sizes = (segment_bytes, unread_bytes)
        self.take_over()

    def take_over(self) -> None:
        """As a replacement shim does."""
        self.segments = Segments(str(self.directory / "log"), *self._sizes)

    def print(self, text: bytes, tag: bytes = b"o", at: int = 1) -> None:
        self.segments.write(encode(text, tag, at, True)[0])

    def exit(self) -> None:
        self.segments.close()
        (self.directory / "exit.json").write_text("{}")

    def followed(self, stream: str = STREAM) -> Followed:
        return Followed(instance_id=self.name, stream=stream, release=7, directory=str(self.directory))

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "log").iterdir())


async def stored(client: LogClient, stream: str = STREAM) -> list[LogLine]:
    lines: list[LogLine] = []
    cursor = 1
    while True:
        result = await client.query(Query(stream=stream, from_number=cursor, limit=10_000))
        lines += result.lines
        cursor = result.next_number
        if result.complete:
            return lines


async def collect_all(client: LogClient, state: Path, *instances: Instance) -> Collector:
    collector = Collector(client, state)
    await collector.start()
    for instance in instances:
        await collector.follow(instance.followed())
    for instance in instances:
        assert await collector.drained(instance.name, 30)
    await collector.aclose()
    return collector


async def test_output_is_collected_and_what_is_stored_is_deleted(client: LogClient, tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    for n in range(500):
        instance.print(f"line {n}\n".encode(), b"oe"[n % 2 : n % 2 + 1], at=n)
    instance.exit()
    await collect_all(client, tmp_path / "state", instance)
    lines = await stored(client)
    assert [line.text for line in lines] == [f"line {n}" for n in range(500)]
    assert [line.number for line in lines] == list(range(1, 501))
    assert lines[3] == LogLine(
        number=4, at=3, text="line 3", stream="e", source="app", instance="i-1", release=7, partial=False
    )
    assert instance.left() == ["stored"] and list((tmp_path / "state").glob("*.json")) == []
    assert last_lines(instance.directory / "log", 2) == ["line 498", "line 499"], "why it ended can still be told"


async def test_a_stack_trace_is_one_line_however_it_is_written(client: LogClient, tmp_path: Path, until: Until) -> None:
    instance = Instance(tmp_path)
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    await collector.follow(instance.followed())
    trace = "Traceback (most recent call last):\n  File \"app.py\", line 3\n    main()\nKeyError: 'x'"
    for line in ["before", *trace.split("\n"), "after"]:
        instance.print(f"{line}\n".encode(), b"e", at=time.time_ns() // 1000)
        await asyncio.sleep(0.01)

    async def all_there() -> bool:
        return len(await stored(client)) == 3

    await until(all_there)
    assert [line.text for line in await stored(client)] == ["before", trace, "after"]
    instance.exit()
    assert await collector.drained("i-1", 20)
    await collector.aclose()


async def test_files_of_an_application_are_collected_to_their_end(client: LogClient, tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    home = instance.directory / "home"
    (home / "log").mkdir(parents=True)
    followed = msgspec.structs.replace(instance.followed(), files=("log/app.log", "missing.log"))
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    await collector.follow(followed)
    instance.print(b"printed\n")
    (home / "log" / "app.log").write_text("one\ntwo\nno newline")
    instance.exit()
    assert await collector.drained("i-1", 30)
    await collector.aclose()
    assert sorted(line.text for line in await stored(client)) == ["no newline", "one", "printed", "two"]
    assert not list((tmp_path / "state").rglob("*.json"))


async def test_what_is_printed_while_followed_arrives(client: LogClient, tmp_path: Path, until: Until) -> None:
    instance = Instance(tmp_path)
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    await collector.follow(instance.followed())
    for n in range(50):
        instance.print(f"line {n}\n".encode())

        async def here(count: int = n + 1) -> bool:
            return len(await stored(client)) == count

        if n % 10 == 0:
            await until(here)
    instance.exit()
    assert await collector.drained("i-1", 20)
    assert [line.text for line in await stored(client)] == [f"line {n}" for n in range(50)]
    await collector.aclose()


async def test_a_collector_goes_on_where_the_last_one_stopped(client: LogClient, tmp_path: Path) -> None:
    instance = Instance(tmp_path, segment_bytes=20_000)
    for round_ in range(6):
        collector = Collector(client, tmp_path / "state")
        await collector.start()
        await collector.follow(instance.followed())
        for n in range(1_000):
            instance.print(f"line {round_ * 1000 + n}\n".encode())
            if n % 100 == 0:
                await asyncio.sleep(0)
        await collector.aclose()
        if round_ == 3:
            for path in (tmp_path / "state").glob("*.json"):
                path.unlink()
    instance.exit()
    await collect_all(client, tmp_path / "state", instance)
    assert [line.text for line in await stored(client)] == [f"line {n}" for n in range(6_000)]


async def test_binary_long_and_strange_lines_are_made_safe(client: LogClient, tmp_path: Path) -> None:
    instance = Instance(tmp_path, segment_bytes=1 << 20)
    long = ("é" * 20_001).encode()
    instance.print(b"\xff\xfe\0\x1b[2J\n" + b"\n" + b"a\r\x85\x0cb\n" + "\u2028x\n".encode())
    instance.print(b"x" + long + b"\n")
    instance.exit()
    await collect_all(client, tmp_path / "state", instance)
    lines = await stored(client)
    assert [line.text for line in lines[:4]] == ["\ufffd\ufffd\0\x1b[2J", "", "a\r\ufffd\x0cb", "\u2028x"]
    assert lines[0].display() == "\ufffd\ufffd\\x00\\x1b[2J"
    assert [line.partial for line in lines[4:]] == [True, True, False]
    assert "".join(line.text for line in lines[4:]) == "x" + "é" * 20_001


async def test_a_torn_record_of_a_killed_shim_is_skipped(client: LogClient, tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    instance.print(b"one\ntwo\n")
    with (instance.directory / "log" / "000001.log").open("ab") as file:
        file.write(b"1 o F thr")
    instance.take_over()
    instance.print(b"three\n")
    instance.exit()
    await collect_all(client, tmp_path / "state", instance)
    assert [line.text for line in await stored(client)] == ["one", "two", "three"]


async def test_lines_dropped_at_the_cap_are_one_exact_gap(client: LogClient, tmp_path: Path, until: Until) -> None:
    instance = Instance(tmp_path, segment_bytes=500, unread_bytes=2_000)
    instance.print(b"line 0\nline 1\n")
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    await collector.follow(instance.followed())

    async def first_two() -> bool:
        return len(await stored(client)) == 2

    await until(first_two)
    await collector.aclose()
    for n in range(2, 400):
        instance.print(f"line {n}\n".encode())
    instance.exit()
    await collect_all(client, tmp_path / "state", instance)
    lines = await stored(client)
    assert [line.text for line in lines[:2]] == ["line 0", "line 1"]
    gap, rest = lines[2], lines[3:]
    assert gap.gap and "cap" in gap.text
    assert rest[0].text == f"line {2 + gap.gap}"
    assert 2 + gap.gap + len(rest) == 400 and rest[-1].text == "line 399" and rest[-1].number == 400


async def test_lines_the_disk_refused_are_counted_once(client: LogClient, tmp_path: Path) -> None:
    instance = Instance(tmp_path)
    instance.print(b"one\n")
    (instance.directory / "log" / "dropped").write_text("5 1 30 900 disk\n6 1 12 400 disk\n")
    instance.exit()
    for _ in range(3):
        await collect_all(client, tmp_path / "state", instance)
    assert [(line.text[:8], line.gap) for line in await stored(client)] == [("one", 0), ("42 lines", 42)]


async def test_many_instances_share_one_stream_in_their_own_orders(client: LogClient, tmp_path: Path) -> None:
    instances = [Instance(tmp_path, f"i-{n}") for n in range(20)]
    for n in range(100):
        for instance in instances:
            instance.print(f"{instance.name} {n}\n".encode())
    for instance in instances:
        instance.exit()
    await collect_all(client, tmp_path / "state", *instances)
    lines = await stored(client)
    assert [line.number for line in lines] == list(range(1, 2_001))
    for instance in instances:
        texts = [line.text for line in lines if line.instance == instance.name]
        assert texts == [f"{instance.name} {n}" for n in range(100)]


@pytest.mark.servers
async def test_kill_9_of_the_server_under_load_loses_and_repeats_nothing(tmp_path: Path, until: Until) -> None:
    instances = [Instance(tmp_path, f"i-{n}", segment_bytes=200_000) for n in range(3)]
    client = LogClient(tmp_path / "port", TOKEN)
    collector = Collector(client, tmp_path / "state")
    await collector.start()
    server = await start_server(tmp_path)
    for place, instance in enumerate(instances):
        await collector.follow(instance.followed(f"{place}" * 16))
    for start in range(0, 20_000, 200):
        for instance in instances:
            instance.print(b"".join(b"line %d %s\n" % (n, b"x" * 50) for n in range(start, start + 200)))
        await asyncio.sleep(0.005)
        if start in (4_000, 8_000, 12_000, 16_000):
            before = collector.stats.lines

            async def is_storing(before: int = before) -> bool:
                return collector.stats.lines > before

            await until(is_storing)
            server.send_signal(signal.SIGKILL)
            await server.wait()
            server = await start_server(tmp_path)
    for instance in instances:
        instance.exit()
    for instance in instances:
        assert await collector.drained(instance.name, 60)
    for place in range(len(instances)):
        lines = await stored(client, f"{place}" * 16)
        assert [line.number for line in lines] == list(range(1, 20_001))
        assert [int(line.text.split()[1]) for line in lines] == list(range(20_000))
    await collector.aclose()
    await client.aclose()
    server.kill()
    await server.wait()


@pytest.mark.servers
@pytest.mark.parametrize("place", ["logs.before-fsync", "logs.after-fsync", "logs.segment-made"])
async def test_a_server_that_dies_at_a_bad_moment_stores_each_line_once(tmp_path: Path, place: str) -> None:
    instance = Instance(tmp_path)
    for n in range(300):
        instance.print(f"line {n}\n".encode())
    instance.exit()
    client = LogClient(tmp_path / "port", TOKEN)
    first = await start_server(tmp_path, f"{place}=once-exit:{tmp_path / 'died'}")
    collecting = asyncio.create_task(collect_all(client, tmp_path / "state", instance))
    assert await first.wait() == 137
    second = await start_server(tmp_path)
    await collecting
    assert [line.text for line in await stored(client)] == [f"line {n}" for n in range(300)]
    await client.aclose()
    second.kill()
    await second.wait()


async def start_server(tmp_path: Path, failpoints: str = "") -> asyncio.subprocess.Process:
    script = Path(__file__).with_name("log_server_process.py")
    arguments = (str(script), str(tmp_path / "logs"), str(tmp_path / "port"), TOKEN)
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": root, "RAYFOLD_FAILPOINTS": failpoints}
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
