"""Runs a build's commands caged by `launch.py`, and pumps their output line by line without blocking.

It promises that nothing a command started is left when `run_command` returns or is cancelled; it must not know
which languages or tools there are.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from actors.builder.model import BuildLimits
from actors.runtime.shim.masking import Masking
from actors.runtime.shim.segments import LINE_BYTES_MAX

_LAUNCHER = Path(__file__).with_name("launch.py")
_READ_BYTES = 64 * 1024
_STOP_SECONDS = 10.0
MAX_LINE_BYTES = LINE_BYTES_MAX
"""A longer line is cut into pieces of this size, so that output without newlines cannot fill memory."""

LineSink = Callable[[list[str]], Awaitable[None]]


class LineSplitter:
    """Cuts a byte stream into text lines, secrets hidden before a line is cut; bounded memory whatever comes in."""

    def __init__(self, masking: Masking | None = None) -> None:
        self._masking = masking or Masking(())
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """Lines completed by `chunk`, without their line ends; a carriage return alone does not end a line."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        lines = [piece for line in whole for piece in self._pieces(line)]
        if end := self._masking.end_of_piece(self._rest, 0):
            lines += self._pieces(self._rest[:end])
            self._rest = self._rest[end:]
        return lines

    def finish(self) -> list[str]:
        """The last line, if the stream ended without a newline."""
        rest, self._rest = self._rest, b""
        return self._pieces(rest) if rest else []

    def _pieces(self, line: bytes) -> list[str]:
        line = self._masking.hide(line)
        starts = range(0, max(len(line), 1), MAX_LINE_BYTES)
        return [self._text(line[start : start + MAX_LINE_BYTES]) for start in starts]

    @staticmethod
    def _text(line: bytes) -> str:
        return line.rstrip(b"\r").replace(b"\0", b"\xef\xbf\xbd").decode("utf-8", "replace")


def _threads_of(uid: int) -> int:
    """Threads of all processes of `uid` now; RLIMIT_NPROC counts those together with the build's."""
    threads = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                if entry.stat().st_uid == uid:
                    threads += len(os.listdir(f"/proc/{entry.name}/task"))  # noqa: PTH208 - names only
    return threads


def _rlimits(limits: BuildLimits, uid: int) -> dict[str, int]:
    """RLIMIT names and values. Memory bounds data, not address space: Node reserves far more than it uses."""
    return {
        "RLIMIT_DATA": limits.memory_bytes,
        "RLIMIT_NPROC": limits.processes + _threads_of(uid),
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_CORE": 0,
    }


async def run_command(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    limits: BuildLimits,
    user: tuple[int, int] | None,
    sink: LineSink,
    network: bool = True,
    masking: Masking | None = None,
    read_only: Sequence[Path] = (),
) -> int:
    """Run `argv` to its end and return its exit status (128 + n for signal n, 127 if it could not start).

    Without `network` it has a loopback of its own and nothing else; only a platform that is root can take it away.
    What lies in `read_only` it cannot write to: to another user that belongs to the platform, and where it runs as the
    platform's own it is mounted so, or the output says that it could not be.

    Output, both streams in the order written, `masking`'s texts hidden, goes to `sink` in lists; a slow sink slows the
    command. On cancellation every process the command started is killed before the cancellation goes on.
    """
    # The launcher runs as the platform: it gets an empty environment, so nothing in a build's can change it.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(_LAUNCHER)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        env={"LANG": "C.UTF-8"},
    )
    try:
        await _send_spec(
            process, argv, cwd=cwd, env=env, limits=limits, user=user, network=network, read_only=read_only
        )
        await _pump(process, sink, LineSplitter(masking))
        return await process.wait()
    finally:
        if process.returncode is None:
            stopping = asyncio.ensure_future(_stop(process))
            while not stopping.done():
                # A second cancellation must not leave the tree running: waiting for it is bounded.
                with suppress(asyncio.CancelledError):
                    await asyncio.shield(stopping)


async def _send_spec(
    process: asyncio.subprocess.Process,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    limits: BuildLimits,
    user: tuple[int, int] | None,
    network: bool,
    read_only: Sequence[Path],
) -> None:
    uid = user[0] if user else os.getuid()
    spec = {
        "parent": os.getpid(),
        "argv": list(argv),
        "env": dict(env),
        "cwd": str(cwd),
        "user": list(user) if user else None,
        "network": network or os.geteuid() != 0,
        "read_only": [str(path) for path in read_only] if user is None else [],
        "limits": await asyncio.to_thread(_rlimits, limits, uid),
    }
    assert process.stdin is not None  # noqa: S101 - asked for above
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(json.dumps(spec).encode())
        await process.stdin.drain()
        process.stdin.close()


async def _pump(process: asyncio.subprocess.Process, sink: LineSink, splitter: LineSplitter) -> None:
    assert process.stdout is not None  # noqa: S101 - asked for above
    while chunk := await process.stdout.read(_READ_BYTES):
        lines = splitter.feed(chunk)
        if lines:
            await sink(lines)
    if last := splitter.finish():
        await sink(last)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Tell the launcher to kill its tree; kill the launcher too if it does not manage in time."""

    async def drain() -> None:
        assert process.stdout is not None  # noqa: S101 - asked for above
        while await process.stdout.read(_READ_BYTES):
            pass
        await process.wait()

    with suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(drain(), _STOP_SECONDS)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
