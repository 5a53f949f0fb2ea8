"""Scans in threads, and regular expressions in worker processes that can be killed when one of them runs for ever.

Python's `re` holds the interpreter's lock while it matches and cannot be interrupted by another thread; a catastrophic
pattern would stop every stream. Knows how to run a scan, not what a query or a tail is.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Literal

import msgspec

from actors.logs.errors import BadQuery, LogError, QueryTooCostly, StorageFailed
from actors.logs.filter import LineFilter
from actors.logs.line import LogLine
from actors.logs.reader import Scan, backward, forward
from actors.logs.stream import StreamView

PIECE_SECONDS = 5
"""A worker dies when one piece (at most SCAN_BYTES stored bytes) takes longer than this."""
_START_SECONDS = 20.0
_END_SECONDS = 0.5
"""A worker that is not in the middle of a match ends by itself as soon as its input does."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One scan to be done: as the arguments of `reader.forward` and `reader.backward`."""

    direction: Literal["forward", "backward"]
    view: StreamView
    cursor: int
    limit: int
    filter: LineFilter

    def run(self) -> Scan:
        """Do it (blocking). Raises BadQuery."""
        scan = forward if self.direction == "forward" else backward
        return scan(self.view, self.cursor, limit=self.limit, flt=self.filter)


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    lines: list[LogLine] = []
    cursor: int = 0
    done: bool = False
    bad_query: str = ""


class Searcher:
    """Runs pieces. At most `workers` processes, started when first needed, kept until `aclose`."""

    def __init__(self, workers: int = 2) -> None:
        self._slots = asyncio.Semaphore(workers)
        self._idle: list[asyncio.subprocess.Process] = []

    async def run(self, piece: Piece) -> Scan:
        """The piece's lines. Raises BadQuery, QueryTooCostly, StorageFailed."""
        if piece.filter.is_regex():
            async with self._slots:
                return await self._in_worker(piece)
        try:
            return await asyncio.to_thread(piece.run)
        except OSError as error:
            raise StorageFailed(f"stream {piece.view.name}: cannot read: {error}") from error

    async def aclose(self) -> None:
        """End the workers."""
        while self._idle:
            await _end(self._idle.pop())

    async def _in_worker(self, piece: Piece) -> Scan:
        worker = self._idle.pop() if self._idle else await _start()
        try:
            async with asyncio.timeout(PIECE_SECONDS + _START_SECONDS):
                answer = await _ask(worker, piece)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            code = await _end(worker)
            if code not in (-signal.SIGALRM, -signal.SIGKILL):
                raise LogError(f"expected an answer of the search worker, found its end with code {code}") from error
            raise QueryTooCostly(
                f"the pattern {piece.filter.grep[:80]!r} ran for more than {PIECE_SECONDS} s on a piece of the stream;"
                " use a simpler one (no nested repetition), or plain text"
            ) from error
        except BaseException:
            # Cancelled in the middle of an exchange: what the worker says next belongs to nobody.
            await _end(worker)
            raise
        self._idle.append(worker)
        if answer.bad_query:
            raise BadQuery(answer.bad_query)
        return Scan(answer.lines, answer.cursor, answer.done)


async def _start() -> asyncio.subprocess.Process:
    # The worker must find this package whatever the working directory of an actor is.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "actors.logs.search",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )


async def _end(worker: asyncio.subprocess.Process) -> int:
    """End the worker; its exit code, negative for a signal."""
    if worker.stdin is not None:
        worker.stdin.close()
    try:
        async with asyncio.timeout(_END_SECONDS):
            return await worker.wait()
    except TimeoutError:
        worker.kill()
        return await worker.wait()


async def _ask(worker: asyncio.subprocess.Process, piece: Piece) -> _Answer:
    assert worker.stdin is not None and worker.stdout is not None  # noqa: S101 (both are pipes)
    data = msgspec.msgpack.encode(piece)
    worker.stdin.write(len(data).to_bytes(4, "big") + data)
    await worker.stdin.drain()
    size = int.from_bytes(await worker.stdout.readexactly(4), "big")
    return msgspec.msgpack.decode(await worker.stdout.readexactly(size), type=_Answer)


def _serve() -> None:
    """The worker: one piece after the other, until the server has gone."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(4):
        piece = msgspec.msgpack.decode(source.read(int.from_bytes(head, "big")), type=Piece)
        # The default action of SIGALRM ends the process even in the middle of a match, and though the server has died.
        signal.alarm(PIECE_SECONDS)
        try:
            scan = piece.run()
            answer = _Answer(lines=scan.lines, cursor=scan.cursor, done=scan.done)
        except BadQuery as error:
            answer = _Answer(bad_query=str(error))
        signal.alarm(0)
        data = msgspec.msgpack.encode(answer)
        sink.write(len(data).to_bytes(4, "big") + data)
        sink.flush()


if __name__ == "__main__":
    _serve()
