"""Files an application writes, through seven ways of losing or repeating lines: the exact lines, each once."""

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from actors.logs.client import LogClient
from actors.logs.file_follower import FileFollower
from actors.logs.filter import Query
from actors.logs.inotify import DirectoryWatcher
from actors.logs.line import Origin
from actors.runtime.shim.masking import Masking

STREAM = "0123456789abcdef"
ORIGIN = Origin(source="app", instance="i-1", release=1)
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

WRITER = """
import os, signal, sys
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = open(path, "ab", buffering=0)
def reopen(*_):
    global file
    file = open(path, "ab", buffering=0)
signal.signal(signal.SIGHUP, reopen)
print("ready", flush=True)
for number in range(count):
    file.write(b"%s %d\\n" % (name.encode(), number))
    if number % 50 == 49:
        print(number + 1, flush=True)
        sys.stdin.readline()
"""


class Follow:
    """A follower of `app.log` and what it has stored."""

    def __init__(self, client: LogClient, root: Path, masking: Masking | None = None) -> None:
        self._masking = masking
        self.client = client
        self.directory = root / "app"
        self.directory.mkdir()
        self.path = self.directory / "app.log"
        self._state = root / "state.json"
        self._task: asyncio.Task[None] | None = None
        self._watcher = DirectoryWatcher()

    def start(self) -> None:
        self.follower = FileFollower(
            self.client,
            self._watcher,
            path=self.path,
            root=self.directory,
            stream=STREAM,
            origin=ORIGIN,
            state=self._state,
            masking=self._masking,
        )
        self._task = asyncio.get_running_loop().create_task(self.follower.run())

    async def kill(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.follower.close()

    async def stored(self) -> list[str]:
        return [line.text for line in (await self.client.query(Query(stream=STREAM, limit=10_000))).lines]

    async def all(self) -> list[str]:
        """What is stored once nothing writes any more."""
        assert self._task is not None
        self.follower.finish()
        async with asyncio.timeout(60):
            await self._task
        return await self.stored()

    def write(self, *lines: str, path: Path | None = None) -> None:
        with (path or self.path).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        self._watcher.close()


@pytest.fixture
async def follow(client: LogClient, tmp_path: Path) -> AsyncIterator[Follow]:
    follow = Follow(client, tmp_path)
    yield follow
    await follow.kill()
    follow.close()


def holds(follow: Follow, count: int) -> Callable[[], Awaitable[bool]]:
    async def enough() -> bool:
        return len(await follow.stored()) >= count

    return enough


async def test_rename_and_create(follow: Follow) -> None:
    follow.start()
    wanted = []
    for round_ in range(12):
        lines = [f"round {round_} line {n}" for n in range(random.randrange(1, 80))]
        follow.write(*lines)
        wanted += lines
        for number in range(12, 0, -1):
            older = follow.directory / f"app.log.{number}"
            if older.exists():
                older.rename(follow.directory / f"app.log.{number + 1}")
        follow.path.rename(follow.directory / "app.log.1")
        await asyncio.sleep(random.choice([0, 0.002, 0.05]))
    assert sorted(await follow.all()) == sorted(wanted)


async def test_copy_and_truncate(follow: Follow, until: Until) -> None:
    follow.start()
    wanted = []
    for round_ in range(8):
        before = [f"round {round_} line {n}" for n in range(30)]
        follow.write(*before)
        wanted += before
        if round_ % 2:
            await until(holds(follow, len(wanted) - 10))
        # What comes between the last look and the truncation is in the copy.
        late = [f"round {round_} late {n}" for n in range(200)]
        follow.write(*late)
        wanted += late
        shutil.copyfile(follow.path, follow.directory / f"app.log.{round_}")
        os.truncate(follow.path, 0)
    assert sorted(await follow.all()) == sorted(wanted)


async def test_truncate(follow: Follow, until: Until) -> None:
    follow.start()
    wanted = []
    with follow.path.open("ab", buffering=0) as appending:
        for round_ in range(6):
            for n in range(20):
                appending.write(f"round {round_} line {n}\n".encode())
                wanted.append(f"round {round_} line {n}")
            await until(holds(follow, len(wanted)))
            os.truncate(follow.path, 0)
    assert await follow.all() == wanted


async def test_truncated_under_a_writer_that_keeps_its_place(follow: Follow, until: Until) -> None:
    follow.start()
    with follow.path.open("wb", buffering=0) as file:
        file.write(b"one\ntwo\n")
        await until(holds(follow, 2))
        os.truncate(follow.path, 0)
        file.write(b"three\n")
        await until(holds(follow, 3))
    assert await follow.all() == ["one", "two", "three"]


async def test_reopen_by_signal(follow: Follow) -> None:
    follow.start()
    process = await started(follow.path, "a", 1_000)
    assert process.stdout is not None and process.stdin is not None
    for round_ in range(20):
        await process.stdout.readline()
        if round_ % 5 == 1:
            # It writes on into the old file until it is told.
            follow.path.rename(follow.directory / f"app.log.{round_}")
        if round_ % 5 == 3:
            process.send_signal(signal.SIGHUP)
        process.stdin.write(b"\n")
    assert await process.wait() == 0
    assert sorted(await follow.all()) == sorted(f"a {n}" for n in range(1_000))


async def test_disk_buffer_across_restarts(follow: Follow, until: Until) -> None:
    wanted = []
    for round_ in range(10):
        follow.start()
        lines = [f"round {round_} line {n}" for n in range(300)]
        follow.write(*lines[:100])
        if round_ % 3:
            await until(holds(follow, len(wanted) + 50))
        await follow.kill()
        follow.write(*lines[100:200])
        if round_ % 2:
            follow.path.rename(follow.directory / f"app.log.{round_}")
        follow.write(*lines[200:])
        if round_ == 4:
            shutil.copyfile(follow.path, follow.directory / "app.log.copy")
            os.truncate(follow.path, 0)
        wanted += lines
    follow.start()
    assert sorted(await follow.all()) == sorted(wanted)


async def test_partial_lines(follow: Follow, until: Until) -> None:
    follow.start()
    long = "x" * 40_000
    with follow.path.open("ab", buffering=0) as file:
        file.write(b"one\ntw")
        await until(holds(follow, 1))
        await follow.kill()
        follow.start()
        file.write(b"o\nthr")
        await until(holds(follow, 2))
        follow.path.rename(follow.directory / "app.log.1")
        file.write(b"ee\n" + long.encode())
    follow.write("", "four")
    lines = await follow.all()
    assert lines[:3] == ["one", "two", "three"]
    assert "".join(line for line in lines if line.startswith("x")) == long
    assert sorted(line for line in lines if not line.startswith("x")) == sorted(["one", "two", "three", "", "four"])


async def test_two_writers(follow: Follow) -> None:
    follow.start()
    writers = [await started(follow.path, name, 1_000) for name in ("a", "b")]
    for round_ in range(20):
        for place, process in enumerate(writers):
            assert process.stdout is not None and process.stdin is not None
            await process.stdout.readline()
            if round_ % 6 == 2 and place == 0:
                follow.path.rename(follow.directory / f"app.log.{round_}")
            if round_ % 6 == 2 + place:
                process.send_signal(signal.SIGHUP)
            process.stdin.write(b"\n")
    for process in writers:
        assert await process.wait() == 0
    lines = await follow.all()
    assert sorted(lines) == sorted(f"{name} {n}" for name in "ab" for n in range(1_000))


async def test_what_is_not_the_applications_own_is_not_read(follow: Follow, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    follow.path.symlink_to(tmp_path / "secret")
    follow.start()
    follow.write("mine", path=follow.directory / "app.log.1")
    assert await follow.all() == ["mine"]


async def started(path: Path, name: str, count: int) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    arguments = ("-c", WRITER, str(path), name, str(count))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    await process.stdout.readline()
    return process


async def test_a_secret_in_a_file_is_hidden_and_its_positions_are_the_files_own(
    client: LogClient, tmp_path: Path
) -> None:
    follow = Follow(client, tmp_path, Masking(("s3cr3t-value",)))
    follow.path.write_bytes(b"one s3cr3t-value\n" * 3)
    follow.start()
    while len(await follow.stored()) < 3:
        await asyncio.sleep(0.01)
    await follow.kill()
    with follow.path.open("ab") as file:
        file.write(b"two s3cr3t-value s3cr3t-value")
    follow.start()
    assert await follow.all() == ["one ••••"] * 3 + ["two •••• ••••"]
    assert not [path for path in tmp_path.rglob("*.seg") if b"s3cr3t-value" in path.read_bytes()]
