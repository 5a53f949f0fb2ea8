"""The cage of a build command: output, limits, another user, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.builder.model import BuildLimits
from actors.builder.sandbox import MAX_LINE_BYTES, LineSplitter, run_command
from actors.runtime.shim.masking import Masking
from tests.actors.builder.conftest import eventually, processes_with

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


async def run(
    *argv: str, cwd: Path, limits: BuildLimits | None = None, user: tuple[int, int] | None = None
) -> tuple[int, list[str]]:
    lines: list[str] = []

    async def sink(more: list[str]) -> None:
        lines.extend(more)

    async with asyncio.timeout(60):
        status = await run_command(argv, cwd=cwd, env=ENV, limits=limits or BuildLimits(), user=user, sink=sink)
    return status, lines


def test_lines_are_cut_at_newlines_and_at_the_longest() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\r\ntw") == ["one"]
    assert splitter.feed(b"o\n\n\xff\0") == ["two", ""]
    assert splitter.finish() == ["\ufffd\ufffd"]
    assert [len(line) for line in splitter.feed(b"x" * (2 * MAX_LINE_BYTES + 5))] == [MAX_LINE_BYTES] * 2
    assert splitter.finish() == ["x" * 5]


def test_a_secret_is_hidden_where_a_long_line_is_cut() -> None:
    splitter = LineSplitter(Masking(("s3cr3t-value",)))
    line = b"x" * (MAX_LINE_BYTES - 5) + b"s3cr3t-value" + b"y" * MAX_LINE_BYTES
    lines = [*splitter.feed(line[: MAX_LINE_BYTES + 2]), *splitter.feed(line[MAX_LINE_BYTES + 2 :]), *splitter.finish()]
    assert "".join(lines) == "x" * (MAX_LINE_BYTES - 5) + "••••" + "y" * MAX_LINE_BYTES


async def test_output_of_both_streams_and_the_status_come_back(tmp_path: Path) -> None:
    status, lines = await run("sh", "-c", "echo out; echo err >&2; printf last; exit 3", cwd=tmp_path)
    assert (status, lines) == (3, ["out", "err", "last"])


async def test_a_signal_and_a_missing_program_have_the_shells_status(tmp_path: Path) -> None:
    assert (await run("sh", "-c", "kill -9 $$", cwd=tmp_path))[0] == 128 + 9
    status, lines = await run("no-such-program", cwd=tmp_path)
    assert status == 127 and "no-such-program" in lines[0]


async def test_the_environment_is_only_what_was_given(tmp_path: Path) -> None:
    status, lines = await run("env", cwd=tmp_path)
    assert status == 0 and {line.split("=")[0] for line in lines} == {"PATH"}


async def test_no_privileges_can_be_gained_and_no_descriptor_is_passed_on(tmp_path: Path) -> None:
    _, lines = await run("sh", "-c", "grep NoNewPrivs /proc/self/status; ls /proc/self/fd", cwd=tmp_path)
    assert lines[0].split() == ["NoNewPrivs:", "1"]
    assert set(lines[1:]) <= {"0", "1", "2", "3"}


async def test_limits_hold(tmp_path: Path) -> None:
    limits = BuildLimits(file_bytes=1000, open_files=64, memory_bytes=64 * 1024 * 1024)
    status, _ = await run("dd", "if=/dev/zero", "of=big", "bs=1000", "count=2", cwd=tmp_path, limits=limits)
    assert status != 0 and (tmp_path / "big").stat().st_size <= 1000
    status, lines = await run("/usr/bin/env", "sh", "-c", "ulimit -n", cwd=tmp_path, limits=limits)
    assert lines == ["64"]
    status, lines = await run(sys.executable, "-S", "-c", "x = bytearray(10**9)", cwd=tmp_path, limits=limits)
    assert status == 1 and "MemoryError" in lines[-1]


async def test_what_a_command_leaves_in_the_background_is_ended(tmp_path: Path) -> None:
    mark = f"98765.{os.getpid()}"
    status, _ = await run("sh", "-c", f"setsid sleep {mark} & sleep 0.2", cwd=tmp_path)
    assert status == 0 and processes_with(mark) == []


async def test_cancelling_ends_the_whole_tree_daemons_included(tmp_path: Path) -> None:
    mark = f"98766.{os.getpid()}"
    script = f"(setsid sh -c 'setsid sleep {mark} & sleep {mark}' &) ; trap '' TERM; sleep {mark}"
    task = asyncio.create_task(run("sh", "-c", script, cwd=tmp_path))
    await eventually(lambda: len(processes_with(mark)) >= 4)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert processes_with(mark) == []


async def test_kill_9_of_the_builder_ends_its_commands(tmp_path: Path) -> None:
    mark = f"98767.{os.getpid()}"
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from actors.builder.model import BuildLimits\n"
        "from actors.builder.sandbox import run_command\n"
        "async def sink(lines): pass\n"
        f"argv = ['sh', '-c', 'setsid sleep {mark} & sleep {mark}']\n"
        "asyncio.run(run_command(argv, cwd=Path('/'), env={'PATH': '/usr/bin:/bin'}, limits=BuildLimits(), user=None,"
        " sink=sink))\n"
    )
    root = Path(__file__).resolve().parents[3]
    builder = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    try:

        def sleeping() -> list[int]:
            return [pid for pid in processes_with(mark) if pid != builder.pid]

        await eventually(lambda: len(sleeping()) >= 2)
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        await eventually(lambda: sleeping() == [])
    finally:
        builder.kill()


async def test_a_slow_reader_slows_the_command_and_loses_nothing(tmp_path: Path) -> None:
    seen = 0

    async def slow(lines: list[str]) -> None:
        nonlocal seen
        seen += len(lines)
        await asyncio.sleep(0.001)

    argv = ["sh", "-c", "seq 1 100000"]
    assert await run_command(argv, cwd=tmp_path, env=ENV, limits=BuildLimits(), user=None, sink=slow) == 0
    assert seen == 100_000


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to change the user")
class TestAsAnotherUser:
    USER = (70011, 70011)

    async def test_user_group_and_no_others(self, open_dir: Path) -> None:
        _, lines = await run("sh", "-c", "id -u; id -g; id -G", cwd=open_dir, user=self.USER)
        assert lines == ["70011", "70011", "70011"]

    async def test_the_platforms_files_are_out_of_reach(self, open_dir: Path) -> None:
        (open_dir / "token").write_text("secret")
        (open_dir / "token").chmod(0o600)
        status, lines = await run("cat", str(open_dir / "token"), cwd=open_dir, user=self.USER)
        assert status != 0 and "secret" not in "".join(lines)

    async def test_a_fork_bomb_stops_at_the_limit_and_is_gone(self, open_dir: Path) -> None:
        mark = f"98768.{os.getpid()}"
        script = "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(1000)"
        argv = ["/usr/bin/env", "python3", "-c", script, mark]
        status, lines = await run(*argv, cwd=open_dir, limits=BuildLimits(processes=20), user=self.USER)
        assert status != 0 and "BlockingIOError" in lines[-1], lines
        assert processes_with(mark) == []
