"""The platform's side of a shim: starts one, asks it over its socket, and hears when it is gone.

Knows the protocol of shim/wire.py and nothing of what an instance's states mean.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from actors.runtime.errors import StartFailed
from actors.runtime.shim import files

_SHIM = Path(__file__).parent / "shim" / "__main__.py"
_START_SECONDS = 30.0
_ANSWER_SECONDS = 5.0
_SHIM_ENVIRONMENT = ("PATH", "LANG", "RAYFOLD_FAILPOINTS")


async def spawn(directory: Path) -> None:
    """Start a shim for the instance in `directory`, detached; returns once it is ready. Raises StartFailed.

    The shim is no child of this process when this returns and has a session of its own: whoever ends this process and
    all its children (Ray does, with its workers) does not reach it.
    """
    environment = {name: os.environ[name] for name in _SHIM_ENVIRONMENT if name in os.environ}
    try:
        said = await asyncio.to_thread(_run, directory, environment)
    except subprocess.TimeoutExpired:
        raise StartFailed(f"{directory}: expected its shim within {_START_SECONDS} s; start it again") from None
    if said != files.READY:
        raise StartFailed(f"{directory}: its shim did not come up: {said.decode('utf-8', 'replace').strip()}")


def _run(directory: Path, environment: dict[str, str]) -> bytes:
    """What the shim's first process prints, until it has let go of its output.

    In a thread, not by asyncio: Ray runs actors on uvloop, whose subprocesses inherit the platform's open files, the
    other end of this very pipe among them; the shim would hold it open for as long as the instance lives.
    """
    return subprocess.run(
        [sys.executable, "-I", "-S", str(_SHIM), str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
        timeout=_START_SECONDS,
        check=False,
    ).stdout


async def ask(socket: Path, request: dict[str, object]) -> bool:
    """Send one request; False when no shim answers there. Raises StartFailed when the shim refuses it."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                answer = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    if not answer:
        return False
    said = msgspec.json.decode(answer, type=dict[str, object])
    if "error" in said:
        raise StartFailed(f"the shim at {socket} refused {request['op']!r}: {said['error']}")
    return True


async def until_gone(socket: Path) -> None:
    """Return when the shim has hung up: the instance is over, or the shim was killed."""
    try:
        reader, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return
    try:
        writer.write(b'{"op": "watch"}\n')
        while await reader.readline():
            pass
    except OSError:
        return
    finally:
        writer.close()
