"""A peer's server process in a directory of its own, and where its program is found.

Knows nothing of what any server does.
"""

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

READY_SECONDS = 20.0
STOP_SECONDS = 10.0


def find_program(name: str, *, wheel: str) -> str | None:
    """The program's path: beside this interpreter, inside the wheel of that name, or on PATH; None if nowhere."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return str(beside)
    try:
        inside = [Path(str(file.locate())) for file in files(wheel) or () if file.name == name]
    except PackageNotFoundError:
        inside = []
    return str(inside[0]) if inside else shutil.which(name)


@asynccontextmanager
async def running(command: Callable[[Path, int], Sequence[str]]) -> AsyncIterator[int]:
    """Start `command(directory, port)`, wait until the port answers, and give the port; stopped afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rf-peer-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command(directory, port), stdout=log, stderr=log, cwd=directory)
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await _answers(port):
                    if process.poll() is not None:
                        raise RuntimeError(f"expected a server, found: {(directory / 'log').read_text()[-500:]}")
                    await asyncio.sleep(0.05)
            yield port
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, STOP_SECONDS)
            shutil.rmtree(directory, ignore_errors=True)


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True
